"""What the soak test strikes with: the same for the same seed, and all kinds in each round."""

from __future__ import annotations

from blows import COMMON, KINDS, plan

HOSTS = ("compute1", "compute2")


def test_a_seed_gives_the_same_blows_again() -> None:
    assert plan(7, 10, HOSTS, ("default", "gpu")) == plan(7, 10, HOSTS, ("default", "gpu"))
    assert plan(7, 10, HOSTS, ("default", "gpu")) != plan(8, 10, HOSTS, ("default", "gpu"))


def test_each_kind_comes_once_before_any_comes_again() -> None:
    for minutes in (0, 3, 30):
        kinds = [blow.kind for blow in plan(1, minutes, HOSTS, ("default",))]
        for start in range(0, len(kinds) - len(KINDS) + 1, len(KINDS)):
            assert set(kinds[start : start + len(KINDS)]) == set(KINDS)
        assert len(kinds) >= len(KINDS)


def test_more_minutes_only_add_blows() -> None:
    short, long = plan(3, 3, HOSTS, ("default",)), plan(3, 30, HOSTS, ("default",))
    assert long[: len(short)] == short
    assert len(long) > 3 * len(short)


def test_a_blow_says_where_and_for_how_long() -> None:
    for blow in plan(1, 3, HOSTS, ("default", "gpu")):
        low, high = KINDS[blow.kind]
        assert low <= blow.seconds <= high
        assert (blow.host in HOSTS) != (blow.kind in COMMON)
        assert blow.kind in str(blow)
