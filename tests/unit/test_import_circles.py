"""No module imports itself by way of others: neither at its head, nor within a function, nor for its types.

Modules that need each other are one module in several files: none can be read, tested or changed alone.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ("action_plugins", "filter_plugins", "lookup_plugins", "library")
#: Where a program looks for packages, and those of ours that it finds there.
PACKAGES = ((ROOT, ("module_utils", *PLUGINS)), (ROOT / "roles/escriptorium/files", ("escriptorium_cluster",)))
#: Plugins import module_utils under Ansible's name.
ALIAS = "ansible."


def modules(folder: Path, packages: Iterable[str]) -> dict[str, Path]:
    """Return the files of packages below a folder, by the names under which they are imported."""
    found = {}
    for path in (path for package in packages for path in sorted((folder / package).rglob("*.py"))):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def named(node: ast.AST, name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield what a statement of a module imports: a module, and the name that is taken from it (none: empty).

    That name may be a module, too.
    """
    if isinstance(node, ast.Import):
        yield from ((alias.name, "") for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        above = package[: len(package) + 1 - node.level] if node.level else []
        source = ".".join([*above, *filter(None, [node.module])])
        yield from ((source, alias.name) for alias in node.names)


def imports(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Return which of the known modules each of them imports."""
    graph: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            for source, taken in named(node, name, path):
                module = source.removeprefix(ALIAS)
                part = f"{module}.{taken}"
                graph[name] |= {part if part in known else module} & known.keys()
    return graph


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules of a circle, its first one again at the end; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize(("folder", "packages"), PACKAGES, ids=["control machine", "cluster"])
def test_no_module_imports_itself_by_way_of_others(folder: Path, packages: tuple[str, ...]) -> None:
    assert circle(imports(modules(folder, packages))) == []


def test_plugins_and_packages_are_read() -> None:
    """What is not read has no circles."""
    graph = imports({name: path for folder, packages in PACKAGES for name, path in modules(folder, packages).items()})
    assert graph["lookup_plugins.tunnel"] >= {"module_utils.platform_files", "module_utils.platform_tunnel_keys"}
    assert graph["module_utils.platform_gpu"] >= {"module_utils.gpu_partition.cards", "module_utils.platform_problems"}
    assert graph["escriptorium_cluster.reaper"] >= {"escriptorium_cluster.lease", "escriptorium_cluster.orphans"}


@pytest.mark.parametrize(
    "text",
    [
        "from one.high import NAME",
        "import one.high",
        "from . import high",
        "from .high import NAME",
        "def later():\n    from one import high",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from one.high import NAME",
        "from ansible.one import high",
    ],
)
def test_a_circle_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/__init__.py").touch()
    (tmp_path / "one/high.py").write_text("from .middle import NAME\n")
    (tmp_path / "one/middle.py").write_text("from one import low\nNAME = low\n")
    (tmp_path / "one/low.py").touch()
    assert circle(imports(modules(tmp_path, ["one"]))) == []
    (tmp_path / "one/low.py").write_text(text)
    assert {*circle(imports(modules(tmp_path, ["one"])))} == {"one.high", "one.middle", "one.low"}
