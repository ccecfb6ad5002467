"""Check that Ansible takes every line of ansible.cfg.

Ansible ignores a section or a key that it does not know, without a word: `[ssh-connection]` for `[ssh_connection]`
turns pipelining off. So each key of the file is looked for among the settings that Ansible says it took from that file.
"""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def written(path: Path) -> set[tuple[str, str]]:
    """Section and key of each line of a configuration file."""
    parser = configparser.ConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(path.read_text())
    return {(section, key) for section in parser.sections() for key in parser[section]}


def known() -> dict[tuple[str, str], list[str]]:
    """By section and key: the settings of Ansible and of its plugins that are read from there."""
    listed = subprocess.run(
        ["ansible-config", "list", "--type", "all", "--format", "json"], check=True, capture_output=True, text=True
    )
    found: dict[tuple[str, str], list[str]] = {}

    def collect(node: Any, name: str) -> None:
        if isinstance(node, list):
            for item in node:
                collect(item, name)
        elif isinstance(node, dict):
            places = node.get("ini")
            # A plugin may itself be called `ini`.
            for place in places if isinstance(places, list) else []:
                found.setdefault((place["section"], place["key"]), []).append(name)
            for key, value in node.items():
                collect(value, key)

    collect(json.loads(listed.stdout), "")
    return found


def taken(path: Path) -> set[str]:
    """Names of the settings that Ansible says it took from the file."""
    dumped = subprocess.run(
        ["ansible-config", "dump", "--only-changed", "--type", "all", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
        cwd=path.parent,
    )
    names: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                collect(item)
        elif isinstance(node, dict):
            if "name" in node and node.get("origin") == str(path):
                names.add(node["name"])
            for value in node.values():
                collect(value)

    collect(json.loads(dumped.stdout))
    return names


def main() -> int:
    """Name the lines that nobody reads; answers the exit status."""
    path = REPOSITORY / "ansible.cfg"
    names, effective = known(), taken(path)
    ignored = [
        f"[{section}] {key}"
        for section, key in sorted(written(path))
        if not effective.intersection(names.get((section, key), []))
    ]
    for line in ignored:
        print(f"{path.name}: Ansible does not take {line}", file=sys.stderr)
    return 1 if ignored else 0


if __name__ == "__main__":
    sys.exit(main())
