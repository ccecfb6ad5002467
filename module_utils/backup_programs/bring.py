"""What comes back from the copies: files that are missing, or all of them as they were at a moment. Nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from .files import Account, MediaError, acting_as, clean_name, day, missing_folders, open_below, write_new
from .restic import BATCH_FILES, Node, Restic, Snapshot, batches, in_order

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


@dataclass
class Outcome:
    """What became of files that are wanted."""

    copied: int = 0
    bytes: int = 0
    there: int = 0
    kept: int = 0
    moved: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    sources: Counter[str] = field(default_factory=Counter)

    def shown(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "sources": dict(self.sources)}


class Copies:
    """All targets, as root asks them: in the order in which they are asked, those on this host first."""

    def __init__(self, settings: Mapping[str, Any], restics: Sequence[Restic], scratch: Path, owner: Account) -> None:
        local = [one for one in restics if one.target["type"] == "directory"]
        self.restics = local + [one for one in restics if one not in local]
        self.settings, self.scratch, self.owner = settings, scratch, owner
        self.media = Path(settings["media"])

    def nearest(self, moment: float, problems: list[str]) -> tuple[Restic, Snapshot] | None:
        """Return the newest copy that is not younger than a moment, of any target."""
        found: tuple[Restic, Snapshot] | None = None
        for restic in self.restics:
            for snapshot in self._snapshots(restic, problems):
                if snapshot.made <= moment and (found is None or snapshot.made > found[1].made):
                    found = restic, snapshot
        return found

    def _snapshots(self, restic: Restic, problems: list[str]) -> list[Snapshot]:
        try:
            return restic.snapshots()
        except MediaError as error:
            problems.append(f"{restic.target['name']}: {error}")
            return []

    def bring(self, names: Iterable[str], moment: float, *, dry_run: bool = False) -> Outcome:
        """Copy files that are not there from whatever target has them.

        Raises:
            MediaError: a file could not be written; those before it are there.

        """
        outcome, wanted = Outcome(), []
        for name in dict.fromkeys(map(clean_name, names)):
            if os.path.lexists(self.media / name):
                outcome.there += 1
            else:
                wanted.append(name)
        for restic in self.restics:
            for snapshot in in_order(self._snapshots(restic, outcome.problems) if wanted else (), moment):
                wanted = self._bring_from(restic, snapshot, wanted, outcome, dry_run=dry_run)
                if not wanted:
                    break
        outcome.missing = wanted
        return outcome

    def _bring_from(
        self, restic: Restic, snapshot: Snapshot, wanted: Sequence[str], outcome: Outcome, *, dry_run: bool
    ) -> list[str]:
        """Copy what one copy has of files; answers those that it has not, or that cannot be read there."""
        names = set(wanted)
        folders = sorted({str(PurePosixPath(name).parent) for name in names})
        nodes: dict[str, Node] = {}
        try:
            for start in range(0, len(folders), BATCH_FILES):
                part = [folder.removeprefix(".") for folder in folders[start : start + BATCH_FILES]]
                nodes |= {node.name: node for node in restic.files(snapshot, part) if node.name in names}
        except MediaError as error:
            outcome.problems.append(f"{restic.target['name']}: {error}")
        done = set(nodes) if dry_run else self._place(restic, snapshot, list(nodes.values()), outcome)
        for name in done if dry_run else ():
            self._count(restic, snapshot, nodes[name], outcome)
        return [name for name in wanted if name not in done]

    @staticmethod
    def _count(restic: Restic, snapshot: Snapshot, node: Node, outcome: Outcome) -> None:
        outcome.copied += 1
        outcome.bytes += node.size
        outcome.sources[f"{restic.target['name']} of {day(snapshot.made)}"] += 1

    def _place(self, restic: Restic, snapshot: Snapshot, nodes: Sequence[Node], outcome: Outcome) -> set[str]:
        """Bring files of a copy to their places; answers which were read."""
        done: set[str] = set()
        for batch in batches(nodes):
            with self._room(restic) as place:
                for node in self._fetch(restic, snapshot, batch, place, outcome):
                    content = open_below(place, node.name)
                    if content is None:
                        outcome.problems.append(f"{restic.target['name']}: {node.name} did not come back")
                        continue
                    with content:
                        try:
                            self._write(content, place, node.name)
                        except FileExistsError:
                            outcome.there += 1
                        except OSError as error:
                            words = f"{node.name}: {error.strerror}; {outcome.copied} files before it are there"
                            raise MediaError(words) from error
                        else:
                            self._count(restic, snapshot, node, outcome)
                    done.add(node.name)
        return done

    @contextlib.contextmanager
    def _room(self, restic: Restic) -> Iterator[Path]:
        """Yield a folder of the account's in a folder of root's, and take it away again."""
        place = Path(tempfile.mkdtemp(prefix="media-", dir=self.scratch))
        try:
            restic.give(place)
            yield place
        finally:
            shutil.rmtree(place)

    def _fetch(
        self, restic: Restic, snapshot: Snapshot, batch: Sequence[Node], place: Path, outcome: Outcome
    ) -> Iterator[Node]:
        """Yield files that were brought and are as the copy says; where one of a batch is damaged, one by one."""
        try:
            restic.fetch(snapshot, [node.name for node in batch], place)
        except MediaError as error:
            if len(batch) == 1:
                outcome.problems.append(f"{restic.target['name']}: {batch[0].name}: {error}")
                return
            for node in batch:
                yield from self._fetch(restic, snapshot, [node], place, outcome)
            return
        yield from batch

    def _write(self, content: BinaryIO, place: Path, name: str) -> None:
        target = self.media / name
        folders = missing_folders(target.parent, (place / name).parent, self.media)
        write_new(content, target, folders, self.owner)

    def restore(self, moment: float, *, dry_run: bool = False) -> dict[str, Any]:
        """Bring back all files that are missing, or were changed after a moment; newer ones stay.

        What was changed is moved to MEDIA-before-<moment> first. Files that were written after the copy and up to the
        moment stay as they are, and so do files that came later: no row of the moment names them.

        Raises:
            MediaError: there is no copy from before that moment, or a file could not be written.

        """
        outcome = Outcome()
        found = self.nearest(moment, outcome.problems)
        if found is None:
            raise MediaError(
                "there is no copy of the media from before that moment: they can stay as they are "
                f"(restore_media=false), or take another moment. {'; '.join(outcome.problems)}"
            )
        restic, snapshot = found
        before = self.media.with_name(
            f"{self.media.name}-before-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(moment))}"
        )
        wanted = []
        for node in restic.files(snapshot):
            what = self._state(node, moment)
            if what == "same":
                outcome.there += 1
            elif what == "newer":
                outcome.kept += 1
            else:
                wanted.append(node)
                if what == "changed":
                    outcome.moved += 1
                    if not dry_run:
                        self._move_aside(node.name, before)
        if dry_run:
            outcome.copied, outcome.bytes = len(wanted), sum(node.size for node in wanted)
        else:
            done = self._place(restic, snapshot, wanted, outcome)
            left = [node.name for node in wanted if node.name not in done]
            if left:
                other = self.bring(left, moment)
                outcome.copied += other.copied
                outcome.bytes += other.bytes
                outcome.sources += other.sources
                outcome.problems += other.problems
                outcome.missing = other.missing
        copy = {"target": restic.target["name"], "snapshot": snapshot.name[:8], "made": round(snapshot.made)}
        return {**copy, "before": str(before) if outcome.moved else "", **outcome.shown()}

    def _state(self, node: Node, moment: float) -> str:
        """Return what a file of the copy is among the live ones: missing, same, newer than the copy, or changed."""
        with acting_as(self.owner):
            try:
                live = os.lstat(self.media / clean_name(node.name))
            except OSError:
                return "missing"
        if not stat.S_ISREG(live.st_mode):
            return "changed"
        if live.st_size == node.size and int(live.st_mtime) == int(node.written):
            return "same"
        return "newer" if live.st_mtime <= moment else "changed"

    def _move_aside(self, name: str, before: Path) -> None:
        """Move what is in the place of a file to a folder beside the media, as their owner."""
        if not before.is_dir():
            before.mkdir(mode=0o700)
            os.chown(before, self.owner.uid, self.owner.gid)
        with acting_as(self.owner):
            target = before / name
            target.parent.mkdir(parents=True, exist_ok=True)
            number = 0
            while os.path.lexists(target):
                number += 1
                target = before / f"{name}.{number}"
            (self.media / name).rename(target)
