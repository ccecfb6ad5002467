"""Values that hold a template are known by it."""

from __future__ import annotations

import pytest

from module_utils.platform_variables import contains_template


@pytest.mark.parametrize(
    ("value", "expected"),
    [("{{ a }}", True), ({"a": ["x", "{% if b %}"]}, True), ({"{{ a }}": 1}, True), ("a { b", False), (3, False)],
)
def test_templates_are_found(value: object, expected: bool) -> None:
    assert contains_template(value) is expected
