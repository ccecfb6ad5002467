"""What group_vars/all derives from whole inventories, host by host, compared with what it has always been.

``tests/derived/NAME.yml`` are inventories, ``NAME.json`` beside them what follows. Where a change of these values is
meant, write them anew: ``DERIVED_WRITE=1 pytest tests/unit/test_derived_values.py``, and read the difference.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils.platform_catalogue import derived_variables

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

INVENTORIES = Path(__file__).resolve().parents[1] / "derived"
#: Values that a role, the vault or the site's authority gives.
ELSEWHERE = re.compile(
    r"\bsecret_|_fingerprint\b|\blookup\('(certificates|tunnel', '(private_key|peers))|_tls_(certificate|key)\b"
)
PROBE = """---
- name: Look at what is derived
  hosts: all
  gather_facts: false
  vars: {ansible_connection: local}
  tasks:
    - name: Write it down
      ansible.builtin.copy:
        content: "{{ dict(NAMES | zip(query('ansible.builtin.vars', *NAMES))) | to_json }}"
        dest: "FOLDER/{{ inventory_hostname }}.json"
        mode: "0600"
"""


def compared(by_host: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return values by their names; by host too where hosts differ."""
    found: dict[str, Any] = {}
    for name in sorted(next(iter(by_host.values()))):
        values = {host: known[name] for host, known in sorted(by_host.items())}
        different = any(value != next(iter(values.values())) for value in values.values())
        found[name] = values if different else next(iter(values.values()))
    return found


@pytest.mark.parametrize("case", sorted(path.stem for path in INVENTORIES.glob("*.yml")))
def test_values_of_a_whole_inventory(
    case: str, root: Path, tmp_path: Path, run_playbook: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    _, expressions = derived_variables(root)
    names = sorted(name for name, value in expressions.items() if not ELSEWHERE.search(f"{name} {value}"))
    probe = tmp_path / "plays" / "probe.yml"
    probe.parent.mkdir()
    (probe.parent / "group_vars").symlink_to(root / "group_vars")
    probe.write_text(PROBE.replace("FOLDER", str(tmp_path)).replace("NAMES", json.dumps(names).replace('"', "'")))
    result = run_playbook(INVENTORIES / f"{case}.yml", str(probe))
    assert result.returncode == 0, result.stdout
    found = compared({path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")})
    expected = INVENTORIES / f"{case}.json"
    if os.environ.get("DERIVED_WRITE"):
        expected.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    wanted = json.loads(expected.read_text())
    assert {name: value for name, value in found.items() if wanted.get(name) != value} == {}
    assert found.keys() == wanted.keys()
