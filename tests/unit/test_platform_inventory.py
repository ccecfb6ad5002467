"""The check of an inventory as a whole: a sound one has no problem."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from module_utils.platform_inventory import INVENTORY_RULES
from module_utils.platform_secret_rules import rule_missing_secrets
from tests.unit.sound_inventory import problems

if TYPE_CHECKING:
    from pathlib import Path


def test_sound_inventory_has_no_problem() -> None:
    assert problems() == []


def test_one_machine_may_carry_everything() -> None:
    assert problems(groups={"frontend": ("one",), "storage": ("one",), "compute": ("one",)}) == []


def test_every_rule_says_why_it_exists() -> None:
    for rule in INVENTORY_RULES:
        assert rule.__doc__, rule


def test_every_rule_is_asked_once(root: Path) -> None:
    modules = [import_module(f"module_utils.{path.stem}") for path in sorted(root.glob("module_utils/platform_*.py"))]
    written = {
        one
        for module in modules
        for name, one in vars(module).items()
        if name.startswith("rule_") and next(iter(signature(one).parameters)) == "inventory"
    }
    # Asked apart: missing secrets may be made by the next playbook.
    assert written - {rule_missing_secrets} == set(INVENTORY_RULES)
    assert len(INVENTORY_RULES) == len(set(INVENTORY_RULES))
