"""Who is at work where: one at a time on each target, and no change of the database's backups while they are copied.

A copy must not name a backup whose files it lacks: pgBackRest writes its list last, and removes files after it. The
locks are on folders, which are always there, and which who only reads may lock too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from .files import MediaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Below the folder of the backups: the repository, which is locked, and where those who want to lock it queue.
REPOSITORY: Final = "pgbackrest"
QUEUE: Final = "records"
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class InUseError(MediaError):
    """Another one is at work there."""


def _wait(handle: int, operation: int, deadline: float, words: str) -> None:
    """Lock what is open, until a moment of the monotonic clock.

    Raises:
        InUseError: another one still has it; with these words.

    """
    while True:
        try:
            fcntl.flock(handle, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise InUseError(words) from None
            time.sleep(0.5)
        else:
            return


@contextlib.contextmanager
def only_one(folder: Path, target: str, patience: float = 0) -> Iterator[None]:
    """Keep others away from a target meanwhile; wait for one that is there so many seconds.

    Raises:
        InUseError: another one is still at work there.

    """
    deadline = time.monotonic() + patience
    handle = os.open(folder / f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w"):
        _wait(handle, fcntl.LOCK_EX, deadline, f"another one is at work on {target}")
        yield


@contextlib.contextmanager
def backups_held(backups: Path, patience: float, *, changes: bool) -> Iterator[None]:
    """Hold the backups of the database: alone who changes them, together who copies them. Waits so many seconds.

    All queue in one line: else copies to many targets, one after the other, would keep each backup waiting.

    Raises:
        InUseError: others have them still.

    """
    deadline = time.monotonic() + patience
    what = "copied elsewhere, or made," if changes else "made"
    words = f"backups of the database were {what} all the time for {patience:.0f} s"
    with contextlib.ExitStack() as opened:
        repository = os.open(backups / REPOSITORY, _FOLDER)
        opened.callback(os.close, repository)
        queue = os.open(backups / QUEUE, _FOLDER)
        try:
            _wait(queue, fcntl.LOCK_EX, deadline, words)
            _wait(repository, fcntl.LOCK_EX if changes else fcntl.LOCK_SH, deadline, words)
        finally:
            os.close(queue)
        yield
