"""A reboot into a new driver: where jobs do not end in time, the workers that have ended start again."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path

SYSTEMCTL = """#!/bin/sh
case $1 in
  stop) exec sleep 30 ;;
  list-unit-files) echo "w@a.service enabled enabled"; echo "w@b.service enabled enabled" ;;
  *) echo "$@" >>"$CALLS" ;;
esac
"""


def test_workers_go_on_where_jobs_do_not_end_in_time(root: Path, tmp_path: Path, ansible_playbook: str) -> None:
    tasks = yaml.safe_load((root / "roles/nvidia_driver/tasks/reboot.yml").read_text())
    tasks[0]["block"][0]["poll"] = 1
    values = {"nvidia_driver_drain_units": ["w@*.service"], "nvidia_driver_drain_timeout": 2}
    play = {"hosts": "localhost", "gather_facts": False, "connection": "local", "vars": values, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment |= {f"ANSIBLE_{name}": str(tmp_path / name) for name in ("HOME", "REMOTE_TEMP", "ASYNC_DIR")}
    environment |= {"CALLS": str(tmp_path / "calls"), "PATH": f"{tmp_path}:{environment['PATH']}"}
    environment |= {"ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(
        [ansible_playbook, "-i", "localhost,", str(tmp_path / "play.yml")],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    shown = " ".join(done.stdout.split())
    assert done.returncode == 2, shown
    assert "Jobs have not ended within 2 s" in shown
    assert "TASK [Reboot]" not in shown
    assert (tmp_path / "calls").read_text() == "start --no-block w@a.service w@b.service\n"
