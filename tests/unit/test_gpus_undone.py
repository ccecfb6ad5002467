"""A host whose last card has left the inventory keeps nothing of it: what roles put there is taken away by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pathlib import Path


def written(root: Path, role: str) -> set[str]:
    """Paths that the tasks of a role write below /etc."""
    found: set[str] = set()
    for path in (root / "roles" / role / "tasks").glob("*.yml"):
        for task in yaml.safe_load(path.read_text()):
            modules = (task.get(f"ansible.builtin.{name}", {}) for name in ("copy", "template"))
            found |= {str(module["dest"]) for module in modules if str(module.get("dest", "")).startswith("/etc/")}
    return found


def test_all_that_a_boot_would_do_is_taken_away(root: Path) -> None:
    plays: list[dict[str, Any]] = yaml.safe_load((root / "playbooks/deploy-gpus.yml").read_text())
    (undone,) = [task["host_config"] for play in plays for task in play.get("tasks", ()) if "host_config" in task]
    gone = {file["path"] for file in undone["files"]} | {
        f"/etc/systemd/system/{unit['name']}" for unit in undone["units"]
    }
    assert {entry["state"] for entry in undone["files"] + undone["units"]} == {"absent"}
    assert written(root, "gpu_partition") | written(root, "nvidia_mps") == gone
