"""What upstream's source needs on a newer Django."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


class Four:
    """Django 4.2's cached_property, as far as it is made."""

    def __init__(self, func: Any, name: Any = None) -> None:
        self.made_of = (func, name)


class Five:
    """Django 5's."""

    def __init__(self, func: Any) -> None:
        self.made_of = func


@pytest.fixture
def newer() -> type[Five]:
    return type("Newer", (Five,), {"__init__": Five.__init__})


def test_a_property_of_two_functions_is_made_on_django_5(load: Callable[[str], Any], newer: type[Five]) -> None:
    load("django.utils.functional").cached_property = newer
    load("escriptorium_cluster.upstream_fixes").install()
    assert newer(len).made_of is len
    assert newer(len, print).made_of is len  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        newer(len, print, max)  # type: ignore[call-arg]


def test_django_4_stays_as_it_is(load: Callable[[str], Any]) -> None:
    before = Four.__init__
    load("django.utils.functional").cached_property = Four
    fixes = load("escriptorium_cluster.upstream_fixes")
    fixes.install()
    assert Four.__init__ is before
    assert Four(len, print).made_of == (len, print)


def test_twice_is_as_good_as_once(load: Callable[[str], Any], newer: type[Five]) -> None:
    fixes = load("escriptorium_cluster.upstream_fixes")
    fixes.take_a_second_argument(newer)
    once = newer.__init__
    fixes.take_a_second_argument(newer)
    assert newer.__init__ is once
