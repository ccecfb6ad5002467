#!/usr/bin/python3
"""Packs a release into the shared tree, and brings one from there to this host.

    release-archive pack RELEASE ARCHIVE CHECKSUM_FILE ACCOUNT
    release-archive fetch ARCHIVE CHECKSUM RELEASE

CHECKSUM is what pack writes to CHECKSUM_FILE: the SHA-256 of the archive, and its size in bytes.

The service account of every host may change what lies in the shared tree, at any moment. So the checksum is that of
what was packed, never of what lies there afterwards; and what is unpacked is a copy of root's own, which was checked.
Runs as root, with Python, tar and zstd.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class ArchiveError(Exception):
    """The release could not be packed or brought; the message says why."""


@contextlib.contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Act as another account: root of another host is nobody in the shared tree, and links there lead no further."""
    before, groups = (os.geteuid(), os.getegid()), os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])
        os.setgroups(groups)


def copy(source: IO[bytes], target: IO[bytes], most: float = math.inf) -> str:
    """Copy a stream, of a longer one a block beyond ``most`` bytes; answers SHA-256 and size of what was copied."""
    digest, copied = hashlib.sha256(), 0
    while copied <= most and (block := source.read(1 << 20)):
        digest.update(block)
        copied += len(block)
        target.write(block)
    target.flush()
    return f"{digest.hexdigest()} {copied}"


def pack(release: Path, archive: Path, checksum: Path, owner: tuple[int, int]) -> None:
    """Pack a release as the owner of the shared tree, and keep its checksum where only root writes.

    Raises:
        ArchiveError: tar failed; there is no archive and no checksum of it then.

    """
    checksum.unlink(missing_ok=True)  # an archive without one is packed again
    command = ["tar", "-C", str(release.parent), "-I", "zstd -T0 -1", "-cf", "-", release.name]
    partial = archive.with_name(f"{archive.name}.partial")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as tar, acting_as(*owner):
        assert tar.stdout is not None  # noqa: S101 - for the types
        partial.unlink(missing_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(handle, 0o644)
                packed = copy(tar.stdout, stream)
                os.fsync(handle)
            if tar.wait() != 0:
                raise ArchiveError(f"tar could not pack {release}")
            partial.replace(archive)
        finally:
            partial.unlink(missing_ok=True)
    checksum.write_text(f"{packed}\n")
    checksum.chmod(0o644)


def fetch(archive: Path, checksum: str, release: Path) -> None:
    """Copy an archive, check the copy, and unpack the copy.

    Raises:
        ArchiveError: it is no file, or not what the build host packed, or tar failed.

    """
    # An earlier version wrote no size. Without one, who may write there fills the disk here.
    expected = checksum.split()
    most = int(expected[1]) if len(expected) > 1 else math.inf
    if not release.parent.exists():
        release.parent.mkdir(parents=True)
        release.parent.chmod(0o755)
    # A pipe there would else be waited for.
    handle = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as shared, tempfile.TemporaryFile(dir=release.parent) as own:
        plain = stat.S_ISREG(os.fstat(handle).st_mode)
        if not plain or copy(shared, own, most).split()[: len(expected)] != expected:
            raise ArchiveError(f"{archive} is not what the build host packed: remove it, the next run packs it again")
        own.seek(0)
        partial = release.with_name(f"{release.name}.partial")
        for folder in (partial, release):
            if folder.exists():
                shutil.rmtree(folder)
        partial.mkdir()
        partial.chmod(0o755)
        command = ["tar", "-C", str(partial), "--strip-components=1", "--zstd", "-xf", "-"]
        if subprocess.run(command, stdin=own, check=False).returncode != 0:
            raise ArchiveError(f"tar could not unpack {archive}")
        partial.rename(release)


def main() -> int:
    """Run the command; the exit status."""
    try:
        match sys.argv[1:]:
            case ["pack", release, archive, checksum, account]:
                found = pwd.getpwnam(account)
                pack(Path(release), Path(archive), Path(checksum), (found.pw_uid, found.pw_gid))
            case ["fetch", archive, checksum, release]:
                fetch(Path(archive), checksum, Path(release))
            case _:
                sys.stderr.write(f"{__doc__}\n")
                return 2
    except (ArchiveError, OSError, KeyError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
