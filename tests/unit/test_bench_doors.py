"""tests/bench-doors opens a door on purpose: only where it is asked to, and it shuts it whatever happens."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests/bench-doors"
UNIT = ROOT / "roles/escriptorium_web/templates/escriptorium-web.service.j2"


@pytest.fixture
def program() -> Iterator[Any]:
    loader = importlib.machinery.SourceFileLoader("bench_doors", str(PROGRAM))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec
    made = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = made
    loader.exec_module(made)
    yield made
    del sys.modules[loader.name]


def test_nothing_is_opened_unless_it_is_asked_for() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "5"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--open-and-shut" in done.stderr


@pytest.mark.parametrize("failing", ["open_door", "wait_for_open_side", "proved", "gallery"])
def test_the_door_is_shut_whatever_fails(program: Any, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    told: list[str] = []

    def broken(*_: object) -> None:
        raise program.BenchError(failing)

    for name in ("open_door", "wait_for_open_side", "proved", "gallery"):
        monkeypatch.setattr(program, name, broken if name == failing else lambda *_: told.append("opened"))
    monkeypatch.setattr(program, "shut_door", lambda: told.append("shut"))
    monkeypatch.setattr(program, "found", lambda *_: "htr.example.org")
    world = '{"sessions": ["a", "b", "c"], "token": ""}'
    monkeypatch.setattr(program, "run", lambda *_, text: "removed" if text == program.REMOVE else world)
    with pytest.raises(program.BenchError, match=failing):
        program.measure(1)
    assert told[0] == told[-1] == "shut"
    assert told.count("shut") == 2


def test_the_second_application_differs_by_its_doors_alone(program: Any) -> None:
    unit = re.sub(r"{%.*?%}\n", "", UNIT.read_text())
    made = program.open_unit(unit)
    same = set(unit.splitlines()) & set(made.splitlines())
    assert {"User=escriptorium", "EnvironmentFile=/etc/escriptorium/escriptorium.env"} <= same
    started = re.findall(r"^ExecStart=(.*)$", made, re.MULTILINE)
    assert len(started) == 1
    assert "--ini /etc/escriptorium/uwsgi.ini" in started[0]
    assert started[0].endswith("DJANGO_SETTINGS_MODULE=bench_doors_settings")
    assert "Sockets=bench-doors.socket" in made
    assert "escriptorium-web.socket" not in made
    assert "Restart=always" not in made
    assert "[Install]" not in made


def test_medians_and_ratios_are_shown(program: Any) -> None:
    shut, opened = program.Side(1, "", {"a page": [0.2, 0.1, 9.0]}), program.Side(2, "", {"a page": [0.1, 0.1, 0.3]})
    assert program.table(shut, opened).splitlines()[1].split() == ["a", "page", "200.0", "ms", "100.0", "ms", "2.00"]
