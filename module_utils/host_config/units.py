"""Units of a host: which have to be enabled, started, restarted, stopped or removed, and nothing else.

Runs on hosts, with the standard library. What systemd says of all units comes from one call of ``systemctl show``.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: What is asked of each unit.
PROPERTIES = (
    "Names", "LoadState", "ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload", "StateChangeTimestamp",
)  # fmt: skip

#: In which its answers are read.
LOCALE = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}

#: A unit file in one of these states starts by itself, or by others: the answer of ``systemctl is-enabled`` is 0.
ENABLED = frozenset({"enabled", "enabled-runtime", "static", "alias", "indirect", "generated"})

#: Folder of the units that an administrator writes.
FOLDER = "/etc/systemd/system"


@dataclass(frozen=True)
class WantedUnit:
    """One unit as it is wanted.

    Attributes:
        name: with its suffix.
        state: ``started``; ``stopped``, and not enabled; ``described``: only its file is; ``enabled``: starts at boot,
            and is neither started nor stopped now; ``absent``: stopped, disabled and without a file.
        restart: ``yes`` where its text or one of ``restart_on`` has changed; ``no``; ``handler``: handlers of the role
            do it.
        restart_on: further paths whose change wants a restart, and one that is younger than the unit's last change of
            state: a run that was broken off has written it.
        reload_on: paths whose change, or whose age likewise, a unit that runs is told by a reload; ``described`` is
            enough for it. One that is started or restarted has read them.
        environment: variables that its main process is meant to have; one that runs with another value is restarted.
        wait: whether the run waits until it has started, restarted or stopped.
        unless: folder; where it holds a file the unit is neither started nor restarted.

    """

    name: str
    state: str = "started"
    restart: str = "yes"
    restart_on: tuple[str, ...] = ()
    reload_on: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    wait: bool = True
    unless: str = ""

    @property
    def path(self) -> str:
        """Where its text lies when it is described here."""
        return f"{FOLDER}/{self.name}"


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit: see PROPERTIES.

    One that is ``fixed`` starts by others, and cannot be disabled. ``since``: its last change of state, a reload too; s
    since 1970.
    """

    loaded: bool = False
    active: str = "inactive"
    enabled: bool = False
    process: int = 0
    stale: bool = False
    fixed: bool = False
    since: int = 0

    @property
    def runs(self) -> bool:
        """Whether it runs, or will in a moment without a further word."""
        return self.active in {"active", "activating", "reloading"}


@dataclass
class Steps:
    """What has to be done, in this order: the calls of systemctl, and who has to be told.

    Attributes:
        reload: whether systemd has to read its units again first.
        stop: units to stop; those in ``quietly`` without waiting.
        disable: units that start at boot no more.
        enable: units that start at boot from now on.
        start: units to start.
        restart: units to restart.
        refresh: units to reload.
        handled: units that run from something older, whose restart is the handlers'.
        quietly: units that nobody waits for.

    """

    reload: bool = False
    stop: list[str] = field(default_factory=list)
    disable: list[str] = field(default_factory=list)
    enable: list[str] = field(default_factory=list)
    start: list[str] = field(default_factory=list)
    restart: list[str] = field(default_factory=list)
    refresh: list[str] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)
    quietly: set[str] = field(default_factory=set)

    def commands(self) -> list[list[str]]:
        """Return the calls of systemctl."""
        calls: list[list[str]] = []
        for verb in ("stop", "disable"):
            calls += self._calls(verb, getattr(self, verb))
        if self.reload:
            calls.append(["systemctl", "daemon-reload"])
        for verb in ("enable", "restart", "start"):
            calls += self._calls(verb, getattr(self, verb))
        return calls + ([["systemctl", "reload", *self.refresh]] if self.refresh else [])

    def _calls(self, verb: str, names: Sequence[str]) -> list[list[str]]:
        if verb in {"enable", "disable"}:
            return [["systemctl", "--quiet", verb, *names]] if names else []
        waited = [name for name in names if name not in self.quietly]
        quiet = [name for name in names if name in self.quietly]
        calls = [["systemctl", verb, *waited]] if waited else []
        return calls + ([["systemctl", verb, "--no-block", *quiet]] if quiet else [])


def parse_show(output: str) -> dict[str, UnitState]:
    """Read the answer of ``systemctl show --property=...``: paragraphs of KEY=VALUE, one for each unit."""
    states = {}
    for paragraph in output.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in paragraph.splitlines() if "=" in line)
        file_state = values.get("UnitFileState", "")
        state = UnitState(
            loaded=values.get("LoadState") == "loaded",
            active=values.get("ActiveState", "inactive"),
            enabled=file_state in ENABLED,
            fixed=file_state in ENABLED and not file_state.startswith("enabled"),
            process=int(values.get("MainPID") or 0),
            stale=values.get("NeedDaemonReload") == "yes",
            since=moment_of(values.get("StateChangeTimestamp", "")),
        )
        states.update(dict.fromkeys(values.get("Names", "").split(), state))
    return states


def moment_of(shown: str) -> int:
    """Return a time as systemctl shows it (``Sat 2026-11-28 10:00:00 UTC``) in s since 1970; 0 where it has none."""
    _, _, moment = shown.removesuffix(" UTC").partition(" ")
    return int(datetime.strptime(f"{moment} +0000", "%Y-%m-%d %H:%M:%S %z").timestamp()) if moment else 0


def time_of(path: str, now: float | None = None) -> int:
    """Return when a path was written, of one that is gone its folder: s since 1970, as exact as systemctl is.

    0 where there is neither, and for a time that is still to come: a clock that was wrong says nothing.
    """
    for place in (Path(path), Path(path).parent):
        try:
            found = int(place.lstat().st_mtime)
        except OSError:
            continue
        return found if found <= (time.time() if now is None else now) else 0
    return 0


def unapplied(
    since: Mapping[str, Sequence[str]],
    states: Mapping[str, UnitState],
    *,
    age: Callable[[str], int] = time_of,
) -> list[str]:
    """Name the paths whose handlers a run that was broken off has not run.

    Args:
        since: by path, units that run and paths of which one would be younger had they run.
        states: what systemd says of the units. One that does not run has nothing older.
        age: when a path was written.

    """
    found = []
    for path, witnesses in since.items():
        units = [states.get(name, UnitState()) for name in witnesses if not name.startswith("/")]
        times = [unit.since for unit in units] + [age(name) for name in witnesses if name.startswith("/")]
        if all(unit.runs and unit.since for unit in units) and 0 < max(times, default=0) < age(path):
            found.append(path)
    return found


def pending(
    asked: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    states: Mapping[str, UnitState],
    ask: Callable[[Sequence[str]], str],
) -> dict[str, str]:
    """Say which paths a service that runs has not taken over, though it was told: it waits for a restart, say.

    Args:
        asked: by path, units that have to run, and the words of the command that prints what is not taken over.
        states: what systemd says of the units. One that does not run, or is starting, takes over all of it then.
        ask: runs a command, and returns what it prints; nothing where it fails.

    """
    running = {
        path: words
        for path, (witnesses, words) in asked.items()
        if all(states.get(name, UnitState()).active == "active" for name in witnesses if not name.startswith("/"))
    }
    answers = {path: " ".join(ask(words).split()) for path, words in running.items()}
    return {path: answer for path, answer in answers.items() if answer}


def environment_of(process: int) -> dict[str, str]:
    """Return the environment of a process as it started; empty where it is gone."""
    try:
        raw = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition("=") for entry in raw.decode(errors="surrogateescape").split("\0") if "=" in entry)
    return {name: value for name, _, value in pairs}


def strays(pattern: str, contains: str, known: Iterable[str], folder: Path = Path(FOLDER)) -> list[str]:
    """Name the units whose file matches a glob pattern and has a text in it, and that are none of ``known``."""
    names = set(known)
    return sorted(
        path.name
        for path in folder.glob(pattern)
        if path.name not in names and path.is_file() and not path.is_symlink() and contains in path.read_text()
    )


def plan(
    wanted: Sequence[WantedUnit],
    states: Mapping[str, UnitState],
    changed: Iterable[str],
    *,
    environment: Callable[[int], Mapping[str, str]] = environment_of,
    age: Callable[[str], int] = time_of,
    held: Callable[[str], bool],
) -> Steps:
    """Return what has to be done.

    Args:
        wanted: the units of the role.
        states: what systemd says of them; one that it does not know is missing, or not loaded.
        changed: paths of files that this run has changed or removed (in check mode: would have).
        environment: environment of a running process, by its number.
        age: when a path was written.
        held: whether a folder holds a file.

    """
    paths = set(changed)
    freed = _services_before_sockets(wanted, states)
    steps = Steps(reload=any(path.startswith(FOLDER) for path in paths))
    for unit in wanted:
        state = states.get(unit.name, UnitState())
        steps.reload |= state.stale
        if not unit.wait:
            steps.quietly.add(unit.name)
        if unit.name in freed:
            steps.stop.append(unit.name)
            state = replace(state, active="inactive")
        if unit.state in {"stopped", "absent"}:
            if state.runs:
                steps.stop.append(unit.name)
            if state.enabled and not state.fixed and state.loaded:
                steps.disable.append(unit.name)
        elif unit.state != "described":
            if not state.enabled:
                steps.enable.append(unit.name)
            if unit.state == "enabled" or (unit.unless and held(unit.unless)):
                continue
            if not state.runs:
                # One that is ending its last job starts again after it.
                steps.start.append(unit.name)
            elif unit.restart != "no" and (
                _differs(unit, state, paths, environment)
                or unapplied({path: [unit.name] for path in unit.restart_on}, states, age=age)
            ):
                (steps.handled if unit.restart == "handler" else steps.restart).append(unit.name)
    steps.refresh = [
        unit.name
        for unit in wanted
        if unit.name not in steps.restart and _has_news(unit, states.get(unit.name, UnitState()), paths, age)
    ]
    return steps


def _has_news(unit: WantedUnit, state: UnitState, changed: set[str], age: Callable[[str], int]) -> bool:
    """Whether a unit that runs is to be told of a file that it has not read."""
    if unit.state not in {"started", "described"} or state.active != "active":
        return False
    return bool(
        changed & {*unit.reload_on} or unapplied({p: [unit.name] for p in unit.reload_on}, {unit.name: state}, age=age)
    )


def _services_before_sockets(wanted: Sequence[WantedUnit], states: Mapping[str, UnitState]) -> set[str]:
    """Name the services that run without the socket that they are meant to have: systemd makes none beside them."""
    return {
        unit.name
        for unit in wanted
        if states.get(unit.name, UnitState()).runs
        and f"{unit.name.removesuffix('.service')}.socket" in {one.name for one in wanted if one.state == "started"}
        and not states.get(f"{unit.name.removesuffix('.service')}.socket", UnitState()).runs
    }


def _differs(
    unit: WantedUnit, state: UnitState, changed: set[str], environment: Callable[[int], Mapping[str, str]]
) -> bool:
    """Whether a unit runs from something older than what is wanted."""
    if changed & {unit.path, *unit.restart_on}:
        return True
    # A process may have written its title over its environment: what is not to be seen there says nothing.
    seen = environment(state.process) if unit.environment and state.process else unit.environment
    return any(seen.get(name, value) != value for name, value in unit.environment.items())


def is_unit_name(name: str) -> bool:
    """Whether a name has the form of a unit that can be described: no path, and a suffix that systemd knows."""
    return re.fullmatch(r"[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|path|mount|target|slice)", name) is not None
