"""Refusals of what would keep a CA from giving a certificate."""

from __future__ import annotations

from typing import Any

import pytest

from module_utils.platform_acme import ACME_RULES
from module_utils.platform_problems import Inventory, Problem
from module_utils.platform_variables import Catalogue, Variable

DEFAULTS: dict[str, tuple[str, Any]] = {
    "acme_enabled": ("bool", False),
    "acme_eab_kid": ("str", ""),
    "acme_eab_hmac_key": ("str", ""),
    "acme_challenge": ("str", "http-01"),
    "acme_dns_hook": ("str", ""),
    "acme_further_names": ("list", []),
    "acme_directory": ("str", "https://ca.example.org/directory"),
    "acme_renew_days": ("int", 30),
    "acme_warn_days": ("int", 14),
    "acme_environment": ("dict", {}),
    "nginx_tls_certificate": ("str", ""),
    "escriptorium_allowed_hosts": ("list", []),
}
CATALOGUE = Catalogue(
    {name: Variable(name, kind, "", default=value, has_default=True) for name, (kind, value) in DEFAULTS.items()}
)


def problems(**given: Any) -> list[Problem]:
    values = {"site_domain": "htr.example.org", "acme_enabled": True, **given}
    inventory = Inventory({"all": ("web",), "frontend": ("web",)}, {"web": values})
    return [problem for rule in ACME_RULES for problem in rule(inventory, CATALOGUE)]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {
            "acme_eab_kid": "kid-7",
            "acme_eab_hmac_key": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
        },
        {"acme_challenge": "dns-01", "acme_dns_hook": "tls/dns-hook", "acme_environment": {"DNS_TOKEN": "x"}},
        {"acme_further_names": ["www.example.org"], "escriptorium_allowed_hosts": ["www.example.org"]},
        {"acme_enabled": "false", "acme_eab_kid": "kid-7", "acme_challenge": "dns-01"},
    ],
)
def test_what_a_ca_can_answer_is_taken(given: dict[str, Any]) -> None:
    assert problems(**given) == []


@pytest.mark.parametrize(
    ("given", "variable"),
    [
        ({"nginx_tls_certificate": "tls/fullchain.pem"}, "acme_enabled"),
        ({"acme_eab_kid": "kid-7"}, "acme_eab_hmac_key"),
        ({"acme_eab_hmac_key": "zWNDZM6eQGHWpSRTPal5eIUY"}, "acme_eab_kid"),
        ({"acme_eab_kid": "kid-7", "acme_eab_hmac_key": "not base64!"}, "acme_eab_hmac_key"),
        ({"acme_challenge": "dns-01"}, "acme_dns_hook"),
        ({"acme_dns_hook": "tls/dns-hook"}, "acme_challenge"),
        ({"acme_further_names": ["www.example.org"]}, "acme_further_names[0]"),
        ({"acme_directory": "http://ca.example.org/directory"}, "acme_directory"),
        ({"acme_directory": "letsencrypt"}, "acme_directory"),
        ({"acme_warn_days": 30}, "acme_warn_days"),
        ({"acme_warn_days": 0}, "acme_warn_days"),
        ({"acme_environment": {"dns token": "x"}}, "acme_environment"),
    ],
)
def test_what_would_fail_at_the_ca_is_refused_here(given: dict[str, Any], variable: str) -> None:
    (found,) = problems(**given)
    assert found.variable == variable
    assert "not base64!" not in found.text()
