"""Brings back deleted files of the media from snapshots, a folder or copies. An existing file is never touched.

    recover-files < request.json

Standard input: ``media`` (folder), ``files`` (names below it), ``uid``, ``gid`` (who owns them), ``dry_run``, and where
to look: ``dataset`` (ZFS, with ``moment``, seconds since 1970) or ``folder`` (a copy of the media); what neither has is
asked of the copies that media-backup makes, where ``copies`` is true. Of several snapshots or copies that have a file,
the newest that is not younger than the moment is taken, or else the oldest after it. Prints the result as JSON:
``{"copied": ..., "bytes": ..., "there": ..., "missing": [...], "sources": {NAME: NUMBER}, "problems": [...]}``. Runs as
root, needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from .files import Account, MediaError, clean_name, missing_folders, open_below, run, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Run = Callable[..., str]

#: Program that asks the copies of the media.
COPIES: Final = ("/usr/local/sbin/media-backup", "bring")


@dataclass(frozen=True)
class Source:
    """A folder that holds media as they were: a snapshot of them, or a copy."""

    name: str
    folder: Path


def in_order(listed: str, moment: float) -> list[str]:
    """Return the names of `zfs list -Hp -o name,creation` in the order in which they are asked for a file."""
    rows = [(int(created), name.partition("@")[2]) for name, created in map(str.split, listed.splitlines())]
    before = sorted((row for row in rows if row[0] <= moment), reverse=True)
    after = sorted(row for row in rows if row[0] > moment)
    return [name for _, name in before + after]


def snapshots(dataset: str, moment: float, run: Run = run) -> list[Source]:
    """Return the snapshots of a dataset in the order in which they are asked for a file.

    Raises:
        MediaError: it has no place in the tree.

    """
    place = run("zfs", "get", "-H", "-o", "value", "mountpoint", dataset).strip()
    if not place.startswith("/"):
        raise MediaError(f"{dataset} is not mounted: its mountpoint is {place}")
    listed = run("zfs", "list", "-Hp", "-t", "snapshot", "-o", "name,creation", "-d", "1", dataset)
    return [Source(name, Path(place, ".zfs", "snapshot", name)) for name in in_order(listed, moment)]


def ask_for_place(dataset: str, run: Run = run) -> None:
    """Ask whether a dataset is where its files are seen: else files would be written below it, and keep it from there.

    Raises:
        MediaError: it is not, or nobody can say.

    """
    if run("zfs", "get", "-H", "-o", "value", "mounted", dataset).strip() != "yes":
        raise MediaError(f"{dataset} is not mounted, nothing was changed: zfs mount {dataset}")


def look_up(sources: Sequence[Source], name: str) -> tuple[Source, BinaryIO] | None:
    """Return the first source that has a file, and the file, open: what its name leads to may change."""
    for source in sources:
        if (content := open_below(source.folder, name)) is not None:
            return source, content
    return None


def recover(request: dict[str, Any], sources: Sequence[Source]) -> dict[str, Any]:
    """Copy the files of a request that are not there; answers what was done.

    Raises:
        MediaError: a file could not be written; those before it are there.

    """
    media, owner = Path(request["media"]), Account(int(request["uid"]), int(request["gid"]))
    result: dict[str, Any] = {"copied": 0, "bytes": 0, "there": 0, "missing": []}
    counts: Counter[str] = Counter()
    if not media.is_dir():
        raise MediaError(f"the media folder {media} is not there")
    for name in dict.fromkeys(request["files"]):
        target = media / clean_name(name)
        if os.path.lexists(target):
            result["there"] += 1
            continue
        found = look_up(sources, clean_name(name))
        if found is None:
            result["missing"].append(name)
            continue
        source, content = found
        try:
            with content:
                size = os.fstat(content.fileno()).st_size
                if not request.get("dry_run"):
                    folders = missing_folders(target.parent, (source.folder / clean_name(name)).parent, media)
                    write_new(content, target, folders, owner)
        except FileExistsError:
            result["there"] += 1
            continue
        except OSError as error:
            raise MediaError(f"{name}: {error.strerror}; {result['copied']} files before it are there") from error
        result["copied"] += 1
        result["bytes"] += size
        counts[source.name] += 1
    return result | {"sources": dict(counts)}


def sources_of(request: dict[str, Any], run: Run = run) -> list[Source]:
    """Return where a request wants files to be looked for; nowhere is possible.

    Raises:
        MediaError: it is not there, or the media are not.

    """
    if request.get("dataset"):
        ask_for_place(request["dataset"], run)
    if request.get("folder"):
        folder = Path(request["folder"])
        if not folder.is_dir():
            raise MediaError(f"the folder {folder} (recover_files_from) is not there")
        return [Source(str(folder), folder.resolve())]
    return snapshots(request["dataset"], float(request["moment"]), run) if request.get("dataset") else []


def ask_copies(text: str) -> str:
    """Answer what media-backup says to a request.

    Raises:
        MediaError: it failed.

    """
    done = subprocess.run(COPIES, check=False, capture_output=True, text=True, input=text, cwd="/")
    if done.returncode != 0:
        raise MediaError(f"the copies of the media give nothing: {done.stderr.strip()}")
    return done.stdout


def recover_from_copies(
    request: dict[str, Any], result: dict[str, Any], ask: Callable[[str], str] = ask_copies
) -> dict[str, Any]:
    """Have what was found nowhere looked for in the copies of the media; answers what was done altogether.

    Raises:
        MediaError: they cannot be asked, or a file could not be written; those before it are there.

    """
    if not request.get("copies") or not result["missing"]:
        return result | {"problems": []}
    wanted = {"files": result["missing"], "moment": request["moment"], "dry_run": bool(request.get("dry_run"))}
    found = json.loads(ask(json.dumps(wanted)))
    sums = {name: result[name] + found[name] for name in ("copied", "bytes", "there")}
    sources = Counter(result["sources"]) + Counter(found["sources"])
    return {**sums, "missing": found["missing"], "sources": dict(sources), "problems": found["problems"]}


def main() -> int:
    """Run the command; the exit status."""
    try:
        request: dict[str, Any] = json.loads(sys.stdin.read())
        result = recover_from_copies(request, recover(request, sources_of(request)))
    except (MediaError, OSError, ValueError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(result) + "\n")
    return 0
