"""Rules about how texts are written: lines, paths, placeholders."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.sound_inventory import only, problems


def test_settings_are_one_line() -> None:
    assert only(problems({"mail_password": "two\nlines"})).mend == "take it out"
    assert only(problems({"nginx_tls_note": "a\tb"})).mend == "take it out"
    nested = only(problems({"celery_environment": {"A": "a b", "B": "two\nlines"}}))
    assert (nested.variable, nested.mend) == ("celery_environment.B", "take it out")
    assert problems({"x_text": "two\nlines", "nginx_tls_note": " a "}) == []


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("/data/htr/", "/data/htr"),
        ("/", "/srv/escriptorium"),
        ("data/htr", "/data/htr"),
        ("/data/my htr", "/data/my-htr"),
        ("/data//htr", "/data/htr"),
        ("/data/../htr", "/data/htr"),
        ("/data/100%", "/data/100"),
        ("~/htr", "/htr"),
        ("", "/srv/escriptorium"),
    ],
)
def test_path_is_written_one_way(value: str, right: str) -> None:
    found = only(problems({"shared_storage_path": value}))
    assert found.wanted.startswith("an absolute path below /")
    assert found.mend == f"write {right}"


@pytest.mark.parametrize("value", ["/data/htr", "/srv/a.b/c_d-e", "/mnt/@data/x+y"])
def test_sound_paths(value: str) -> None:
    assert problems({"shared_storage_path": value}) == []


@pytest.mark.parametrize("value", ["CHANGE_ME", "changeme", "Change-Me.example.org", "<your name>", {"a": ["<x>"]}])
def test_placeholder(value: Any) -> None:
    assert only(problems(cpu1={"x_own": value})).mend == "fill it in"


def test_mail_sender_with_name_is_no_placeholder() -> None:
    assert problems({"x_sender": "eScriptorium <htr@example.org>"}) == []
