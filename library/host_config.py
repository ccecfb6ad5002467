#!/usr/bin/python
"""Module `host_config`: the files and units of a role in one look at the host; changes only what differs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.host_config import accounts, files, units

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENTATION = r"""
module: host_config
short_description: Files and units of a role, in one look at the host
description:
  - Compares all files, folders and links that a role wants, with owner, group and mode, writes only those that differ,
    and enables, starts, restarts, stops and removes the units that need it, and no other.
  - Called through the action of the same name, which renders the templates, installs packages that RV(missing_packages)
    names, and notifies the handlers of what has changed.
options:
  packages:
    description: Debian packages. Where one is missing nothing else is looked at.
    type: list
    elements: str
    default: []
  accounts:
    description:
      - C(name), C(uid), C(gid), C(home), C(shell), C(comment). Where one is missing or otherwise nothing else is looked
        at.
    type: list
    elements: dict
    default: []
  go_on:
    description: Goes on though packages or accounts are missing, as a dry run on a bare host has to.
    type: bool
    default: false
  look_for:
    description: Paths that are only looked for; RV(found) names those that are there before anything is changed.
    type: list
    elements: str
    default: []
  files:
    description:
      - C(path), C(state) (file, directory, link, absent, line, without, block, made), C(content), C(replaces),
        C(command), C(valid), C(target), C(owner), C(group), C(mode), C(secret), C(validate), C(once), C(existing),
        C(since), C(pending). A folder comes before its files. Where one cannot be what it is meant to be, no file is
        changed. No link is followed that an account other than root may have made.
    type: list
    elements: dict
    default: []
  units:
    description:
      - C(name), C(state) (started, stopped, enabled, described, absent), C(content), C(restart) (yes, no, handler),
        C(restart_on), C(reload_on), C(environment), C(wait), C(unless).
    type: list
    elements: dict
    default: []
  strays:
    description:
      - Units that are removed where C(units) does not name them. C(pattern) of their files, C(contains) a text that
        only files of this role have, C(wait).
    type: list
    elements: dict
    default: []
"""

RETURN = r"""
changed_files:
  description: Paths that were changed or removed.
  type: list
  returned: success
found:
  description: Paths of O(look_for) that are there.
  type: list
  returned: success
unapplied:
  description: Paths whose handlers a run that was broken off has not run, or not to their end (C(since), C(pending)).
  type: list
  returned: success
missing_packages:
  description: Packages that the host lacks; nothing else was looked at then.
  type: list
  returned: success
missing_accounts:
  description: Names of accounts that are missing or otherwise; nothing else was looked at then.
  type: list
  returned: success
started, restarted, reloaded, stopped, removed, handled:
  description: Names of units. C(handled) run from something older, and are left to handlers.
  type: list
  returned: success
"""

STATES = ("started", "stopped", "enabled", "described", "absent")


def missing_packages(module: AnsibleModule, names: list[str]) -> list[str]:
    """Return the packages that are not installed."""
    if not names:
        return []
    question = ["dpkg-query", "--show", "--showformat", "${binary:Package} ${db:Status-Status}\n", *names]
    _, output, _ = module.run_command(question, environ_update={"LC_ALL": "C.UTF-8"})
    known = {line.split(" ")[0].partition(":")[0] for line in output.splitlines() if line.endswith(" installed")}
    return [name for name in names if name.partition(":")[0] not in known]


def wanted_units(module: AnsibleModule) -> list[units.WantedUnit]:
    """Return the units as they are wanted, those that are to go at the end."""
    wanted = []
    for entry in module.params["units"]:
        values = {key: value for key, value in entry.items() if key != "content"}
        for key in ("restart_on", "reload_on"):
            values[key] = tuple(values.get(key, ()))
        values["environment"] = {name: str(value) for name, value in values.get("environment", {}).items()}
        wanted.append(units.WantedUnit(**values))
        if not units.is_unit_name(wanted[-1].name) or wanted[-1].state not in STATES:
            fail(module, f"{entry['name']}: no name of a unit, or a state that is none of {', '.join(STATES)}")
    for stray in module.params["strays"]:
        gone = units.strays(stray["pattern"], stray.get("contains", ""), (unit.name for unit in wanted))
        wanted += [units.WantedUnit(name, state="absent", wait=stray.get("wait", True)) for name in gone]
    return wanted


def wanted_files(module: AnsibleModule, wanted: list[units.WantedUnit]) -> list[files.WantedFile]:
    """Return the files as they are wanted, with the texts of units; those of units that go are removed later."""
    texts = {entry["name"]: entry["content"] for entry in module.params["units"] if entry.get("content") is not None}
    return [
        *(files.WantedFile(**entry) for entry in module.params["files"]),
        *(files.WantedFile(unit.path, content=texts[unit.name]) for unit in wanted if unit.name in texts),
    ]


def apply_files(module: AnsibleModule, wanted: list[files.WantedFile]) -> list[files.Change]:
    """Make all files right, or none where one cannot be: the module fails with its reason."""

    def run(words: list[str]) -> tuple[int, str, str]:
        status, output, errors = module.run_command(words, handle_exceptions=False)
        return status, output, errors

    try:
        changes: list[files.Change] = files.apply_all(wanted, check=module.check_mode, run=run)
    except (files.FileError, OSError) as error:
        fail(module, str(error))
    return changes


def unit_states(module: AnsibleModule, names: list[str]) -> dict[str, units.UnitState]:
    """Ask systemd for all units at once; one that it has never heard of is among the answers too."""
    # A template has no state, and systemctl refuses the question.
    names = [name for name in dict.fromkeys(names) if "@." not in name]
    if not names:
        return {}
    question = ["systemctl", "show", f"--property={','.join(units.PROPERTIES)}", *names]
    status, output, errors = module.run_command(question, environ_update=units.LOCALE)
    if status != 0:
        fail(module, f"systemd does not say which units run: {(errors or output).strip()}")
    states: dict[str, units.UnitState] = units.parse_show(output)
    return states


def ask(module: AnsibleModule, words: Sequence[str]) -> str:
    """Return what a command prints; nothing where it fails, or is not there."""
    try:
        status, output, _ = module.run_command(
            list(words), cwd="/", handle_exceptions=False, expand_user_and_vars=False
        )
    except OSError:
        return ""
    return str(output) if status == 0 else ""


def run_steps(module: AnsibleModule, steps: units.Steps, changed_files: list[str]) -> None:
    """Call systemctl for what has to be done; where one call fails the others still get their turn."""
    failed = []
    for command in steps.commands():
        status, output, errors = module.run_command(command)
        if status != 0:
            failed.append(f"{' '.join(command)} ended with status {status}: {(errors or output).strip()}")
    if failed:
        fail(module, "; ".join(failed), changed=True, changed_files=changed_files)


def fail(module: AnsibleModule, reason: str, **more: object) -> NoReturn:
    """End with a reason, and without the arguments, which may hold secrets."""
    module.fail_json(msg=reason, invocation={}, **more)
    raise SystemExit(1)


def main() -> None:
    """Compare, change, answer."""
    names = ("accounts", "files", "units", "strays")
    lists = {name: {"type": "list", "elements": "dict", "default": []} for name in names}
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "look_for": {"type": "list", "elements": "str", "default": []},
            "go_on": {"type": "bool", "default": False},
            **lists,
        },
        supports_check_mode=True,
        no_log=True,  # contents of files may be secrets: nothing of the arguments goes to the journal
    )
    missing = missing_packages(module, module.params["packages"])
    people = [accounts.WantedAccount(**entry) for entry in module.params["accounts"]]
    nobody = [one.name for one in people if accounts.differs(one)]
    if (missing or nobody) and not module.params["go_on"]:
        module.exit_json(changed=False, missing_packages=missing, missing_accounts=nobody, invocation={})

    found = [path for path in module.params["look_for"] if os.path.lexists(path)]
    wanted = wanted_units(module)
    since = {entry["path"]: entry["since"] for entry in module.params["files"] if entry.get("since")}
    witnesses = [name for names in since.values() for name in names if not name.startswith("/")]
    before = unit_states(module, [*(unit.name for unit in wanted), *witnesses])
    left_over = units.unapplied(since, before)
    asked = {entry["path"]: entry for entry in module.params["files"] if entry.get("pending")}
    waiting = units.pending(
        {path: (since.get(path, []), entry["pending"]) for path, entry in asked.items()},
        before,
        lambda words: ask(module, words),
    )
    changes = apply_files(module, wanted_files(module, wanted))
    going = [unit for unit in wanted if unit.state == "absent" and os.path.lexists(unit.path)]
    changed = [change.path for change in changes] + [unit.path for unit in going]
    left = {change.path for change in changes if change.notes == ["removed"]}

    def held(folder: str) -> bool:
        path = Path(folder)
        return path.is_dir() and any(str(entry) not in left for entry in path.iterdir())

    steps = units.plan(wanted, before, changed, held=held)
    if not module.check_mode:
        # The file goes last: without it systemd would not find what starts at boot no more.
        first = units.Steps(stop=steps.stop, disable=steps.disable, quietly=steps.quietly)
        run_steps(module, first, changed)
        for unit in going:
            Path(unit.path).unlink()
        steps_then = replace(steps, stop=[], disable=[], handled=[])
        run_steps(module, steps_then, changed)

    left_over = [path for path in dict.fromkeys([*left_over, *waiting]) if path not in changed]
    moved = [steps.stop, steps.disable, steps.enable, steps.start, steps.restart, steps.refresh]
    diff = [change.diff() for change in changes]
    for title, names in zip(("stop", "disable", "enable", "start", "restart", "reload"), moved, strict=True):
        if names:
            heads = {"before_header": "units", "after_header": "units"}
            diff.append({**heads, "before": "", "after": f"{title} {' '.join(names)}\n"})
    for path in left_over:
        heads = {"before_header": path, "after_header": path}
        what = (
            f"{waiting[path]}: waits" if path in waiting else f"younger than {' '.join(since[path])}: not applied yet"
        )
        diff.append({**heads, "before": "", "after": f"{what}\n"})
    module.exit_json(
        invocation={},  # at -vvv what a module answers is shown, and its arguments may hold secrets
        changed=bool(changed or left_over or steps.handled or any(moved)),
        changed_files=changed,
        unapplied=left_over,
        found=found,
        missing_packages=missing,
        missing_accounts=nobody,
        started=steps.start,
        restarted=steps.restart,
        reloaded=steps.refresh,
        stopped=steps.stop,
        removed=[unit.name for unit in going],
        handled=steps.handled,
        diff=diff,
    )


if __name__ == "__main__":
    main()
