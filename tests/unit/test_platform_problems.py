"""Problems: merged over hosts, with suggestions."""

from __future__ import annotations

from module_utils.platform_problems import EVERY_HOST, Problem, collapse, did_you_mean
from tests.unit.sound_inventory import only


def test_one_mistake_is_one_problem() -> None:
    many = [Problem(f"cpu{number}", "a", "b", "c", "d") for number in range(20)]
    assert only(collapse(many, [problem.host for problem in many])).host == EVERY_HOST
    assert (
        only(collapse(many, [*(problem.host for problem in many), "web"])).host == "cpu0, cpu1, cpu2, cpu3 and 16 more"
    )


def test_suggestion_only_for_near_names() -> None:
    assert did_you_mean("site_domian", ["site_domain"]) == "did you mean 'site_domain'?"
    assert did_you_mean("zebra", ["site_domain"]) == ""
