"""A look at the pages of a PDF file that somebody uploads, before one is rendered. Pure: no Django.

Upstream renders each page at 300 dpi, by libvips and Poppler, for as long and with as much memory as its size asks for:
440 bytes may hold a page of 10 km. The sizes are read by Poppler as well, so that both see the same (``pdfinfo`` of
Debian's poppler-utils, all pages in one go: libvips would read those before it anew for each).
"""

from __future__ import annotations

import re
import subprocess
from typing import Final

from escriptorium_cluster.archive_check import RefusedFileError

#: Pixels that a page may have: Pillow, which makes its thumbnail, opens no larger image. A sheet of A0 has 139 million.
PAGE_PIXELS: Final = 178_956_970
#: What upstream renders at, and points of PDF, for each inch.
DPI, POINTS = 300, 72
#: Seconds for the look: less than the process that looks has.
SECONDS: Final = 25
_PAGES = re.compile(r"^Pages: +(\d{1,18})$", re.MULTILINE)
_SIZE = re.compile(r"^Page +(\d+) size: +(\S+) x (\S+) pts", re.MULTILINE)
NO_PDF: Final = "The PDF file cannot be read."
NO_PROGRAM: Final = "This site cannot look at PDF files: the program pdfinfo is missing (Debian's poppler-utils)."


def check_pdf(path: str, pages: int) -> None:
    """Refuse a file with too many pages, or with one that is too large.

    :param pages: how many there may be.
    :raises RefusedFileError: saying what is wrong.
    :raises subprocess.TimeoutExpired: when reading takes too long.
    """
    try:
        done = subprocess.run(
            ["pdfinfo", "-f", "1", "-l", str(pages + 1), path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=SECONDS,
        )
    except FileNotFoundError as error:
        raise RefusedFileError(NO_PROGRAM) from error
    # The file's title stands there too, and may look like such lines: each of them counts, and none hides another.
    count = max(map(int, _PAGES.findall(done.stdout)), default=0)
    try:
        sizes = [(number, float(width), float(height)) for number, width, height in _SIZE.findall(done.stdout)]
    except ValueError as error:
        raise RefusedFileError(NO_PDF) from error
    if count > pages:
        raise RefusedFileError(f"The PDF file has {count} pages; this site takes {pages} at a time.")
    if done.returncode or not count or len(sizes) < count:
        raise RefusedFileError(NO_PDF)
    for number, width, height in sizes:
        # Written so that what is no number is refused.
        if not width * height * (DPI / POINTS) ** 2 <= PAGE_PIXELS:
            raise RefusedFileError(
                f"Page {number} of the PDF file is too large: {_cm(width)} x {_cm(height)} cm. "
                f"At {DPI} dpi it may have {PAGE_PIXELS // 1_000_000} million pixels, which is more than a sheet of A0."
            )


def _cm(points: float) -> str:
    return f"{points / POINTS * 2.54:.0f}"
