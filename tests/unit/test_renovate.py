"""The bot's settings know the pins that there are, and read the files that they name."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Final

import pytest

from module_utils.platform_catalogue import read_yaml

ROOT: Final = Path(__file__).resolve().parents[2]
SETTINGS: Final[dict[str, Any]] = json.loads((ROOT / "renovate.json").read_text())
COMPILED: Final = sorted(ROOT.glob("requirements*.txt"))
#: How Renovate finds the command in the head of a compiled file, and what it lets it have.
HEAD: Final = re.compile(r"^(?:#.*?\n)+# {4}(?P<command>\S*)(?P<arguments> .*?)?\n")
ALLOWED: Final = frozenset({"--universal", "--generate-hashes", "--python-version", "--output-file"})
#: A version that somebody has to raise by hand, or the bot.
PIN: Final = re.compile(r"\d+\.\d+(\.\d+)?")


def selected(pattern: str) -> list[Path]:
    """Return the files that one of the bot's patterns selects: a regular expression between slashes."""
    assert pattern[0] == pattern[-1] == "/", pattern
    names = [*ROOT.glob("*"), *ROOT.glob("roles/**/*.yml"), *ROOT.glob("molecule/**/*.txt")]
    return [path for path in names if re.search(pattern[1:-1], str(path.relative_to(ROOT)))]


def found(manager: dict[str, Any]) -> list[tuple[Path, str]]:
    """Return the places and versions that one of the managers of ours finds."""
    files = [path for pattern in manager["managerFilePatterns"] for path in selected(pattern)]
    # JavaScript writes the names of groups without the P.
    texts = [re.compile(text.replace("(?<", "(?P<")) for text in manager["matchStrings"]]
    matches = [(path, match) for path in files for text in texts for match in text.finditer(path.read_text())]
    return [(path, match["currentValue"]) for path, match in matches]


def test_compiled_requirements_are_selected() -> None:
    (pattern,) = SETTINGS["pip-compile"]["managerFilePatterns"]
    assert sorted(selected(pattern)) == COMPILED
    assert len(COMPILED) >= 2


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.name)
def test_the_bot_can_compile_requirements_again(path: Path) -> None:
    head = HEAD.match(path.read_text())
    assert head is not None
    assert head["command"] == "uv"
    arguments = shlex.split(head["arguments"])
    assert arguments[:2] == ["pip", "compile"]
    options = [word for word in arguments if word.startswith("-")]
    assert {option.partition("=")[0] for option in options} <= ALLOWED
    assert [option for option in options if option in {"--python-version", "--output-file"}] == [], "written with ="
    assert f"--output-file={path.name}" in options
    assert [word for word in arguments[2:] if word not in options] == [path.with_suffix(".in").name]


def test_make_compiles_them_in_the_same_way() -> None:
    recipe = re.findall(r"uv pip compile (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(recipe) == 1
    ours = recipe[0].replace("$$name", "requirements").replace('"', "").removeprefix("--upgrade --quiet ")
    head = HEAD.match((ROOT / "requirements.txt").read_text())
    assert head is not None
    assert f" pip compile {ours}" == head["arguments"]


@pytest.mark.parametrize("manager", SETTINGS["customManagers"], ids=lambda manager: manager["depNameTemplate"])
def test_each_manager_of_ours_finds_one_version(manager: dict[str, Any]) -> None:
    ((_, version),) = found(manager)
    assert PIN.fullmatch(version)


def test_no_version_in_a_role_is_forgotten() -> None:
    known = {path for manager in SETTINGS["customManagers"] for path, _ in found(manager)}
    pinned = {
        path
        for path in ROOT.glob("roles/*/*/main.yml")
        if path.parent.name in {"defaults", "vars"}
        for name, value in (read_yaml(path) or {}).items()
        if name.endswith("version") and PIN.fullmatch(str(value))
    }
    assert pinned == known


def test_managers_are_switched_on() -> None:
    assert SETTINGS["enabledManagers"] == ["github-actions", "pip-compile", "custom.regex"]
    assert all(manager["customType"] == "regex" for manager in SETTINGS["customManagers"])
