"""When a server is asked again, and how many requests it gets at once: the decisions, with a clock of their own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from escriptorium_cluster.politeness import (
    LONGEST_PAUSE,
    LOOK_SECONDS,
    BusyError,
    Patience,
    Visit,
    asked_pause,
    server_of,
)
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("  ", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("30", 30.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("Sat, 21 Nov 2026 12:01:00 GMT", 60.0),
        ("Sat, 21 Nov 2026 12:01:00", 60.0),
        ("Sat, 21 Nov 2026 13:01:00 +0100", 60.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
    ],
)
def test_what_a_header_asks_for(header: str | None, seconds: float | None) -> None:
    assert asked_pause(header, NOW) == seconds


@given(st.text())
def test_no_header_is_an_error(header: str) -> None:
    pause = asked_pause(header, NOW)
    assert pause is None or pause >= 0


@pytest.mark.parametrize("status", [200, 301, 404, 500, 502, 504])
def test_other_answers_stand(status: int) -> None:
    patience = Patience(100)
    assert patience.pause(status, "5", NOW) is None
    assert patience.left == 100


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    patience = Patience(100)
    assert [patience.pause(429, "7", NOW), patience.pause(503, "40", NOW)] == [7, 40]
    assert patience.left == 53


def test_a_server_in_trouble_that_does_not_say_when_is_left_to_upstream() -> None:
    assert Patience(100).pause(503, None, NOW) is None


def test_without_a_word_the_pauses_double_up_to_a_minute() -> None:
    patience = Patience(1000)
    assert [patience.pause(429, None, NOW) for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]


def test_a_server_that_asks_for_no_time_is_not_asked_without_end() -> None:
    patience = Patience(10)
    with pytest.raises(BusyError):
        [patience.pause(429, "0", NOW) for _ in range(100)]
    assert patience.left >= 0


def test_too_long_is_refused_at_once_and_says_so() -> None:
    patience = Patience(600)
    with pytest.raises(BusyError, match="answered 429 and asks to wait for 3600 s"):
        patience.pause(429, "3600", NOW)
    assert patience.left == 600


@given(st.lists(st.one_of(st.none(), st.integers(0, 200).map(str))), st.integers(0, 500))
def test_the_patience_is_never_exceeded(headers: list[str | None], seconds: int) -> None:
    patience, waited = Patience(seconds), 0.0
    try:
        for header in headers:
            pause = patience.pause(429, header, NOW)
            assert pause is not None
            assert pause >= (float(header) if header else 0)
            assert header or pause <= LONGEST_PAUSE
            waited += pause
    except BusyError:
        pass
    assert waited + patience.left == pytest.approx(seconds)
    assert patience.left >= 0


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://Gallica.BnF.fr/iiif/1", "gallica.bnf.fr:443"),
        ("http://gallica.bnf.fr/", "gallica.bnf.fr:80"),
        ("http://127.0.0.1:8080/a", "127.0.0.1:8080"),
        ("https://user:secret@host.org/", "host.org:443"),
        ("http://[::1]:81/", "::1:81"),
    ],
)
def test_the_server_of_an_address(url: str, server: str) -> None:
    assert server_of(url) == server


class Door:
    """A door that answers what the test has written down."""

    def __init__(self, *answers: float | Exception) -> None:
        self.answers = list(answers)
        self.left: list[str] = []
        self.error: Exception | None = None

    def enter(self, _: str) -> float:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def stay(self, _: str) -> None:
        if self.error:
            raise self.error

    def leave(self, token: str) -> None:
        self.left.append(token)
        if self.error:
            raise self.error

    def shut(self, seconds: float) -> None:
        raise AssertionError(seconds)


def visit(door: Door, patience: Patience) -> tuple[list[float], list[Exception]]:
    """Make one visit; return what it slept and its troubles."""
    slept: list[float] = []
    troubles: list[Exception] = []
    with Visit(door, "me", patience, slept.append, troubles.append) as inside:
        inside.stay()
    return slept, troubles


def test_waiting_for_a_place_costs_no_patience() -> None:
    door, patience = Door(LOOK_SECONDS, LOOK_SECONDS, 0), Patience(1)
    assert visit(door, patience) == ([LOOK_SECONDS, LOOK_SECONDS], [])
    assert (patience.left, door.left) == (1, ["me"])


def test_what_another_was_told_holds_for_this_one_too() -> None:
    door, patience = Door(30.0, 0), Patience(100)
    assert visit(door, patience) == ([30.0], [])
    assert patience.left == 70
    with pytest.raises(BusyError, match="has asked to wait for 71 s"):
        visit(Door(71.0), patience)


def test_a_door_that_does_not_answer_stops_nobody() -> None:
    door = Door(ConnectionError("gone"))
    door.error = TimeoutError("gone too")
    slept, troubles = visit(door, Patience(1))
    assert slept == []
    assert len(troubles) == 3


def test_the_place_is_given_back_after_an_error() -> None:
    door = Door(0)
    with pytest.raises(KeyError), Visit(door, "me", Patience(1), lambda _: None, lambda _: None):
        raise KeyError
    assert door.left == ["me"]
