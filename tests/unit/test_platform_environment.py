"""Which variable stands in which environment file, and how systemd reads it."""

from __future__ import annotations

from ansible.module_utils.platform_environment import HEAD, files, text

WEB, MAIL = {"SECRET_KEY": "of the site"}, {"CLUSTER_EMAIL_PASSWORD": ""}


def test_values_are_quoted_and_names_in_order() -> None:
    written = text({"b": 'say "so"', "A": True, "c": "Größe\n2", "D": 7})
    assert written == HEAD + 'A="True"\nb="say \\"so\\""\nc="Größe\\n2"\nD="7"\n'


def test_a_site_adds_and_overrides_each_where_it_belongs() -> None:
    site = {"QUOTA": 7, "DOMAIN": "b", "SECRET_KEY": "another", "CLUSTER_EMAIL_PASSWORD": "pass"}
    assert files({"DOMAIN": "a"}, WEB, MAIL, site) == {
        "everybody": text({"DOMAIN": "b", "QUOTA": 7}),
        "web": text({"SECRET_KEY": "another"}),
        "mail": text({"CLUSTER_EMAIL_PASSWORD": "pass"}),
    }


def test_a_site_without_variables_has_ours() -> None:
    assert files({"DOMAIN": "a"}, WEB, MAIL, {}) == {
        "everybody": text({"DOMAIN": "a"}),
        "web": text(WEB),
        "mail": text(MAIL),
    }
