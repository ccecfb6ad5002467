"""Releases in the shared tree, which every service account may change: what root trusts never comes from there."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import release_archive
from release_archive import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OWNER = (2000, 2000)


class Site:
    """A build host's releases, the shared tree of the service account, and the releases of another host."""

    def __init__(self, folder: Path) -> None:
        self.checksum = folder / "build/1-a.sha256"
        self.release = folder / "build/1-a"
        self.archive = folder / "shared/1-a.tar.zst"
        self.copy = folder / "host/1-a"
        for path in (self.release, self.archive.parent):
            path.mkdir(parents=True)
        (self.release / "program").write_text("good\n")
        os.chown(self.archive.parent, *OWNER)

    def pack(self) -> str:
        release_archive.pack(self.release, self.archive, self.checksum, OWNER)
        return self.checksum.read_text().strip()

    def swap(self) -> None:
        """Put another archive in the place of the packed one, as the service account can."""
        evil = self.archive.with_name("evil")
        evil.mkdir(exist_ok=True)
        (evil / "program").write_text("evil\n")
        (evil / "program").chmod(0o4755)
        packed = self.archive.with_name("evil.tar.zst")
        subprocess.run(["/usr/bin/tar", "-C", evil.parent, "-I", "zstd", "-cf", packed, evil.name], check=True)
        packed.replace(self.archive)


@pytest.fixture
def site(shared_path: Path) -> Iterator[Site]:
    before = os.umask(0o077)
    yield Site(shared_path)
    os.umask(before)


@pytest.fixture
def before_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Run a shell command just before tar begins."""

    def arrange(command: str) -> None:
        program = tmp_path / "bin/tar"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n{command}\nexec /usr/bin/tar "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return arrange


def test_a_release_comes_to_another_host_as_it_was_packed(site: Site) -> None:
    (site.release / "program").chmod(0o755)
    packed = site.pack()
    status = site.archive.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*OWNER, 0o644)
    assert stat.S_IMODE(site.checksum.stat().st_mode) == 0o644
    release_archive.fetch(site.archive, packed, site.copy)
    assert (site.copy / "program").read_text() == "good\n"
    assert os.access(site.copy / "program", os.X_OK)
    assert stat.S_IMODE(site.copy.stat().st_mode) == 0o755
    assert [path.name for path in site.copy.parent.iterdir()] == ["1-a"], "nothing is left beside it"
    assert [path.name for path in site.archive.parent.iterdir()] == ["1-a.tar.zst"]


def test_an_archive_that_is_exchanged_after_it_was_packed_is_not_blessed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def replace_and_attack(path: Path, target: Path) -> Path:
        moved = replace(path, target)
        if path.name.endswith(".partial"):
            monkeypatch.undo()
            site.swap()
        return moved

    monkeypatch.setattr(Path, "replace", replace_and_attack)
    packed = site.pack()
    assert packed.split()[0] != hashlib.sha256(site.archive.read_bytes()).hexdigest()
    with pytest.raises(ArchiveError, match="not what the build host packed"):
        release_archive.fetch(site.archive, packed, site.copy)
    assert not site.copy.exists()


def test_an_archive_that_is_exchanged_after_it_was_checked_is_not_unpacked(
    site: Site, before_tar: Callable[[str], None], shared_path: Path
) -> None:
    packed = site.pack()
    kept = shared_path / "kept"
    site.archive.rename(kept)
    site.swap()
    evil = site.archive.rename(shared_path / "evil.tar.zst")
    kept.rename(site.archive)
    before_tar(f"cp {evil} {site.archive}.new && mv {site.archive}.new {site.archive}")
    release_archive.fetch(site.archive, packed, site.copy)
    assert site.archive.read_bytes() == evil.read_bytes(), "the attack took place"
    assert (site.copy / "program").read_text() == "good\n"
    assert not (site.copy / "program").stat().st_mode & stat.S_ISUID


@pytest.mark.parametrize("kind", ["pipe", "link", "other"])
def test_what_is_no_archive_of_the_build_host_is_refused_and_nothing_waits(site: Site, kind: str) -> None:
    packed = site.pack()
    site.copy.mkdir(parents=True)
    if kind == "other":
        site.swap()
    else:
        site.archive.rename(site.archive.with_name("moved"))
        os.mkfifo(site.archive) if kind == "pipe" else site.archive.symlink_to("moved")
    with pytest.raises((ArchiveError, OSError)):
        release_archive.fetch(site.archive, packed, site.copy)
    assert site.copy.is_dir(), "what is there stays"


def test_no_more_is_copied_than_was_packed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write there could else fill the disk of each host."""
    packed = site.pack()
    os.truncate(site.archive, 64 << 20)
    written: list[str] = []
    copy = release_archive.copy

    def noted(*arguments: Any) -> str:
        written.append(copy(*arguments))
        return written[-1]

    monkeypatch.setattr(release_archive, "copy", noted)
    with pytest.raises(ArchiveError, match="not what the build host packed"):
        release_archive.fetch(site.archive, packed, site.copy)
    assert int(written[0].split()[1]) <= int(packed.split()[1]) + (1 << 20)
    assert not site.copy.exists()


def test_a_checksum_of_an_earlier_version_has_no_size(site: Site) -> None:
    digest = site.pack().split()[0]
    release_archive.fetch(site.archive, digest, site.copy)
    assert (site.copy / "program").read_text() == "good\n"
    site.swap()
    with pytest.raises(ArchiveError, match="not what the build host packed"):
        release_archive.fetch(site.archive, digest, site.copy)


def test_links_in_the_shared_tree_lead_the_packing_no_further_than_its_owner_may_go(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's\n")
    partial = site.archive.with_name(f"{site.archive.name}.partial")
    partial.symlink_to(secret)
    site.archive.symlink_to(secret)
    site.pack()
    assert secret.read_text() == "root's\n"
    assert not site.archive.is_symlink()
    locked = tmp_path / "locked"
    locked.mkdir()
    with pytest.raises(PermissionError):
        release_archive.pack(site.release, locked / "1-a.tar.zst", site.checksum, OWNER)
    assert os.geteuid() == 0
    assert not site.checksum.exists()


def test_a_release_that_cannot_be_packed_leaves_nothing(site: Site, before_tar: Callable[[str], None]) -> None:
    site.pack()
    before_tar("exit 1")
    site.archive.unlink()
    with pytest.raises(ArchiveError, match="could not pack"):
        site.pack()
    assert not list(site.archive.parent.iterdir())
    assert not site.checksum.exists()


def test_the_command(site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-", "pack", str(site.release), str(site.archive), str(site.checksum), "root"]
    os.chown(site.archive.parent, 0, 0)
    monkeypatch.setattr("sys.argv", words)
    assert release_archive.main() == 0
    monkeypatch.setattr("sys.argv", ["-", "fetch", str(site.archive), "0" * 64, str(site.copy)])
    assert release_archive.main() == 1
    assert "not what the build host packed" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["-", "fetch"])
    assert release_archive.main() == 2
    assert "1-a/program" in subprocess.check_output(["tar", "--zstd", "-tf", site.archive], text=True)
