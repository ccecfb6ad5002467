"""Compute host by compute host is cut out, and another one takes the next job.

    PLATFORM_INVENTORY=molecule/acceptance/inventory PLATFORM_ANSIBLE=.venv/bin (and what test_platform.py needs)

The platform's interface does not tell which host ran a job, so the journals of the workers are asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from client import Client, Samples, step

NEEDED = ("PLATFORM_INVENTORY", "PLATFORM_ANSIBLE")
pytestmark = pytest.mark.skipif(
    not all(os.environ.get(name) for name in NEEDED), reason=f"{', '.join(NEEDED)} do not name a platform"
)

#: Seconds that a page may take.
PAGE_SECONDS = 900.0
#: Celery's line for a job that a worker has taken.
TAKEN = "Task core.tasks.segment["


def run(program: str, *arguments: str) -> str:
    """Run one of Ansible's programs on the platform's inventory and return what it prints."""
    command = [str(Path(os.environ["PLATFORM_ANSIBLE"]) / program), "--inventory", os.environ["PLATFORM_INVENTORY"]]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compute_hosts() -> list[str]:
    """Return the names of the compute hosts."""
    inventory = json.loads(run("ansible-inventory", "--list"))
    hosts: list[str] = sorted(inventory["compute"]["hosts"])
    return hosts


def on(host: str, command: str) -> str:
    """Run a command on a host."""
    return run("ansible", host, "--become", "--module-name", "ansible.builtin.shell", "--args", command)


def taken(host: str, since: float) -> int:
    """Return how many segmentations a host's workers have taken since a moment (seconds since 1970)."""
    journal = on(host, f"journalctl --no-pager --since=@{int(since)} --unit='escriptorium-worker@*'")
    return sum(TAKEN in line and line.endswith(" received") for line in journal.splitlines())


@pytest.mark.parametrize("position", [0, 1])
def test_another_host_takes_the_next_job(client: Client, samples: Samples, position: int) -> None:
    hosts = compute_hosts()
    resting = hosts[position]
    others = [host for host in hosts if host != resting]
    project = client.create_project(f"without {resting} {time.strftime('%H%M%S')}")
    document = client.create_document(f"without {resting}", project["slug"])
    part = client.upload_page(document["pk"], samples.image)
    with step(f"stop the workers of {resting}"):
        on(resting, "systemctl stop 'escriptorium-worker@*'")
    try:
        since = time.time()
        with step("segment a page"):
            content = {"parts": [part["pk"]], "steps": "both", "override": True}
            client.post(f"documents/{document['pk']}/segment/", content)
            client.wait_for_tasks(document["pk"], "core.tasks.segment", seconds=PAGE_SECONDS)
        counts = {host: taken(host, since) for host in hosts}
        print(f"            taken by {counts}")
        assert counts[resting] == 0
        assert sum(counts[host] for host in others) == 1
    finally:
        with step(f"start the workers of {resting}"):
            units = "default live low-priority gpu"
            on(resting, f"for queue in {units}; do systemctl start escriptorium-worker@$queue; done")
            run("ansible-playbook", "playbooks/check-cluster.yml")
