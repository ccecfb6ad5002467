"""Rules about secrets: missing and weak ones give their problem, and none is shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from module_utils.platform_inventory import check_inventory
from module_utils.platform_problems import report
from tests.unit.sound_inventory import CATALOGUE, inventory, only, problems


def test_missing_secret() -> None:
    lacking = inventory(without=("secret_redis_password",))
    assert only(check_inventory(lacking, CATALOGUE)).variable == "secret_redis_password"
    assert check_inventory(lacking, CATALOGUE, secrets_required=False) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret_redis_password", "admin"),
        ("secret_redis_password", "PostGres"),
        ("secret_redis_password", "changeme-please-do"),
        ("secret_redis_password", "short1Aa"),
        ("secret_redis_password", "aaaaaaaaaaaaaaaa"),
        ("secret_redis_password", "two\nlines of text"),
        ("secret_redis_password", "a blank at its end "),
        ("secret_django_key", "aVeryGoodOne4Postgresql"),
        ("secret_django_key", "django-insecure-0a1b2c3d4e5f6g7h8i9jAKBLCMDNEOFPGQHRISJT"),
    ],
)
def test_weak_secret_is_refused_and_not_shown(name: str, value: str) -> None:
    found = problems({name: value})
    assert only(found).variable == name
    assert value not in report(found).replace(name, "")


@given(st.text(min_size=6).filter(lambda text: text.strip()))
def test_secrets_are_never_shown(value: str) -> None:
    """Whatever is wrong with a secret, of the site or of a role, its value does not appear."""
    marked = f"{value}QzQz"
    found = check_inventory(
        inventory(
            {"secret_redis_password": marked, "secret_admin_password": [marked], "mail_password": {"a": marked}},
            web={"secret_redis_password": f"{marked}x"},
        ),
        CATALOGUE,
    )
    assert found
    assert "QzQz" not in report(found)
