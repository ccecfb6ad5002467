"""Where runs of playbooks are broken off: drawn from a run that was not."""

from __future__ import annotations

import signal

from breaking import stages, tasks

OUTPUT = """
PLAY [Refuse what is wrong, before any host is contacted] ***
TASK [Check groups, hosts, variables and limit] ***
ok: [localhost]
PLAY [Deploy] ***
TASK [postgresql : Install and configure PostgreSQL] ***
changed: [front]
RUNNING HANDLER [postgresql : Reload PostgreSQL] ***
changed: [front]
TASK [Say it] ***
ok: [front] =>
  msg: 'changed: [nobody]'
TASK [Skipped] ***
skipping: [front]
TASK [Say it] ***
ok: [front]
TASK [Ask the workers] ***
ok: [front -> other]
PLAY RECAP ***
front : ok=5 changed=2
"""
FOUND = ["Install and configure PostgreSQL", "Reload PostgreSQL", "Ask the workers"]


def test_tasks_and_handlers_are_read_in_their_order() -> None:
    names = [name for name, _ in tasks(OUTPUT)]
    assert names == ["Check groups, hosts, variables and limit", *FOUND[:2], "Say it", "Skipped", "Say it", FOUND[2]]
    assert [said for _, said in tasks(OUTPUT)][1:5] == [{"changed"}, {"changed"}, {"ok"}, {"skipping"}]


def test_stages_are_spread_over_what_a_run_does_once() -> None:
    interrupt, kill = signal.SIGINT, signal.SIGKILL
    assert stages(OUTPUT, 9) == list(zip(FOUND, (interrupt, kill, interrupt), strict=True))
    assert stages(OUTPUT, 2) == [(FOUND[0], interrupt), (FOUND[2], kill)]
    assert stages(OUTPUT, 1) == [(FOUND[0], interrupt)]


def test_a_run_that_changes_nothing_has_no_stages() -> None:
    assert stages(OUTPUT.replace("changed:", "ok:"), 5) == []
