"""Lookup `tunnel`: in which NFS crosses the private network encrypted, for group_vars/all.

    lookup('tunnel', 'addresses', PRIVATE_NETWORK, NETWORK)    address in the tunnel of each host that is in it
    lookup('tunnel', 'private_key', HOST)                      its key, from the site's file
    lookup('tunnel', 'peers', HOST, ADDRESSES, PORT)           with whom it speaks there, as the role wireguard takes it

Decided in module_utils/platform_tunnel.py, as for the check of the inventory. A missing file of keys ends the run; in
check mode a site without one is shown what would be written, but for the keys.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

try:
    from ansible.module_utils import platform_files, platform_read, platform_tunnel
    from ansible.module_utils import platform_tunnel_keys as keys
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_files, platform_read, platform_tunnel
    from ansible.module_utils import platform_tunnel_keys as keys

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class LookupModule(LookupBase):  # type: ignore[misc]
    """Takes a question, and the words that it needs."""

    def run(self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **_: Any) -> list[Any]:
        """Return one answer; a question that is none, or a key that cannot be made, is an error."""
        known = variables or {}
        site = platform_read.site(known, self._loader)
        private = site.of_all("private_address", site.topology.members, known.get("hostvars", {}))
        try:
            match list(terms):
                case ["addresses", private_network, network]:
                    found = platform_tunnel.addresses(site.topology, private, str(private_network), str(network))
                    return [dict(found)]
                case ["private_key", host]:
                    return [self._keys(known, keys.private_key)(str(host))]
                case ["peers", host, inside, port]:
                    endpoint = f"{private[site.topology.storage[0]]}:{int(port)}"
                    public = self._keys(known, keys.public_key)
                    return [platform_tunnel.peers(site.topology, str(host), inside, endpoint, public)]
        except platform_files.MissingFileError as error:
            raise AnsibleLookupError(str(error)) from error
        except KeyError as error:
            raise AnsibleLookupError(f"tunnel: the inventory has no private_address of {error}") from error
        except (ValueError, keys.TunnelKeyError) as error:
            raise AnsibleLookupError(f"tunnel: {error}") from error
        raise AnsibleLookupError(f"tunnel: there is no such question: {' '.join(map(str, terms))}")

    def _keys(self, known: Mapping[str, Any], make: Callable[[str, str], str]) -> Callable[[str], str]:
        """Return what makes a key of a host; the site's file, which may be encrypted, is read once."""
        content = platform_files.site_file(keys.FILE, known, self._loader)
        return lambda host: platform_files.IN_A_DRY_RUN if content is None else make(content, host)
