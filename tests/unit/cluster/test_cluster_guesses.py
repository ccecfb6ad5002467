"""Counts of wrong passwords: what is one account and one network, and when somebody may try again."""

from __future__ import annotations

import pytest
from escriptorium_cluster.guesses import Guesses, key_of, network_of, refusal


class Clock:
    """A cache as Redis has one, and the time, in s."""

    def __init__(self) -> None:
        self.now = 0.0
        self.held: dict[str, tuple[int, float]] = {}
        #: Time that passes within the next question.
        self.slow = 0.0

    def _found(self, key: str) -> tuple[int, float] | None:
        found = self.held.get(key)
        return found if found and found[1] > self.now else None

    def add(self, key: str, value: int, timeout: int) -> bool:
        if self._found(key):
            return False
        self.held[key] = (value, self.now + timeout)
        self.now, self.slow = self.now + self.slow, 0.0
        return True

    def incr(self, key: str) -> int:
        found = self._found(key)
        if not found:
            raise ValueError(key)
        self.held[key] = (found[0] + 1, found[1])
        return found[0] + 1

    def get(self, key: str, default: int) -> int:
        found = self._found(key)
        return found[0] if found else default

    def ttl(self, key: str) -> int:
        found = self._found(key)
        return int(found[1] - self.now) if found else 0

    def delete(self, key: str) -> bool:
        return self.held.pop(key, None) is not None


@pytest.fixture
def cache() -> Clock:
    return Clock()


def test_at_the_bound_the_account_waits_for_the_first_one_to_be_forgotten(cache: Clock) -> None:
    guesses = Guesses(cache, 3, 900)
    for _ in range(3):
        assert guesses.wait("ada", "192.0.2.7") == 0
        guesses.count("ada", "192.0.2.7")
        cache.now += 100
    assert guesses.wait("ada", "192.0.2.7") == 600
    cache.now += 599
    assert guesses.wait("ada", "192.0.2.7") == 1
    cache.now += 1
    assert guesses.wait("ada", "192.0.2.7") == 0
    guesses.count("ada", "192.0.2.7")
    assert guesses.wait("ada", "192.0.2.7") == 0, "the count starts anew"


def test_nobody_locks_out_an_account_from_elsewhere(cache: Clock) -> None:
    guesses = Guesses(cache, 1, 900)
    guesses.count("ada", "192.0.2.7")
    assert guesses.wait("ada", "198.51.100.7") == 0
    assert guesses.wait("bob", "192.0.2.7") == 0


def test_the_right_password_ends_the_count(cache: Clock) -> None:
    guesses = Guesses(cache, 1, 900)
    guesses.count("ada", "192.0.2.7")
    guesses.forget("ada", "192.0.2.99")
    assert guesses.wait("ada", "192.0.2.7") == 0


def test_a_count_that_runs_out_meanwhile_is_no_error(cache: Clock) -> None:
    cache.slow = 901
    guesses = Guesses(cache, 1, 900)
    guesses.count("ada", "192.0.2.7")
    assert guesses.wait("ada", "192.0.2.7") == 900


def test_without_a_bound_nothing_is_kept(cache: Clock) -> None:
    guesses = Guesses(cache, 0, 900)
    guesses.count("ada", "192.0.2.7")
    guesses.forget("ada", "192.0.2.7")
    assert (guesses.wait("ada", "192.0.2.7"), cache.held) == (0, {})


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:7:1::1", "2001:db8:7::/48"),
        ("::ffff:192.0.2.7", "192.0.2.0/24"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_addresses_of_one_customer_are_one_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_spellings_of_one_name_are_one_account() -> None:
    assert len({key_of(name, "192.0.2.7") for name in ("ada", " Ada ", "ＡＤＡ")}) == 1  # noqa: RUF001 - wide letters
    # The parts cannot run into one another.
    assert key_of("ada", "x") != key_of("ad", "ax")
    assert "ada" not in key_of("ada", "192.0.2.7")


@pytest.mark.parametrize(
    ("seconds", "language", "words"),
    [(61, "en", "2 min"), (1, "fr-fr", "1 min"), (900, "de", "15 min"), (5, None, "1 min")],
)
def test_people_read_how_long_they_wait(seconds: int, language: str | None, words: str) -> None:
    assert words in refusal(seconds, language)
