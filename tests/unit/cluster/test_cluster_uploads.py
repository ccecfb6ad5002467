"""Files that users upload: archives and models that are more than they look, real ones, and how a refusal is said."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from escriptorium_cluster.archive_check import ArchiveBounds, RefusedFileError, check_archive
from escriptorium_cluster.model_check import check_model
from escriptorium_cluster.pdf_check import check_pdf
from escriptorium_cluster.upload_check import look_at
from escriptorium_cluster.vgsl_size import DescriptionError, count_weights
from hypothesis import given
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = ArchiveBounds(files=5, mib=200)
#: Kraken 5.3.0's own: of its default segmenter, whose file has 5047020 bytes, and of its default recogniser.
SEGMENTER = (
    "[1,1800,0,3 Cr{C_0}7,7,64,2,2 Gn{Gn_1}32 Cr{C_2}3,3,128,2,2 Gn{Gn_3}32 Cr{C_4}3,3,128 Gn{Gn_5}32 Cr{C_6}3,3,256 "
    "Gn{Gn_7}32 Cr{C_8}3,3,256 Gn{Gn_9}32 Lbx{L_10}32 Lby{L_11}32 Cr{C_12}1,1,32 Gn{Gn_13}32 Lby{L_14}32 Lbx{L_15}32 "
    "O{l_16}2l4]"
)
SEGMENTER_BYTES = 5047020
RECOGNISER = (
    "[1,120,0,1 Cr3,13,32 Do0.1,2 Mp2,2 Cr3,13,32 Do0.1,2 Mp2,2 Cr3,9,64 Do0.1,2 Mp2,2 Cr3,9,64 Do0.1,2 S1(1x0)1,3 "
    "Lbx200 Do0.1,2 Lbx200 Do0.1,2 Lbx200 Do O1c100]"
)


def varint(number: int) -> bytes:
    """Write a number as protobuf does."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*made, number])


def message(number: int, content: bytes) -> bytes:
    """Write one field of protobuf that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def model(*texts: tuple[str, str], weights: int = 0) -> bytes:
    """Write a CoreML file as Kraken does: a version, a description with its texts, a network."""
    entries = b"".join(message(100, message(1, key.encode()) + message(2, value.encode())) for key, value in texts)
    description = message(1, b"input") + message(100, message(1, b"kraken model") + entries)
    return b"\x08\x01" + message(2, description) + message(500, b"\0" * weights)


def checked(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.mlmodel"
    path.write_bytes(content)
    check_model(str(path), len(content))


# --- archives ---------------------------------------------------------------------------------------------------------


def archive(tmp_path: Path, sizes: list[int], how: int = zipfile.ZIP_DEFLATED) -> Path:
    path = tmp_path / "upload.zip"
    with zipfile.ZipFile(path, "w", how) as made:
        made.mkdir("pages")
        for number, size in enumerate(sizes):
            with made.open(f"pages/{number}.xml", "w") as file:
                for _ in range(size >> 20):
                    file.write(b"\0" * (1 << 20))
                file.write(b"x" * (size & 0xFFFFF))
    return path


def refused(path: Path, bounds: ArchiveBounds = BOUNDS) -> str:
    with pytest.raises(RefusedFileError) as caught:
        check_archive(str(path), path.stat().st_size, bounds)
    return str(caught.value)


def test_an_archive_within_all_bounds_is_taken(tmp_path: Path) -> None:
    path = archive(tmp_path, [1000] * 5)
    check_archive(str(path), path.stat().st_size, BOUNDS)


def test_an_archive_with_too_many_files_is_refused(tmp_path: Path) -> None:
    assert refused(archive(tmp_path, [10] * 6)) == "The archive has 6 files; this site takes 5 at a time."


def test_an_archive_that_is_too_large_unpacked_is_refused(tmp_path: Path) -> None:
    bounds = ArchiveBounds(files=5, mib=2)
    path = archive(tmp_path, [1 << 20, 1 << 20, 1], zipfile.ZIP_STORED)
    assert refused(path, bounds) == "The archive holds 2 MiB unpacked; this site takes 2 at a time."


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    """As was tried: 292 kB held 300 MB."""
    path = archive(tmp_path, [100 << 20])
    assert path.stat().st_size < 1 << 20
    assert refused(path).startswith("The archive is more than 100 times larger unpacked")
    small = archive(tmp_path, [60 << 20])
    check_archive(str(small), small.stat().st_size, BOUNDS)


def test_a_file_that_is_read_into_memory_at_once_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("escriptorium_cluster.archive_check.FILE_MIB", 1)
    assert refused(archive(tmp_path, [(1 << 20) + 1])) == "A file of the archive has more than 1 MiB unpacked."


def test_a_directory_that_lies_gives_out_no_more_than_it_says(tmp_path: Path) -> None:
    """What the bounds rest on: the application reads with the same library, and no byte beyond the announced size."""
    path = archive(tmp_path, [1 << 20])
    content = path.read_bytes()
    size = (1 << 20).to_bytes(4, "little")
    assert content.count(size) >= 1
    path.write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with zipfile.ZipFile(path) as lying:
        (entry,) = [entry for entry in lying.infolist() if not entry.is_dir()]
        assert entry.file_size == 10
        with lying.open(entry) as file, pytest.raises(zipfile.BadZipFile, match="CRC"):
            file.read()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "upload.zip"
    path.write_bytes(content)
    assert refused(path) == "The archive cannot be read."


# --- models -----------------------------------------------------------------------------------------------------------


def test_the_weights_of_krakens_own_models_are_counted() -> None:
    assert SEGMENTER_BYTES <= count_weights(SEGMENTER) * 4 < SEGMENTER_BYTES * 1.01
    # 64 channels of 15 rows come in rows to the first recurrent layer.
    assert count_weights(RECOGNISER) * 4 == pytest.approx(16.2e6, rel=0.05)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("[1,1,0,1 Lfx10]", 4 * 10 * (1 + 10 + 3)),
        ("[1,1,0,1 Lbx10]", 8 * 10 * (1 + 10 + 3)),
        ("[1,1,0,2 ([Cr1,1,4 I] Cr1,1,6) Cl1,1,1]", 4 * 3 + 4 * 4 + 6 * 3 + 11),
        ("[1,48,0,1 S1(1x0)1,3 Lfx10]", 4 * 10 * (48 + 10 + 3)),
        ("[1,48,0,1 S1(0x12)1,3 Lfx10]", 4 * 10 * (12 + 10 + 3)),
        ("[1,48,0,1 Mp4,4 S1(1x0)1,3 Lfx10]", 4 * 10 * (12 + 10 + 3)),
        ("[1,48,0,1 CTr2,2,1,2,2 S1(1x0)1,3 Lfx10]", 5 + 4 * 10 * (96 + 10 + 3)),
        ("[1,48,0,1 A3,9 Lfx10]", 4 * 10 * (9 + 10 + 3)),
        ("[1,1,0,1 Do0.33333333,2 O1ca50]", 4 + 50 * 3),
    ],
)
def test_layers_are_counted_as_kraken_builds_them(text: str, weights: int) -> None:
    assert count_weights(text) == weights


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Cr3,3,32",
        "[]",
        "[1,1,0 Cr3,3,32]",
        "[1,48,0,1 X3]",
        "[1,48,0,1 Lbx2000000000]",
        "[1,48,0,1 Lbx1025]",
        "[1,48,0,1 Cr3,3,65537]",
        "[1,48,0,1 ([Cr3,3,32]",
        "[1,48,0,1 Cr3,3,32)]",
        "[1,48,0,1 " + "(" * 20 + "I" + ")" * 20 + "]",
        "[1,48,0,1 " + " ".join(["I"] * 257) + "]",
        "[1,48,0,1 S0(1x0)1,3]",
        "[1,48,0,1 S1(0x0)1,3]",
        # Kraken makes an image of that size to see what the reshape makes of it: 4 TiB, 1 GiB, 64 GiB.
        "[1,65536,65536,256 S1(1x0)1,3]",
        "[1,65536,0,4096 S1(1x0)1,3]",
        "[1,48,0,1 A0,65536 A1,65536 A2,4 S1(1x0)1,3]",
        "[1,48,0,1 " + "I" * 20000 + "]",
    ],
)
def test_descriptions_that_nobody_trains_are_refused(text: str) -> None:
    with pytest.raises(DescriptionError):
        count_weights(text)


@given(st.text(alphabet="[]()CrLbxSOGnDoMpIA{}_0123456789, ", max_size=60))
def test_any_text_is_counted_or_refused(text: str) -> None:
    with suppress(DescriptionError):
        assert count_weights(f"[1,48,0,1 {text}]") >= 0


def test_a_model_whose_file_holds_its_weights_is_taken(tmp_path: Path) -> None:
    checked(tmp_path, model(("vgsl", SEGMENTER), ("kraken_meta", "{}"), weights=SEGMENTER_BYTES))
    auxiliary = json.dumps({"ro": "[1,1,0,1 O1c4]"})
    checked(tmp_path, model(("codec", "{}"), ("vgsl", RECOGNISER), ("aux_layers", auxiliary), weights=4 << 20))


LAYERS = "[1,48,0,1 " + " ".join(["Cr9,9,2048"] * 8) + "]"


@pytest.mark.parametrize(
    "texts",
    [
        [("vgsl", LAYERS)],
        [("vgsl", "[1,48,0,1 Cr3,3,4]"), ("vgsl", LAYERS)],
        [("vgsl", LAYERS), ("vgsl", "[1,48,0,1 Cr3,3,4]")],
        [("vgsl", "[1,48,0,1 Cr3,3,4]"), ("aux_layers", json.dumps({"more": LAYERS}))],
    ],
)
def test_a_model_whose_layers_are_out_of_proportion_is_refused(tmp_path: Path, texts: list[tuple[str, str]]) -> None:
    with pytest.raises(RefusedFileError, match=r"would take \d{4} MiB, its file has 0 MiB"):
        checked(tmp_path, model(*texts))


class Runs:
    """What runs when a pickle of it is read."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no model",
        pickle.dumps(Runs()),
        b"PK\x03\x04archive/data.pkl",
        model(),
        model(("kraken_meta", "{}")),
        model(("vgsl", SEGMENTER))[:-60],
        model(("vgsl", SEGMENTER), ("aux_layers", "[1]")),
        model(("vgsl", SEGMENTER), ("aux_layers", "{")),
        model(("vgsl", SEGMENTER), ("aux_layers", "[" * 100000)),
        model(*[("vgsl", SEGMENTER)] * 65),
        b"\x0b" * 100,
        b"\xff" * 100,
        b"\x12\xff\xff\xff\xff\x7f",
    ],
)
def test_what_is_no_model_of_kraken_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RefusedFileError):
        checked(tmp_path, content)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_and_nothing_else_happens(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    with pytest.raises(RefusedFileError):
        checked(tmp_path_factory.getbasetemp(), data)


# --- PDF files --------------------------------------------------------------------------------------------------------

A4, SHEET, ROLL = (595, 842), (2384, 3370), (28346456, 28346456)


def pdf(*sizes: tuple[float, float], title: str = "") -> bytes:
    """Write a PDF file with empty pages of these sizes, in points."""
    kids = " ".join(f"{4 + number} 0 R" for number in range(len(sizes)))
    parts = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sizes)} >>",
        f"<< /Title ({title}) >>",
        *(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width} {height}] >>" for width, height in sizes),
    ]
    made, begins = "%PDF-1.7\n", []
    for number, part in enumerate(parts, 1):
        begins.append(len(made))
        made += f"{number} 0 obj\n{part}\nendobj\n"
    table = "0000000000 65535 f \n" + "".join(f"{begin:010d} 00000 n \n" for begin in begins)
    trailer = f"trailer << /Size {len(parts) + 1} /Root 1 0 R /Info 3 0 R >>\nstartxref\n{len(made)}\n%%EOF\n"
    return f"{made}xref\n0 {len(parts) + 1}\n{table}{trailer}".encode()


@pytest.mark.skipif(shutil.which("pdfinfo") is None, reason="Poppler itself is asked here")
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pdf(A4), ""),
        (pdf(A4, SHEET, A4, (8640, 200)), ""),
        (pdf(A4, ROLL), "Page 2 of the PDF file is too large: 1000002 x 1000002 cm."),
        (pdf((2000000, 100)), "Page 1 of the PDF file is too large: 70556 x 4 cm."),
        (pdf(*[A4] * 6), "The PDF file has 6 pages; this site takes 5 at a time."),
        (pdf(ROLL, title="x\nPages:           1\nPage    1 size:  5 x 5 pts"), "Page 1 of the PDF file is too large"),
        (pdf(), "The PDF file cannot be read."),
        (pdf(A4)[:200], "The PDF file cannot be read."),
        (b"", "The PDF file cannot be read."),
        (b"PK", "The PDF file cannot be read."),
    ],
)
def test_pages_of_a_pdf_are_looked_at_before_one_is_rendered(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(content)
    reason = ""
    try:
        check_pdf(str(path), BOUNDS.files)
    except RefusedFileError as error:
        reason = str(error)
    assert reason.startswith(said)
    assert bool(reason) is bool(said)


@pytest.fixture
def pdfinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], str]:
    """Have the program say something; answer why a file is refused."""

    def ask(said: str, status: int = 0) -> str:
        program = tmp_path / "pdfinfo"
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}'\nexit {status}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        try:
            check_pdf("/a.pdf", 5)
        except RefusedFileError as error:
            return str(error)
        return ""

    return ask


PAGES = (
    "Pages:           2\nPage    1 size:  595 x 842 pts (A4)\nPage    2 size:  {} x {} pts\nFile size:       9 bytes"
)


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (PAGES.format(842, 595), 0, ""),
        (PAGES.format("2.83465e+07", 842), 0, "Page 2 of the PDF file is too large: 1000002 x 30 cm."),
        (PAGES.format("nan", 842), 0, "Page 2 of the PDF file is too large"),
        (PAGES.format("wide", 842), 0, "The PDF file cannot be read."),
        (PAGES.format(842, 595), 1, "The PDF file cannot be read."),
        (PAGES.format(842, 595).replace("Page    1 ", "Page one "), 0, "The PDF file cannot be read."),
        ("Pages: 9\n" + PAGES.format(842, 595), 0, "The PDF file has 9 pages; this site takes 5 at a time."),
        ("", 0, "The PDF file cannot be read."),
    ],
)
def test_what_poppler_says_of_a_pdf(pdfinfo: Callable[[str, int], str], said: str, status: int, reason: str) -> None:
    found = pdfinfo(said, status)
    assert found.startswith(reason)
    assert bool(found) is bool(reason)


def test_a_site_without_the_program_takes_no_pdf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(RefusedFileError, match="pdfinfo is missing"):
        check_pdf("/a.pdf", 5)


# --- the process, the handler, the answer -----------------------------------------------------------------------------


def test_a_file_is_looked_at_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "not for the process that reads what a user has made")
    good = archive(tmp_path, [1000])
    look_at("archive", str(good), BOUNDS)
    with pytest.raises(RefusedFileError, match="6 files"):
        look_at("archive", str(archive(tmp_path, [10] * 6)), BOUNDS)
    path = tmp_path / "a.mlmodel"
    path.write_bytes(model(("vgsl", LAYERS)))
    with pytest.raises(RefusedFileError, match="would take"):
        look_at("model", str(path), BOUNDS)
    with pytest.raises(RefusedFileError, match="too much time or memory"):
        look_at("model", str(tmp_path / "none"), BOUNDS)
    path.write_bytes(b"no PDF")
    with pytest.raises(RefusedFileError, match=r"The PDF file cannot be read|pdfinfo is missing"):
        look_at("pdf", str(path), BOUNDS)


def test_a_process_that_needs_too_much_memory_or_time_is_a_refusal(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load("escriptorium_cluster.upload_check")
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options, command=command)
        if seen.get("hangs"):
            raise module.subprocess.TimeoutExpired(command, options["timeout"])
        return SimpleNamespace(returncode=-9, stdout="")

    monkeypatch.setattr(module.subprocess, "run", run)
    for hangs in (False, True):
        seen["hangs"] = hangs
        with pytest.raises(load("escriptorium_cluster.archive_check").RefusedFileError, match="too much"):
            module.look_at("archive", str(tmp_path), BOUNDS)
    assert seen["env"].keys() == {"PYTHONPATH", "LANG"}, "no secret"
    assert seen["timeout"] == 30


def test_the_process_bounds_its_memory(
    load: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load("escriptorium_cluster.upload_check")
    limits: dict[int, Any] = {}
    monkeypatch.setattr(module.resource, "setrlimit", limits.__setitem__)
    (tmp_path / "a.zip").write_bytes(b"none")
    assert module.main("archive", str(tmp_path / "a.zip"), "5", "200") == 3
    assert capsys.readouterr().out == "The archive cannot be read.\n"
    assert limits == {module.resource.RLIMIT_AS: (1 << 30, 1 << 30), module.resource.RLIMIT_CPU: (30, 30)}


class TemporaryFileUploadHandler:
    """Django's: a file for each upload."""

    def __init__(self, request: Any) -> None:
        self.request = request

    def new_file(self, _: str, file_name: str, folder: Path) -> None:
        self.file_name = file_name
        self.path = folder / file_name
        self.file = SimpleNamespace(
            file=SimpleNamespace(flush=lambda: None),
            temporary_file_path=lambda: str(self.path),
            close=self.path.unlink,
        )

    def file_complete(self, size: int) -> Any:
        assert size == self.path.stat().st_size
        return self.file


class BadRequestError(Exception):
    """Django's."""


@pytest.fixture
def uploads(load: Callable[[str], Any]) -> Any:
    load("django.conf").settings = SimpleNamespace(CLUSTER_ARCHIVE_MAX_FILES=5, CLUSTER_ARCHIVE_MAX_MIB=200)
    load("django.core.exceptions").BadRequest = BadRequestError
    load("django.core.files.uploadhandler").TemporaryFileUploadHandler = TemporaryFileUploadHandler
    http = load("django.http")
    http.HttpResponse = lambda text, status: SimpleNamespace(text=text, status_code=status)
    http.JsonResponse = lambda content, status: SimpleNamespace(json=content, status_code=status)
    load("django.utils.html").escape = lambda text: text.replace("<", "&lt;")
    load("django.views.defaults").bad_request = lambda *_: "Django's"
    return load("escriptorium_cluster.uploads")


def upload(uploads: Any, folder: Path, name: str, content: bytes, logged_in: bool = True) -> Any:
    user = SimpleNamespace(is_authenticated=logged_in)
    handler = uploads.CheckedUploadHandler(SimpleNamespace(user=user))
    handler.new_file("file", name, folder)
    (folder / name).write_bytes(content)
    return handler.file_complete(len(content))


@pytest.mark.parametrize("name", ["page.png", "page.xml", "PAGES.ZIP", "reader.mlmodel", "text"])
def test_sound_files_are_taken(uploads: Any, tmp_path: Path, name: str) -> None:
    sound = {
        ".zip": archive(tmp_path, [10]).read_bytes(),
        ".mlmodel": model(("vgsl", SEGMENTER), weights=SEGMENTER_BYTES),
    }
    upload(uploads, tmp_path, name, sound.get(Path(name).suffix.lower(), b"content"))
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.zip", "a.mlmodel", "A.MLMODEL"])
def test_files_that_are_not_what_they_are_named_are_refused_and_removed(
    uploads: Any, tmp_path: Path, name: str
) -> None:
    with pytest.raises(uploads.RefusedUploadError):
        upload(uploads, tmp_path, name, b"nothing of the kind")
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("name", ["a.ckpt", "a.PT", "a.pth", "a.pkl", "a.mlmodel.pickle", "a.joblib"])
def test_formats_that_run_code_are_refused(uploads: Any, tmp_path: Path, name: str) -> None:
    with pytest.raises(uploads.RefusedUploadError, match=re.escape(Path(name).suffix.lower())):
        upload(uploads, tmp_path, name, b"")


def test_nobody_uploads_who_is_not_logged_in(uploads: Any, tmp_path: Path) -> None:
    with pytest.raises(uploads.RefusedUploadError, match="Log in"):
        upload(uploads, tmp_path, "page.png", b"", logged_in=False)
    handler = uploads.CheckedUploadHandler(SimpleNamespace())
    with pytest.raises(uploads.RefusedUploadError, match="Log in"):
        handler.new_file("file", "page.png", tmp_path)


def test_a_refusal_says_why_to_programs_and_to_people(uploads: Any) -> None:
    refusal = uploads.RefusedUploadError("too <large>")
    program = uploads.bad_request(SimpleNamespace(path="/api/models/", headers={}), refusal)
    assert (program.status_code, program.json["error"]) == (400, {"non_field_errors": ["too <large>"]})
    page = uploads.bad_request(SimpleNamespace(path="/models/new/", headers={"Accept": "text/html"}), refusal)
    assert (page.status_code, "too &lt;large>" in page.text) == (400, True)
    assert uploads.bad_request(SimpleNamespace(path="/", headers={}), ValueError()) == "Django's"
