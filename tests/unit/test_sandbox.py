"""What units are shut into: each is rendered as Ansible does and weighed by systemd itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from module_utils import platform_backup, platform_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("ansible_plugins")

#: Ten times the highest exposure that systemd may find, of 10.
THRESHOLD = 25
#: Units that are not shut in, each with its reason.
OPEN = {
    "gpu-partition.service": "root: cuts cards, loads modules, and ends and starts workers",
    "vgpu-devices.service": "root: writes to /sys to make virtual GPUs",
    "nvidia-mps@.service": "NVIDIA's daemon: opens no file of a user, and has no secret; not tried on a card",
    "escriptorium-firewall.service": "root: loads the rules of nftables, and no process stays",
    "wg-tree.service": "root: makes the tunnel of the shared tree, and no process stays",
    "zfs-replica.service": "root: receives snapshots into a pool, which takes /dev/zfs and mounts",
    "platform-backup@.service": "root: pgBackRest, snapshots of ZFS, and programs as other accounts",
    "platform-drill.service": "root: makes a second database as another account, and removes it",
}
#: Units that are shut in otherwise: each has an account of its own, which no other process has.
ALONE = frozenset(
    {
        "escriptorium-acme.service",
        *(f"media-{verb}@{name}.service" for verb in platform_backup.VERBS for name in ("a", "b")),
    }
)
FRONTEND = "10.10.0.10"


def worker(**further: Any) -> dict[str, Any]:
    return {
        "name": "default", "queues": ["default"], "device": "", "card": "", "overflow": "",
        "concurrency": 1, "tasks_per_child": 10, "omp_threads": 1, "memory_max_mb": 512, **further,
    }  # fmt: skip


WORKERS = {
    "a worker": worker(),
    "imports": worker(name="imports", queues=["imports"]),
    "low-priority": worker(name="low-priority", queues=["low-priority"]),
    "a slice": worker(name="gpu0-2g.10gb-0", queues=["gpu"], device="gpu0-2g.10gb-0", card="gpu0"),
}


COPIES = platform_backup.targets(
    [
        {"name": "a", "type": "directory", "path": "/mnt/disk/media"},
        {"name": "b", "type": "s3", "url": "https://s3.example.org", "bucket": "x"},
    ],
    "/srv/escriptorium-backups",
    "directory",
    ["b"],
)


@pytest.fixture
def units(root: Path, render: Callable[..., str]) -> dict[str, str]:
    """Each unit that roles make by a template, by its name; those of workers by what they do."""
    given: dict[str, Any] = {
        "ansible_facts": {"processor_vcpus": 4, "memtotal_mb": 65536},
        "bridge": False,
        "acme_email": "root@localhost",
    }
    found = {}
    for path in sorted(root.glob("roles/*/templates/*.service.j2")):
        role, name = path.parents[1].name, path.name.removesuffix(".j2")
        if name in OPEN:
            found[name] = path.read_text()
        elif role == "media_backup":
            for unit in platform_backup.units(COPIES, {}):
                if unit["name"].endswith(".service"):
                    found[unit["name"]] = render(role, path.name, media_backup_targets=COPIES, **unit["vars"])
        elif role == "celery_worker":
            for what, item in WORKERS.items():
                found[what] = render(
                    role, path.name, item=item, celery_worker_node="c1", celery_worker_fingerprint="f",
                    celery_worker_service_addresses=[FRONTEND, "127.0.0.1"], celery_worker_mail_host="10.20.0.25",
                )  # fmt: skip
        else:
            addresses = {"escriptorium_web_service_addresses": [FRONTEND]}
            found[name] = render(role, path.name, escriptorium_web_fingerprint="f", **addresses, **given)
    return found


def values(unit: str, name: str) -> list[str]:
    """Return what a unit says of one thing, line by line."""
    return re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE)


def weighed(units: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in units.items() if name not in OPEN}


def shut_in(units: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in weighed(units).items() if name not in ALONE}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_little_to_blame(units: dict[str, str], tmp_path: Path) -> None:
    assert set(OPEN) < set(units), "an exception that no unit needs"
    for number, (name, text) in enumerate(weighed(units).items()):
        file = tmp_path / f"box{number}.service"
        file.write_text(text)
        command = ["systemd-analyze", "security", "--offline=true", f"--threshold={THRESHOLD}", "--no-pager", str(file)]
        answer = subprocess.run(command, check=False, capture_output=True, text=True)
        verdict = [line for line in answer.stdout.splitlines() if "exposure" in line]
        assert answer.returncode == 0, f"{name}: {verdict} {answer.stderr}"
        assert len(verdict) == 1, "it was asked"


def test_each_unit_of_the_service_account_is_shut_in(units: dict[str, str]) -> None:
    for name, text in shut_in(units).items():
        assert values(text, "User") == ["escriptorium"], name
        for line in (f"{key}={value}" for key, value in platform_sandbox.EVERYBODY):
            assert line in text.splitlines(), f"{name}: {line}"


def test_what_would_break_their_work_is_missing(units: dict[str, str]) -> None:
    for name, text in shut_in(units).items():
        # pyvips and numba write code and run it. RemoveIPC= takes what others of the account use. nginx reads media.
        for word in ("MemoryDenyWriteExecute", "RemoveIPC", "UMask", "ProcSubset", "PrivateNetwork"):
            assert values(text, word) == [], f"{name}: {word}"


def test_a_slice_has_its_device_files(units: dict[str, str]) -> None:
    slice_, other = units["a slice"], units["a worker"]
    assert values(slice_, "DevicePolicy") == ["closed"]
    assert values(slice_, "DeviceAllow") == ["char-nvidia* rw"]
    for word in ("PrivateDevices", "ProtectClock", "PrivateUsers"):
        assert values(slice_, word) == [], word
        assert values(other, word) == ["yes"], word
    assert "-/run/nvidia-mps" in values(slice_, "ReadWritePaths")
    assert values(slice_, "ExecStartPre")[0] == "-+/usr/local/sbin/gpu-partition device-files"


def test_only_what_fetches_reaches_others(units: dict[str, str]) -> None:
    allowed = {name: values(text, "IPAddressAllow") for name, text in shut_in(units).items()}
    own = [f"localhost {FRONTEND}/32"]
    assert allowed == {
        "a worker": own,
        "a slice": own,
        "low-priority": [f"localhost {FRONTEND}/32 10.20.0.25/32"],
        "imports": [],
        "escriptorium-web.service": [],
        "escriptorium-manage@.service": [],
        "escriptorium-websocket.service": own,
        "escriptorium-reaper.service": own,
    }
    for name, text in shut_in(units).items():
        assert values(text, "IPAddressDeny") == (["any"] if allowed[name] else []), name


def test_a_relay_by_name_shuts_nobody_out() -> None:
    assert platform_sandbox.reach(["10.0.0.1", "127.0.0.1", "localhost", "10.0.0.1", "2001:db8::1", "10.1.0.0/16"]) == [
        "10.0.0.1/32",
        "2001:db8::1/128",
        "10.1.0.0/16",
    ]
    assert platform_sandbox.reach(["10.0.0.1", "smtp.example.org"]) is None
    assert "IPAddressDeny" not in platform_sandbox.text(networks=None)
    assert "IPAddressAllow=localhost" in platform_sandbox.text(networks=[]).splitlines()


def test_each_writes_in_its_folders(units: dict[str, str]) -> None:
    written = {name: values(text, "ReadWritePaths") for name, text in shut_in(units).items()}
    assert {name for name, paths in written.items() if paths == ["-/srv/escriptorium/media"]} == set(written) - {
        "a slice",
        "escriptorium-websocket.service",
    }
    assert written["escriptorium-websocket.service"] == []


def test_each_gets_the_secrets_that_it_needs(units: dict[str, str]) -> None:
    everybody, web, mail = (f"/etc/escriptorium/{name}.env" for name in ("escriptorium", "web", "mail"))
    assert {name: values(text, "EnvironmentFile") for name, text in shut_in(units).items()} == {
        "a worker": [everybody],
        "a slice": [everybody],
        "imports": [everybody],
        "low-priority": [everybody, mail],
        "escriptorium-reaper.service": [everybody],
        "escriptorium-websocket.service": [everybody, web],
        "escriptorium-web.service": [everybody, web, mail],
        "escriptorium-manage@.service": [everybody, web, mail],
    }


def test_copies_see_the_media_and_their_own_target(units: dict[str, str]) -> None:
    for verb in platform_backup.VERBS:
        disk, elsewhere = units[f"media-{verb}@a.service"], units[f"media-{verb}@b.service"]
        for text in (disk, elsewhere):
            assert values(text, "User") == ["media-backup"]
            hidden = values(text, "TemporaryFileSystem")[0].split()
            assert {f"/{name}:ro" for name in ("etc", "home", "mnt", "opt", "root", "srv", "var")} == set(hidden)
            assert "/etc/media-backup/passphrase" in " ".join(values(text, "BindReadOnlyPaths"))
            assert values(text, "AmbientCapabilities") == ([] if verb == "prune" else ["CAP_DAC_READ_SEARCH"])
        assert values(disk, "PrivateNetwork") == ["yes"]
        assert values(elsewhere, "PrivateNetwork") == []
        assert "/etc/media-backup/b.login" in values(elsewhere, "BindReadOnlyPaths")
        assert not any(".login" in line for line in values(disk, "BindReadOnlyPaths"))
        assert "/mnt/disk/media" in values(disk, "BindPaths")[0]
        assert "/mnt/disk" not in elsewhere.replace("/mnt:ro", "")
        # What removes copies needs to see none of what is copied.
        repository = "-/srv/escriptorium-backups/pgbackrest -/srv/escriptorium-backups/records"
        assert any(line.startswith(repository) for line in values(elsewhere, "BindReadOnlyPaths")) == (verb != "prune")


def test_copies_beside_the_backups_do_not_see_them(render: Callable[..., str]) -> None:
    local = platform_backup.targets(None, "/srv/escriptorium-backups", "directory", [])
    (unit,) = (one for one in platform_backup.units(local, {}) if one["name"] == "media-backup@local.service")
    text = render("media_backup", unit["template"], media_backup_targets=local, **unit["vars"])
    assert "/pgbackrest" not in text


SECRETS = {
    "escriptorium_secret_key": "the-key-that-signs",
    "escriptorium_database_password": "of-the-database",
    "escriptorium_broker_password": "of-the-broker",
    "escriptorium_mail_password": "of-the-relay",
    "escriptorium_domain": "htr.example.org",
    "escriptorium_admin_email": "htr-admin@example.org",
    "ansible_search_path": [str(Path(__file__).parents[2] / "roles" / "escriptorium")],
}


@pytest.mark.parametrize(
    ("signs", "mails", "known"),
    [
        (True, True, {"the-key-that-signs", "of-the-relay"}),
        (False, True, {"of-the-relay"}),
        (False, False, set()),
    ],
)
def test_a_host_has_the_secrets_of_its_processes(
    resolve: Callable[..., Any], signs: bool, mails: bool, known: set[str]
) -> None:
    texts = resolve(
        "escriptorium", "{{ __escriptorium_texts }}", escriptorium_signs=signs, escriptorium_mails=mails,
        escriptorium_environment={"QUOTA": "7"}, **SECRETS,
    )  # fmt: skip
    text = "".join(texts)
    assert {secret for secret in ("the-key-that-signs", "of-the-relay") if secret in text} == known
    assert "of-the-database" in texts[0]
    assert "of-the-broker" in texts[0]
    assert 'QUOTA="7"' in texts[0]
    (key,) = re.findall(r'^SECRET_KEY="(.*)"$', texts[0], re.MULTILINE)
    assert re.fullmatch("[0-9a-f]{64}", key), "a key of the workers' own"


def test_a_sites_own_key_stays_with_the_web(resolve: Callable[..., Any]) -> None:
    everybody, web, mail = resolve(
        "escriptorium", "{{ __escriptorium_texts }}",
        escriptorium_environment={"SECRET_KEY": "of-the-site", "CLUSTER_EMAIL_PASSWORD": "of-the-sites-relay"},
        escriptorium_signs=True, escriptorium_mails=True, **SECRETS,
    )  # fmt: skip
    assert "of-the-site" not in everybody
    assert 'SECRET_KEY="of-the-site"' in web
    assert 'CLUSTER_EMAIL_PASSWORD="of-the-sites-relay"' in mail
