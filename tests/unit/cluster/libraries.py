"""Stand-ins for the libraries of the application, which are not installed on the control machine.

A module of such a library can be imported by any name; what a test has not set in it is another module or, with a
capital, an empty class. So a module of the cluster package loads, and each test sets what its subject asks for. What
the real libraries do is tested with them, in tests/integration.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import escriptorium_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARIES = frozenset(
    {
        "asgiref",
        "billiard",
        "celery",
        "channels",
        "daphne",
        "django",
        "escriptorium",
        "kombu",
        "psycopg2",
        "redis",
        "rest_framework",
        "users",
    }
)
#: Ends of names that stand for exceptions.
EXCEPTIONS = ("Error", "Exception", "Ignore", "Reject", "Retry")


class Library(ModuleType):
    """A module of a library that is not here."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if not name[0].isupper():
            return importlib.import_module(f"{self.__name__}.{name}")
        made = type(name, (Exception if name.endswith(EXCEPTIONS) else Empty,), {})
        setattr(self, name, made)
        return made


class Empty:
    """What nobody has set: can be made and inherited from, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes the modules of the libraries, before Python looks for real ones."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        wanted = name.partition(".")[0] in LIBRARIES
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Library:
        return Library(spec.name)

    def exec_module(self, _: ModuleType) -> None:
        """Leave the module as it is."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Have the libraries importable; what was imported with them is forgotten afterwards."""
    before = dict(sys.modules)
    for name in _ours_and_theirs():
        del sys.modules[name]
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in _ours_and_theirs():
            del sys.modules[name]
        for name in before.keys() - sys.modules.keys():
            sys.modules[name] = before[name]
        # `from escriptorium_cluster import lease` looks there first.
        for name, module in list(vars(escriptorium_cluster).items()):
            if isinstance(module, ModuleType):
                delattr(escriptorium_cluster, name)
        for name, module in before.items():
            package, _, last = name.rpartition(".")
            if package == "escriptorium_cluster":
                setattr(escriptorium_cluster, last, module)


def _ours_and_theirs() -> list[str]:
    return [
        name for name in sys.modules if name.partition(".")[0] in LIBRARIES or name.startswith("escriptorium_cluster.")
    ]
