"""Looks at one uploaded file in a process of its own, with little memory, little time and no secret.

    python -m escriptorium_cluster.upload_check archive|model|pdf PATH FILES MIB

It ends with 0 (take it) or 3 and the reason on its standard output. Any other end is a refusal as well: a file that
needs more than there is here is none that the web process should open.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from escriptorium_cluster.archive_check import ArchiveBounds, RefusedFileError, check_archive
from escriptorium_cluster.model_check import check_model
from escriptorium_cluster.pdf_check import check_pdf

#: MiB of address space and seconds that a look may take: Python and the directory of a large archive have 200.
MEMORY_MIB, SECONDS = 1024, 30
REFUSED = 3
#: Said where the process did not end by itself.
TOO_HEAVY = "This file takes too much time or memory to look at."


def main(kind: str, path: str, files: str, mib: str) -> int:
    """Look at a file and print why it is refused, if it is."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MIB << 20, MEMORY_MIB << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    size = Path(path).stat().st_size
    try:
        if kind == "archive":
            check_archive(path, size, ArchiveBounds(int(files), int(mib)))
        elif kind == "pdf":
            check_pdf(path, int(files))
        else:
            check_model(path, size)
    except RefusedFileError as error:
        print(error)
        return REFUSED
    return 0


def look_at(kind: str, path: str, bounds: ArchiveBounds) -> None:
    """Look at a file in another process.

    :raises RefusedFileError: with the reason.
    """
    # Of the virtual environment: in uWSGI, sys.executable is uWSGI.
    python = Path(sys.prefix) / "bin" / "python3"
    package = Path(__file__).resolve().parents[1]
    command = [str(python), "-s", "-m", "escriptorium_cluster.upload_check", kind, path]
    try:
        done = subprocess.run(
            [*command, str(bounds.files), str(bounds.mib)],
            env={"PYTHONPATH": str(package), "LANG": "C.UTF-8"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RefusedFileError(TOO_HEAVY) from error
    if done.returncode == REFUSED:
        raise RefusedFileError(done.stdout.strip())
    if done.returncode:
        raise RefusedFileError(TOO_HEAVY)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
