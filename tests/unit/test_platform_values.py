"""Rules about single values of the site: each wrong one gives its problem, and what helps."""

from __future__ import annotations

import pytest

from module_utils.platform_dns import is_domain_name
from tests.unit.sound_inventory import only, problems


@pytest.mark.parametrize("value", ["https://htr.example.org", "htr", "htr.example.org:443", "10.10.0.1", "a b.org"])
def test_wrong_domain(value: str) -> None:
    assert not is_domain_name(value)
    assert only(problems({"site_domain": value})).variable == "site_domain"


@pytest.mark.parametrize("value", ["me", "me@", "me@localhost", "Me <me@example.org>", "a@b@example.org"])
def test_wrong_email(value: str) -> None:
    assert only(problems({"site_admin_email": value})).variable == "site_admin_email"


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("bücher.example.org", "write it as xn--bcher-kva.example.org"),
        ("https://Bücher.example.org/", "write it as xn--bcher-kva.example.org"),
        ("straße.example.org", "write the name only, e.g. htr.example.org"),
        ("https://htr.example.org", "write it as htr.example.org"),
        ("büche r.example.org", "write the name only, e.g. htr.example.org"),
    ],
)
def test_international_domain(value: str, mend: str) -> None:
    assert only(problems({"site_domain": value})).mend == mend


def test_international_mail_address() -> None:
    found = only(problems({"site_admin_email": "htr@bücher.example.org"}))
    assert found.mend == "write it as htr@xn--bcher-kva.example.org"
    assert only(problems({"site_admin_email": "jörg@example.org"})).mend == "write it like htr-admin@example.org"


def test_further_names_are_written_as_browsers_send_them() -> None:
    found = only(problems({"escriptorium_allowed_hosts": ["htr.example.org", "Bücher.example.org", "10.10.0.10"]}))
    assert (found.variable, found.mend) == ("escriptorium_allowed_hosts[1]", "write it as xn--bcher-kva.example.org")


@pytest.mark.parametrize(
    ("entry", "mend"),
    [
        ("Crop", "write it like our_app.views.Crop"),
        ("our_app.views.Crop,x", "write it like our_app.views.Crop"),
        ("our_app.views.Crop pk=everything", "the rights are asked, document"),
        ("our_app.views.Crop pk", "the rights are asked, document"),
    ],
)
def test_views_of_the_site_are_written_as_the_gate_reads_them(entry: str, mend: str) -> None:
    right = ["our_app.views.Statistics", "our_app.views.Crop document_pk=document part_pk=part"]
    found = only(problems({"escriptorium_gate_views": [*right, entry]}))
    assert found.variable == "escriptorium_gate_views[2]"
    assert found.mend.startswith(mend)


@pytest.mark.parametrize("value", ["all", "my db", "a,b", "", "+admins", "@file"])
def test_names_that_access_rules_read_otherwise(value: str) -> None:
    assert only(problems({"postgresql_database": value})).mend == "write escriptorium"
    assert problems({"postgresql_database": "Htr_2-test"}) == []


@pytest.mark.parametrize("value", ["Europe/Paris", "Etc/UTC", "UTC", "US/Eastern"])
def test_time_zones(value: str) -> None:
    assert problems({"base_timezone": value}) == []


@pytest.mark.parametrize(
    ("value", "mend"),
    [
        ("Europe/Pari", "did you mean 'Europe/Paris'?"),
        ("europe/paris", "did you mean 'Europe/Paris'?"),
        ("", "name one of `timedatectl list-timezones`, e.g. Europe/Paris"),
        ("../../etc/passwd", "name one of `timedatectl list-timezones`, e.g. Europe/Paris"),
    ],
)
def test_time_zone_that_does_not_exist(value: str, mend: str) -> None:
    assert only(problems({"base_timezone": value})).mend == mend


def test_control_machine_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("module_utils.platform_values.available_timezones", set)
    assert problems({"base_timezone": "Europe/Pari"}) == []


def test_empty_version() -> None:
    assert only(problems({"escriptorium_version": " "})).variable == "escriptorium_version"


def test_certificate_and_key_come_together() -> None:
    assert only(problems({"nginx_tls_certificate": "a.pem"})).variable == "nginx_tls_key"
    assert only(problems({"nginx_tls_key": "a.key"})).variable == "nginx_tls_certificate"
    assert problems({"nginx_tls_certificate": "a.pem", "nginx_tls_key": "a.key"}) == []
