"""What the modules have in common that run a program on a host: the program and Ansible's module stand in."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import pytest

from module_utils.node_program import apply, diff_of

PROGRAM = "/usr/local/sbin/program"


class FailedError(Exception):
    """The module has failed."""


class Module:
    """Ansible's module: notes the command, and answers what a test says."""

    def __init__(self, *, check_mode: bool = False, status: int = 0, output: str = "{}", errors: str = "") -> None:
        self.params = {"program": PROGRAM}
        self.check_mode = check_mode
        self.answer = status, output, errors
        self.asked: list[tuple[list[str], str | None]] = []

    def run_command(self, command: list[str], data: str | None) -> tuple[int, str, str]:
        self.asked.append((command, data))
        return self.answer

    def fail_json(self, **values: Any) -> NoReturn:
        raise FailedError(values["msg"])


def test_a_run_applies_what_the_programs_file_holds() -> None:
    module = Module(output='{"changed": true}')
    assert apply(module, ["--wait", "5"], "--layout", {"cards": []}, {}) == {"changed": True}
    assert module.asked == [([PROGRAM, "apply", "--json", "--wait", "5"], None)]


def test_check_mode_changes_nothing_and_hands_over_what_the_file_would_hold() -> None:
    module = Module(check_mode=True)
    apply(module, [], "--layout", {"cards": []}, {})
    ((command, data),) = module.asked
    assert command == [PROGRAM, "apply", "--json", "--check", "--layout", "/dev/stdin"]
    assert json.loads(data or "") == {"cards": []}


def test_without_a_wish_check_mode_asks_for_the_file_that_is_there() -> None:
    module = Module(check_mode=True)
    apply(module, [], "--layout", None, {})
    assert module.asked == [([PROGRAM, "apply", "--json", "--check"], None)]


@pytest.mark.parametrize(
    ("status", "output", "errors", "said"),
    [
        (3, '{"message": "gpu0 is in use."}', "", "gpu0 is in use. wait for its jobs"),
        (9, '{"message": "gpu0 is in use"}', "", "gpu0 is in use."),
        (1, "Traceback", "no module pynvml", f"{PROGRAM} apply --json ended with status 1: no module pynvml"),
    ],
)
def test_a_program_that_fails_fails_the_module_with_its_words(status: int, output: str, errors: str, said: str) -> None:
    with pytest.raises(FailedError) as caught:
        apply(Module(status=status, output=output, errors=errors), [], "--layout", {}, {3: "wait for its jobs"})
    assert str(caught.value) == said


def test_the_diff_shows_the_cards_that_change() -> None:
    cards = [
        {"name": "gpu0", "model": "A100-40GB", "changed": True, "before": ["a"], "after": ["a", "b"]},
        {"name": "gpu1", "changed": False, "before": [], "after": []},
    ]
    assert diff_of(cards, lambda card, moment: card[moment]) == [
        {"before_header": "gpu0 A100-40GB", "after_header": "gpu0 A100-40GB", "before": "a\n", "after": "a\nb\n"}
    ]
