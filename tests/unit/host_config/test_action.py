"""The action, as a role uses it: on this computer, in a folder of its own, with stand-ins for its programs."""

from __future__ import annotations

import grp
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.unit.warm_ansible import plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.warm_ansible import WarmAnsible

SECRET = "hunter2"

PROGRAMS = {
    "ssh": 'for last; do :; done\nexec sh -c "$last"\n',
    "dpkg-query": 'for name; do case $name in --*|*{*) ;; *) echo "$name installed" ;; esac; done\n',
    "systemctl": (
        'echo "$@" >>"$CALLS"\n[ "$1" != show ] && exit\n'
        "echo Names=a.service\necho LoadState=loaded\necho ActiveState=active\necho UnitFileState=enabled\n"
        "echo MainPID=0\necho NeedDaemonReload=no\n"
        'echo "StateChangeTimestamp=$(cat "$CALLS.since" 2>/dev/null)"\n'
    ),
}

TASKS = """
- name: Configure
  host_config:
    packages: [redis-server]
    files:
      - {path: "{{ folder }}", state: directory}
      - {path: "{{ folder }}/plain", template: plain.j2, vars: {item: 1}, since: [a.service], notify: Reload plain,
         pending: [cat, "{{ folder }}.waits"]}
      - {path: "{{ folder }}/secret", content: "{{ secret }}\\n", mode: "0600", secret: true, notify: [Reload secret]}
      - {path: "{{ folder }}/given", source: given}
      - {path: "{{ folder }}/left-out", content: x, when: false}
    units:
      - {name: a.service, restart_on: ["{{ folder }}/plain"]}
  register: answer
- name: Show the answer
  debug:
    msg: "ANSWER {{ [answer.changed, answer.changed_files, answer.restarted] | to_json }}"
"""

TEMPLATE = """\
{{ ansible_managed | comment }}
{% if text %}
{{ text }} {{ item }}
{% endif %}
"""

HANDLERS = """
- name: Reload plain
  debug:
    msg: RELOADED plain
- name: Reload secret
  debug:
    msg: RELOADED secret
"""


class Host:
    """A folder with a role and what its host would have."""

    def __init__(self, root: Path, path: Path, warm: WarmAnsible) -> None:
        self.root, self.path, self.warm = root, path, warm
        self.folder = path / "host"
        role = path / "roles" / "one"
        files = {
            role / "tasks/main.yml": TASKS,
            role / "handlers/main.yml": HANDLERS,
            role / "templates/plain.j2": TEMPLATE,
            role / "files/given": "given {{ not rendered }}\n",
            path / "play.yml": yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": ["one"]}]),
            path / "hosts.yml": yaml.safe_dump({"all": {"hosts": {"one": {"ansible_connection": "ssh"}}}}),
        }
        for name, text in PROGRAMS.items():
            files[path / "bin" / name] = f"#!/bin/sh\n{text}"
        for file, text in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755)

    def play(self, *arguments: str, check: bool = True, **values: Any) -> str:
        environment = plain(os.environ)
        environment.update(
            ANSIBLE_CONFIG=str(self.root / "ansible.cfg"),
            ANSIBLE_HOME=str(self.path / "ansible"),
            ANSIBLE_REMOTE_TEMP=str(self.path / "remote"),
            ANSIBLE_SSH_EXECUTABLE=str(self.path / "bin/ssh"),
            ANSIBLE_NOCOLOR="1",
            CALLS=str(self.path / "calls"),
            PATH=f"{self.path}/bin:{environment['PATH']}",
        )
        extra = json.dumps({"folder": str(self.folder), "secret": SECRET, "text": "old", **values})
        done = self.warm.run(
            ["-i", str(self.path / "hosts.yml"), str(self.path / "play.yml"), "-e", extra, *arguments],
            self.root,
            environment,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def answer(self, output: str) -> tuple[bool, list[str], list[str]]:
        # Folded at its spaces.
        shown = " ".join(output[output.index("ANSWER ") + len("ANSWER ") :].split())
        changed, files, restarted = json.JSONDecoder().raw_decode(shown)[0]
        return changed, [path.removeprefix(f"{self.folder}") for path in files], restarted

    def calls(self) -> list[str]:
        path = self.path / "calls"
        found = [line for line in path.read_text().splitlines() if not line.startswith("show ")]
        path.unlink()
        return found


@pytest.fixture
def host(root: Path, tmp_path: Path, warm_ansible: WarmAnsible) -> Host:
    if os.geteuid() != 0:
        pytest.skip("files of a host belong to root")
    return Host(root, tmp_path, warm_ansible)


def test_a_role_on_a_host_from_its_first_run_to_a_changed_value(host: Host) -> None:
    every = ["", "/plain", "/secret", "/given"]
    dry = host.play("--check", "--diff")
    assert host.answer(dry) == (True, every, ["a.service"])
    assert "+old 1" in dry
    assert not host.folder.exists()
    assert host.calls() == []

    # As loud as it gets: what a module answers over ssh is shown then.
    first = host.play("--diff", "-vvv")
    assert host.answer(first) == (True, every, ["a.service"])
    assert SECRET not in first
    assert "RELOADED plain" in first
    assert "RELOADED secret" in first
    assert host.calls() == ["restart a.service"]
    assert (host.folder / "plain").read_text() == "#\n# Ansible managed\n#\nold 1\n"
    assert (host.folder / "secret").read_text() == f"{SECRET}\n"
    assert (host.folder / "given").read_text() == "given {{ not rendered }}\n"

    again = host.play()
    assert host.answer(again) == (False, [], [])
    assert "RELOADED" not in again
    assert host.calls() == []

    changed = host.play("--diff", text="new")
    assert host.answer(changed) == (True, ["/plain"], ["a.service"])
    assert "-old 1" in changed
    assert "+new 1" in changed
    assert "RELOADED plain" in changed
    assert "RELOADED secret" not in changed
    assert host.calls() == ["restart a.service"]


def test_handlers_that_a_broken_run_left_out_are_made_up_for(host: Host) -> None:
    host.play()
    host.calls()
    for moment, told in (("2001-01-01 00:00:00", True), ("2031-01-01 00:00:00", False)):
        (host.path / "calls.since").write_text(f"Mon {moment} UTC\n")
        for arguments in (["--check"], []):
            again = host.play(*arguments)
            # The unit is restarted by the file as well (restart_on).
            assert host.answer(again) == (told, [], ["a.service"] * told)
            assert ("RELOADED plain" in again) is told
            assert "RELOADED secret" not in again
        assert host.calls() == ["restart a.service"] * told


def test_what_a_service_was_told_and_has_not_taken_over_is_told_again(host: Host) -> None:
    """A run was broken off between the reload and the restart that it takes: nothing is younger than the service."""
    host.play()
    host.calls()
    waits = host.folder.with_name("host.waits")
    waits.write_text("max_connections\n")
    for arguments in (["--check", "--diff"], []):
        again = host.play(*arguments)
        assert host.answer(again) == (True, [], [])
        assert ("+max_connections: waits" in again) is bool(arguments)
        assert "RELOADED plain" in again
        assert "RELOADED secret" not in again
    waits.write_text("\n")
    assert host.answer(host.play()) == (False, [], [])
    assert host.calls() == []


def test_a_module_that_fails_shows_no_secret_either(host: Host) -> None:
    host.folder.mkdir()
    (host.folder / "given").mkdir()
    failed = host.play("--diff", "-vvv", check=False)
    assert "given is a folder, and a file is wanted there" in failed
    assert SECRET not in failed
    assert not (host.folder / "plain").exists(), "none is written where one cannot be"


def test_an_account_is_made_before_the_files_and_only_where_it_is_missing(host: Host) -> None:
    made = "shadow"  # every Debian has that group and no such account: Ansible wants to see the group itself
    number = grp.getgrnam(made).gr_gid
    tasks = (
        "- host_config:\n    accounts: [{name: %s, uid: 4711, gid: %d, home: /nowhere, comment: Of a test}]\n"
        "    files: [{path: '{{ folder }}', state: directory}]\n"
    )
    (host.path / "roles/one/tasks/main.yml").write_text(tasks % (made, number))
    useradd = host.path / "bin/useradd"
    useradd.write_text(f'#!/bin/sh\n[ ! -e {host.folder} ] && echo "$@" >>"$CALLS"\n')
    useradd.chmod(0o755)
    dry = host.play("--check", "--diff")
    assert f"+make {made}" in dry
    assert not (host.path / "calls").exists()
    assert not host.folder.exists()

    host.play()
    (account,) = host.calls()
    for option in ("-u 4711", "-g shadow", "-d /nowhere", "-s /usr/sbin/nologin", "-M", "-c Of a test"):
        assert option in account
    assert host.folder.exists()

    (host.path / "roles/one/tasks/main.yml").write_text("- host_config: {accounts: [{name: daemon, shell: ''}]}\n")
    assert "changed=0" in host.play()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ("[{path: /tmp/x, contents: a}]", "Unsupported parameters"),
        ("[{content: a}]", "missing required arguments: path"),
        ("[{path: /tmp/x, mode: 420}]", "mode of /tmp/x is no text"),
        ("[{path: /tmp/x, state: there}]", "value of state must be one of"),
        ("[{path: /tmp/x, source: nowhere}]", "nowhere"),
    ],
)
def test_wrong_words_are_refused_before_the_host_is_asked(host: Host, files: str, reason: str) -> None:
    (host.path / "roles/one/tasks/main.yml").write_text(f"- host_config:\n    files: {files}\n")
    failed = host.play(check=False)
    assert reason in " ".join(failed.split())
    assert not (host.path / "calls").exists()
