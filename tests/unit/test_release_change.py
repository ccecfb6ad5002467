"""What upgrade.yml and roll-back.yml know of a change between releases, wherever a run before was broken off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from playbooks.files import release_change
from playbooks.files.release_change import ChangeError, Site, Wish

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW, OLDER = "old-1", "new-2", "older-0"
MOMENT, LATER = "2026-11-01T10:00:00Z", "2026-11-22T10:00:00Z"
HARM = "core.project.rank has to have a value"


class Database:
    """Releases that see in one database what they know, and migrate it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.applied: set[str] = set()
        #: Migrations of NEW; those that OLD cannot live with; those that cannot be taken back.
        self.added, self.harmful, self.kept = {"core.5"}, {"core.5"}, set[str]()
        self.fails = False
        self.calls: list[tuple[str, ...]] = []
        for release in (OLDER, OLD, NEW):
            (home / "releases" / release).mkdir(parents=True)
            (home / "releases" / release / "release.json").write_text(json.dumps({"version": f"v-{release}"}))
        self.runs(OLD)

    def runs(self, release: str) -> None:
        (self.home / "current").unlink(missing_ok=True)
        (self.home / "current").symlink_to(self.home / "releases" / release)

    def manage(self, folder: Path, *words: str) -> str:
        new = folder.name == NEW
        if words[0] == "migrate_site":
            self.calls.append((folder.name, *words[1:]))
            if self.fails:
                raise ChangeError("manage.py migrate_site fails: the disk is full")
            self.applied = set() if words[1:] else self.applied | self.added
            return ""
        named = {name for word in words for name in word.removeprefix("--applied=").split(",") if word != words[0]}
        why = sorted(f"{name} holds what users did" for name in named & self.kept)
        decision = "restore" if why else "back" if named & self.harmful else "stays"
        answer = {
            "unknown": [] if new else sorted(self.applied),
            "missing": [{"name": name} for name in sorted(self.added - self.applied)] if new else [],
            "targets": {"core": "0004"},
            "applied": sorted(named & self.added),
            "decision": decision,
            "why": why,
        }
        return f"something else\n{json.dumps(answer)}\n"


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path)


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(tmp_path, tmp_path / "paused", database.manage)


def wish(**values: bool) -> Wish:
    return Wish("front", "escriptorium", **values)


# --- note --------------------------------------------------------------------------------------------------------


def test_an_attempt_that_changed_nothing_leaves_no_moment(site: Site) -> None:
    assert release_change.note(site, NEW, [HARM], MOMENT)["moment"] == MOMENT
    assert release_change.note(site, NEW, [HARM], LATER)["moment"] == LATER


def test_an_attempt_that_applied_something_harmful_keeps_its_moment(site: Site) -> None:
    release_change.note(site, NEW, [HARM, "more"], MOMENT)
    for _ in range(2):
        assert release_change.note(site, NEW, [HARM], LATER)["moment"] == MOMENT
    assert release_change.note(site, NEW, [], LATER)["moment"] == MOMENT


def test_another_upgrade_begins_anew(site: Site, database: Database) -> None:
    release_change.note(site, OLD, [HARM], MOMENT)
    database.runs(OLD)
    record = release_change.note(site, NEW, [], LATER)
    assert (record["from"], record["to"], record["moment"]) == (OLD, NEW, LATER)


# --- settle ------------------------------------------------------------------------------------------------------


def begun(site: Site, database: Database, applied: set[str]) -> None:
    """An upgrade whose migrations have failed, with these applied, while requests wait."""
    site.write({"from": OLDER, "to": OLD, "moment": MOMENT})
    release_change.note(site, NEW, [HARM], LATER)
    site.paused.write_text("7\n")
    database.applied = applied


def test_where_nothing_was_applied_the_release_goes_on_and_the_upgrade_before_can_be_undone(
    site: Site, database: Database
) -> None:
    begun(site, database, set())
    assert release_change.settle(site, NEW) == {"goes_on": True, "why": [], "changed": False}
    assert site.record == {"from": OLDER, "to": OLD, "moment": MOMENT}


def test_half_of_a_harmful_series_is_taken_back(site: Site, database: Database) -> None:
    database.added = {"core.5", "core.6"}
    begun(site, database, {"core.5"})
    assert release_change.settle(site, NEW) == {"goes_on": True, "why": [], "changed": True}
    assert database.calls == [(NEW, "core=0004")]
    assert database.applied == set()


@pytest.mark.parametrize(("kept", "fails"), [({"core.5"}, False), (set[str](), True)])
def test_where_it_cannot_be_taken_back_nothing_goes_on(
    site: Site, database: Database, kept: set[str], fails: bool
) -> None:
    database.added, database.kept, database.fails = {"core.5", "core.6"}, kept, fails
    begun(site, database, {"core.5"})
    found = release_change.settle(site, NEW)
    assert found["goes_on"] is False
    assert found["why"]
    assert site.record["moment"] == LATER, "the moment of the restore stays"


def test_what_does_no_harm_stays(site: Site, database: Database) -> None:
    database.harmful = set()
    begun(site, database, {"core.5"})
    assert release_change.settle(site, NEW) == {"goes_on": True, "why": [], "changed": False}
    assert database.applied == {"core.5"}


def test_a_way_back_that_failed_half_way_is_undone(site: Site, database: Database) -> None:
    release_change.note(site, NEW, [HARM], MOMENT)
    database.runs(NEW)
    site.paused.write_text("7\n")
    database.added, database.applied = {"core.5", "core.6"}, {"core.5"}
    assert release_change.settle(site, OLD) == {"goes_on": True, "why": [], "changed": True}
    assert database.calls == [(NEW,)]
    assert site.record["to"] == NEW, "the way back can be tried again"


def test_beside_requests_that_go_on_nothing_is_taken_back(site: Site, database: Database) -> None:
    begun(site, database, {"core.5"})
    site.paused.unlink()
    assert release_change.settle(site, NEW)["goes_on"] is True
    assert database.calls == []


# --- back --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", [NEW, OLD])
def test_a_way_back_is_finished_wherever_it_was_broken_off(site: Site, database: Database, current: str) -> None:
    release_change.note(site, NEW, [], MOMENT)
    database.runs(current)
    database.applied = {"core.5"}
    found = release_change.back(site, wish(pause=True))
    assert found["refusal"] == []
    assert (found["from"], found["to"], found["version"]) == (OLD, NEW, f"v-{OLD}")
    assert (found["decision"], found["migrates"], found["targets"]) == ("back", True, {"core": "0004"})
    assert found["newer_folder"].endswith(f"/{NEW}"), "only the newer release knows how"
    database.applied = set()
    assert release_change.back(site, wish())["decision"] == "nothing"


@pytest.mark.parametrize(
    ("current", "applied", "words"),
    [
        (OLDER, set[str](), f"Release {OLDER} runs, and the last upgrade was to {NEW}"),
        (NEW, {"core.5"}, "-e pause_jobs=yes"),
    ],
)
def test_what_speaks_against_a_way_back(
    site: Site, database: Database, current: str, applied: set[str], words: str
) -> None:
    release_change.note(site, NEW, [HARM], MOMENT)
    database.runs(current)
    database.applied = applied
    assert words in "\n".join(release_change.back(site, wish())["refusal"])


def test_a_way_back_that_loses_something_names_the_commands_of_a_restore(site: Site, database: Database) -> None:
    release_change.note(site, NEW, [HARM], MOMENT)
    database.applied = database.kept = {"core.5"}
    restore = f"playbooks/restore.yml -e restore_target_time={MOMENT} -e restore_overwrite=escriptorium@front"
    database.runs(NEW)
    said = "\n".join(release_change.back(site, wish())["refusal"])
    assert "roll_back_database=as-it-is" in said
    assert restore in said
    found = release_change.back(site, wish(as_it_is=True))
    assert (found["refusal"], found["migrates"]) == ([], False)
    database.runs(OLD)
    said = "\n".join(release_change.back(site, wish())["refusal"])
    assert "as-it-is" not in said
    assert restore in said


def test_without_an_upgrade_there_is_no_way_back(site: Site, database: Database) -> None:
    assert "No upgrade is noted on front" in release_change.back(site, wish())["refusal"][0]
    release_change.note(site, NEW, [], MOMENT)
    (database.home / "releases" / OLD / "release.json").unlink()
    assert f"Release {OLD} is not kept" in release_change.back(site, wish())["refusal"][0]


# --- the program -------------------------------------------------------------------------------------------------


def test_the_program_answers_in_json_or_in_sentences(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert release_change.main(["note", "--json", "--to", NEW, "--harm", HARM], site) == 0
    assert json.loads(capsys.readouterr().out)["harms"] == [HARM]
    assert release_change.main(["settle", "--json", "--other", NEW], site) == 0
    assert json.loads(capsys.readouterr().out)["goes_on"] is True
    assert release_change.main(["back", "--host", "front"], site) == 0
    assert "No upgrade is noted on front" in capsys.readouterr().out


def test_a_release_that_does_not_answer_fails_the_program(
    site: Site, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(folder: Path, *words: str) -> Any:
        raise ChangeError(f"manage.py {words[0]} of {folder.name} fails: no database")

    release_change.note(site, NEW, [], MOMENT)
    database.runs(NEW)
    assert release_change.main(["back", "--json"], Site(site.home, site.paused, fails)) == 1
    assert "no database" in capsys.readouterr().err
