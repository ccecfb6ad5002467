"""What upstream's source needs to run on a newer Django than the one it was written for, without an edit of it.

Checked with eScriptorium 05d3a0d4, which asks for Django 4.2, on Django 5.2. The way out of the site by a link, which
Django 5 refuses, is in ``logins``.
"""

from __future__ import annotations

import inspect
from typing import Any

from django.utils.functional import cached_property


def take_a_second_argument(kind: Any) -> None:
    """Have a class whose instances are made of one function take, and forget, a second argument.

    ``core.models.Line.box`` is ``cached_property(get_box, set_box)``. Django 4.2 took a name there and did nothing with
    it; Django 5 takes one argument. Where the class takes two already, nothing is done.

    :param kind: Django's ``cached_property``.
    """
    make = kind.__init__
    # self, the function, and perhaps the name.
    if len(inspect.signature(make).parameters) > 2:  # noqa: PLR2004 - as the line above says
        return

    def make_of_one(self: Any, function: Any, _forgotten: Any = None) -> None:
        make(self, function)

    kind.__init__ = make_of_one


def install() -> None:
    """Do all of it. Before the application's models are imported: the settings call it."""
    take_a_second_argument(cached_property)
