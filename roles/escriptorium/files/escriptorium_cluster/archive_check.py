"""Bounds of archives that somebody uploads, looked at before anything is unpacked. Pure: no Django.

Upstream tests a whole archive in the web process and reads each file of it into memory: 300 kB may hold 300 MB. The
sizes are those of the archive's own directory. They bind: Python's ``zipfile`` gives out no byte more than the
directory announces, however much a file unpacks to, and overlapping files are counted each.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass

#: MiB that one file of an archive may have: it is read into memory, by one worker.
FILE_MIB = 1024
#: How many times its own size an archive may have unpacked. Text with markup has 10 to 30 times; a bomb 1000.
RATIO = 100
#: Unpacked MiB up to which the ratio does not matter.
SMALL_MIB = 64


class RefusedFileError(Exception):
    """A file is not taken; the message is for who uploads it."""


@dataclass(frozen=True, slots=True)
class ArchiveBounds:
    """How many files (of a PDF file: pages), and how many MiB unpacked."""

    files: int
    mib: int


def check_archive(path: str, size: int, bounds: ArchiveBounds) -> None:
    """Refuse an archive that is larger inside than it may be.

    :param size: of the archive itself, in bytes.
    :raises RefusedFileError: saying which bound.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry.file_size for entry in archive.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise RefusedFileError("The archive cannot be read.") from error
    if len(entries) > bounds.files:
        raise RefusedFileError(f"The archive has {len(entries)} files; this site takes {bounds.files} at a time.")
    total = sum(entries)
    if total > bounds.mib << 20:
        raise RefusedFileError(f"The archive holds {total >> 20} MiB unpacked; this site takes {bounds.mib} at a time.")
    if max(entries, default=0) > FILE_MIB << 20:
        raise RefusedFileError(f"A file of the archive has more than {FILE_MIB} MiB unpacked.")
    if total > SMALL_MIB << 20 and total > RATIO * size:
        raise RefusedFileError(f"The archive is more than {RATIO} times larger unpacked: no images or texts are.")
