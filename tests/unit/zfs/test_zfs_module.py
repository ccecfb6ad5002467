"""What the module zfs_pool remembers of a host, and where it looks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from library import zfs_pool
from module_utils.zfs_pool.record import Record, RecordError

if TYPE_CHECKING:
    from pathlib import Path

CACHED = "".join(
    f"{name}:\n    version: 5000\n    name: '{name}'\n    state: 0\n    pool_guid: {guid}\n    vdev_tree:\n"
    f"        type: 'root'\n        guid: {guid}\n        children[0]:\n            guid: 9\n"
    for name, guid in (("other", 5), ("tank", 77))
)


class RefusedError(Exception):
    """The module has ended."""


class Module:
    """AnsibleModule, as far as it is asked."""

    check_mode = False

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def get_bin_path(self, name: str) -> str:
        return f"/sbin/{name}"

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        self.commands.append(command)
        return 0, CACHED, ""

    def fail_json(self, msg: str, **_: Any) -> None:
        raise RefusedError(msg)


@pytest.fixture
def cachefile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "zpool.cache"
    monkeypatch.setattr(zfs_pool, "CACHEFILE", str(file))
    monkeypatch.setattr(zfs_pool, "read_record", lambda _name: None)
    return file


def test_a_host_without_a_file_is_asked_what_zfs_remembers(cachefile: Path) -> None:
    module = Module()
    assert zfs_pool.Host(module).recall("tank") is None
    assert module.commands == []
    cachefile.touch()
    found = zfs_pool.Host(module).recall("tank")
    assert found is not None
    assert (found.guid, found.file) == (77, str(cachefile))
    assert module.commands == [["zdb", "-C", "-U", str(cachefile)]]
    assert zfs_pool.Host(module).recall("unknown") is None


def test_the_own_file_comes_first(cachefile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cachefile.touch()
    monkeypatch.setattr(zfs_pool, "read_record", lambda name: Record(name, 4))
    module = Module()
    found = zfs_pool.Host(module).recall("tank")
    assert found is not None
    assert (found.guid, module.commands) == (4, [])


def test_a_damaged_file_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_name: str) -> None:
        raise RecordError("/file does not say which pool was there")

    # The module has its own names of these classes.
    monkeypatch.setattr(zfs_pool, "RecordError", RecordError)
    monkeypatch.setattr(zfs_pool, "read_record", damaged)
    with pytest.raises(RefusedError, match=r"then remove the file"):
        zfs_pool.Host(Module()).recall("tank")


class Slow(Module):
    """A host on which ZFS is faster than udev, for so many times."""

    def __init__(self, early: int, says: str = "cannot create 'tank': no such pool or dataset") -> None:
        super().__init__()
        self.early, self.says = early, says

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        self.commands.append(command)
        early = command[0] == "zpool" and self.commands.count(command) <= self.early
        return (1, "", self.says) if early else (0, "", "")


CREATE = ["zpool", "create", "tank", "a"]


@pytest.mark.parametrize(
    "says",
    [
        "cannot create 'tank': no such pool or dataset",
        "cannot create 'tank': one or more devices is currently unavailable",
    ],
)
def test_a_partition_whose_name_is_not_there_yet_is_waited_for(says: str) -> None:
    module = Slow(2, says)
    assert zfs_pool.Host(module).take(CREATE) == (0, "", "")
    assert module.commands == [CREATE, list(zfs_pool.SETTLE), CREATE, list(zfs_pool.SETTLE), CREATE]


def test_a_partition_that_never_gets_a_name_ends_the_run() -> None:
    module = Slow(early=99)
    assert zfs_pool.Host(module).take(CREATE)[0] == 1
    assert module.commands.count(CREATE) == zfs_pool.ATTEMPTS


def test_another_error_is_not_tried_again() -> None:
    module = Slow(early=1, says="cannot create 'tank': invalid property")
    assert zfs_pool.Host(module).take(CREATE)[0] == 1
    assert module.commands == [CREATE]
