#!/usr/bin/python3
"""The one program that the key of a second storage server may start: what syncoid asks of a source, and nothing else.

    serve DATASET...

sshd calls it with what was asked for in SSH_ORIGINAL_COMMAND. Properties and snapshots of these datasets are read and
sent; no shell sees a word of it. A send that goes on (`-t`) names its dataset in a code of ZFS: `zfs allow` bounds that
one to the pool. Runs as an account of its own, with Python.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Programs of a stream that syncoid may look for and use; of others it is told that there is none.
STREAM: Final = frozenset({"lzop", "mbuffer"})
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
SILENT: Final = ["2", ">", "/dev/null"]
_WORD: Final = re.compile(r"[A-Za-z0-9_@#/.:,+=-]+")
_LOOK_FOR: Final = re.compile(r"command -v [a-z0-9-]+")
_FEATURE: Final = re.compile(r"zpool get -o value -H feature@extensible_dataset (?P<pool>\S+)")
_GET: Final = re.compile(
    r"zfs get (-H [a-z_:]+|-Hpd 1 -t (snapshot|bookmark) guid,creation|-Hpd 1 type,guid,creation) (?P<dataset>\S+)"
)
_SEND: Final = re.compile(
    r"zfs send( -nvP)?( -[iI] (?P<base>[^@#\s]+)[@#][^@#\s/]+)? (?P<dataset>[^@#\s-][^@#\s]*)@[^@#\s/]+"
)
_SEND_ON: Final = re.compile(r"zfs send( -nvP)? -t [0-9a-f-]+")
_AFTER_SEND: Final = re.compile(r"lzop|mbuffer( -q| -[sm] [0-9]+[kMG]?)*")


class Refused(Exception):  # noqa: N818 - it is what the other side is told
    """The key is not for this."""


def stages(command: str) -> list[list[str]]:
    """Split a command line into the words of each program of its pipe.

    Raises:
        Refused: it has more in it than words and pipes; errors thrown away at the end of a program are no more.

    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""  # a bookmark's name has one of these signs
    try:
        words = list(lexer)
    except ValueError as error:
        raise Refused(command) from error
    found: list[list[str]] = [[]]
    for word in words:
        if word == "|":
            found.append([])
        else:
            found[-1].append(word)
    found = [stage[: -len(SILENT)] if stage[-len(SILENT) :] == SILENT else stage for stage in found]
    if not all(_WORD.fullmatch(word) for stage in found for word in stage):
        raise Refused(command)
    return found


def allowed(command: str, datasets: Sequence[str]) -> list[list[str]]:
    """Return what may be run of a command: the words of each program of a pipe; an empty list where nothing is to run.

    Raises:
        Refused: the key is not for this.

    """
    first, *rest = stages(command)
    text = " ".join(first)
    if text in ("", "exit", "echo -n") and not rest:
        return []
    if _LOOK_FOR.fullmatch(text) and not rest:
        return [first]
    pools = {name.partition("/")[0] for name in datasets}
    if not rest and (match := _FEATURE.fullmatch(text)) and match["pool"] in pools:
        return [first]
    if not rest and (match := _GET.fullmatch(text)) and match["dataset"] in datasets:
        return [first]
    if all(_AFTER_SEND.fullmatch(" ".join(stage)) for stage in rest):
        if _SEND_ON.fullmatch(text):
            return [first, *rest]
        match = _SEND.fullmatch(text)
        if match and {match["dataset"], match["base"] or match["dataset"]} <= set(datasets):
            return [first, *rest]
    raise Refused(command)


def run(programs: Sequence[Sequence[str]]) -> int:
    """Run the programs of a pipe; the exit status, of the first that fails."""
    running: list[subprocess.Popen[bytes]] = []
    for number, words in enumerate(programs):
        before = running[-1].stdout if running else subprocess.DEVNULL
        after = subprocess.PIPE if number < len(programs) - 1 else None
        running.append(subprocess.Popen(words, stdin=before, stdout=after))
        if running[:-1] and running[-2].stdout is not None:
            running[-2].stdout.close()  # so that it notices when the next one ends
    statuses = [process.wait() for process in running]
    return next((status if status > 0 else 1 for status in statuses if status), 0)


def main() -> int:
    """Do what was asked for, where the key is for it; the exit status."""
    os.environ["PATH"] = PATH
    try:
        programs = allowed(os.environ.get("SSH_ORIGINAL_COMMAND", ""), sys.argv[1:])
    except Refused:
        sys.stderr.write("this key is for copies of snapshots only\n")
        return 1
    if programs and programs[0][0] == "command":
        place = shutil.which(programs[0][-1]) if programs[0][-1] in STREAM else None
        sys.stdout.write(f"{place}\n" if place else "")
        return 0 if place else 1
    return run(programs)


if __name__ == "__main__":
    sys.exit(main())
