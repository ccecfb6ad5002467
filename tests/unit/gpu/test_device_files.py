"""Device files that a worker without privileges finds, because root has them made before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from module_utils.gpu_partition import cli, device_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What the driver says of two cards, the second cut, as /proc/driver/nvidia does."""
    for number, address in enumerate(("0000:17:00.0", "0000:65:00.0")):
        about = tmp_path / "gpus" / address / "information"
        about.parent.mkdir(parents=True)
        about.write_text(f"Model: \t\t NVIDIA A100-PCIE-40GB\nDevice Minor: \t {number}\nGPU Excluded:\t No\n")
    for place in ("gi7", "gi7/ci0", "gi8"):
        access = tmp_path / "capabilities" / "gpu1" / "mig" / place / "access"
        access.parent.mkdir(parents=True, exist_ok=True)
        access.write_text("DeviceFileMinor: 66\n")
    return tmp_path


def test_files_of_cards_and_slices(driver: Path) -> None:
    cards, slices = device_files.commands("/usr/bin/nvidia-modprobe", driver)
    assert cards == ["/usr/bin/nvidia-modprobe", "-u", "-c", "0", "-c", "1"]
    mig = f"{driver}/capabilities/gpu1/mig"
    assert slices[1:] == ["-f", f"{mig}/gi7/access", "-f", f"{mig}/gi7/ci0/access", "-f", f"{mig}/gi8/access"]


def test_without_slices_there_is_one_command(tmp_path: Path) -> None:
    assert device_files.commands("nvidia-modprobe", tmp_path) == [["nvidia-modprobe", "-u"]]


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1)])
def test_the_program_runs_it_and_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: int, code: int
) -> None:
    program = tmp_path / device_files.PROGRAM
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho no module >&2\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert cli.main(["device-files"]) == code
    assert (tmp_path / "asked").read_text().startswith("-u")
    assert ("no module" in capsys.readouterr().err) == bool(status)


def test_without_the_program_somebody_else_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["device-files"]) == 0
    assert "somebody else makes the device files" in capsys.readouterr().err
