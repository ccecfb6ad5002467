"""What processes of the application read from their environment: which variable stands in which file, and how.

One file is for every process; one for web processes only, whose key signs sessions, and one for those that send mail.
No Ansible import.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Says on a host who wrote the file.
HEAD: Final = "#\n# Ansible managed\n#\n"


def text(values: Mapping[str, Any]) -> str:
    """Return a file for systemd's EnvironmentFile= (systemd.exec(5)): each value quoted, in the order of the names."""
    lines = (f"{name}={json.dumps(str(values[name]), ensure_ascii=False)}\n" for name in sorted(values, key=str.lower))
    return HEAD + "".join(lines)


def files(
    everybody: Mapping[str, Any], web: Mapping[str, Any], mail: Mapping[str, Any], site: Mapping[str, Any]
) -> dict[str, str]:
    """Return the texts of the files ``everybody``, ``web`` and ``mail``.

    Variables of the site are added to those of everybody or override them; what only web processes have, or those that
    send mail, stays with these.
    """
    own = {name: value for name, value in site.items() if name not in {*web, *mail}}
    return {
        "everybody": text({**everybody, **own}),
        "web": text({**web, **{name: site[name] for name in web if name in site}}),
        "mail": text({**mail, **{name: site[name] for name in mail if name in site}}),
    }
