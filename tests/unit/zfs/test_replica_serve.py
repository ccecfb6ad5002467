"""What the key of a second storage server may start: each command of syncoid, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from roles.zfs_replica.files import serve

if TYPE_CHECKING:
    from pathlib import Path

MEDIA = "tank/escriptorium/media"
DATASETS = [MEDIA, "tank/backups"]

#: As syncoid 2.1.0 (Debian 12) and 2.2.0 (Debian 13) were seen to ask.
ASKED = [
    "exit",
    "echo -n",
    "command -v lzop",
    "command -v mbuffer",
    f"zfs get -H syncoid:sync '{MEDIA}'",
    f"zfs get -Hpd 1 -t snapshot guid,creation '{MEDIA}'",
    f" zfs get -Hpd 1 -t bookmark guid,creation '{MEDIA}'",
    f"zfs get -Hpd 1 type,guid,creation '{MEDIA}'",
    "zpool get -o value -H feature@extensible_dataset 'tank'",
    f"zfs send -nvP '{MEDIA}@s1'",
    f"zfs send  -nvP -I '{MEDIA}@s1' '{MEDIA}@s2'",
    "zfs send -nvP -t 1-abc-def",
    f" zfs send  '{MEDIA}'@'s1' | lzop  | mbuffer  -q -s 128k -m 16M 2>/dev/null",
    f" zfs send  -I '{MEDIA}'@'autosnap_2026-11-30_00:00:01_daily' '{MEDIA}'@'s2' | lzop  | mbuffer  -q -s 128k -m 16M",
    f" zfs send  -i '{MEDIA}'#'mark' '{MEDIA}'@'s2' | mbuffer  -q -s 128k -m 16M",
    " zfs send  -t 1-abc-def | lzop  | mbuffer  -q -s 128k -m 16M 2>/dev/null",
]


@pytest.mark.parametrize("command", ASKED)
def test_what_syncoid_asks_is_allowed(command: str) -> None:
    for stage in serve.allowed(command, DATASETS):
        assert not {"|", ">", "'"} & set("".join(stage)), "words for programs, and nothing for a shell"


def test_names_in_quotes_become_one_word() -> None:
    assert serve.allowed(f" zfs send  '{MEDIA}'@'s1' | lzop  | mbuffer  -q 2>/dev/null", DATASETS) == [
        ["zfs", "send", f"{MEDIA}@s1"],
        ["lzop"],
        ["mbuffer", "-q"],
    ]


@pytest.mark.parametrize(
    "command",
    [
        "sh",
        "cat /etc/passwd",
        "exit; id",
        "echo -n $(id)",
        "echo -n `id`",
        "echo -n | id",
        f"zfs get -H syncoid:sync '{MEDIA}'; id",
        f"zfs get -H syncoid:sync '{MEDIA}' && id",
        f"zfs get -H all '{MEDIA}' > /tmp/x",
        f"zfs get -H syncoid:sync '{MEDIA}'\nid",
        f"zfs get -H syncoid:sync '{MEDIA}",
        "zfs get -H syncoid:sync 'tank/other'",
        "zpool get -o value -H feature@extensible_dataset 'other'",
        "zpool destroy tank",
        f"zfs destroy '{MEDIA}@s1'",
        f"zfs hold x '{MEDIA}@s1'",
        f"zfs send -R '{MEDIA}@s1'",
        "zfs send 'tank/other@s1'",
        f"zfs send -I 'tank/other@s1' '{MEDIA}@s2'",
        f"zfs send '{MEDIA}/below@s1'",
        f"zfs send '{MEDIA}@s1' | tee /tmp/x",
        f"zfs send '{MEDIA}@s1' | mbuffer -o /etc/x",
        f"zfs send '{MEDIA}@s1' | mbuffer -I 1.2.3.4:5",
        f"zfs send '{MEDIA}@s1' | lzop -o/tmp/x",
        f"zfs send '{MEDIA}@s1' 2>/tmp/x",
        f"zfs send '{MEDIA}@s1' |",
        "zfs send -t 1-abc tank/other@x",
        "command -v lzop; id",
        "command -p id",
        "ps -Ao args=",
        "sudo zfs send tank@x",
        "scp -t /tmp",
        "internal-sftp",
    ],
)
def test_all_else_is_refused(command: str) -> None:
    with pytest.raises(serve.Refused):
        serve.allowed(command, DATASETS)


def test_a_program_of_the_stream_that_fails_fails_all() -> None:
    assert serve.run([["true"], ["cat"]]) == 0
    assert serve.run([["false"], ["cat"]]) == 1
    assert serve.run([["sh", "-c", "kill -9 $$"], ["cat"]]) == 1
    assert serve.run([]) == 0


def test_the_other_side_is_told_and_nothing_runs(root: Path, tmp_path: Path) -> None:
    program = str(root / "roles/zfs_replica/files/serve.py")

    def ask(command: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SSH_ORIGINAL_COMMAND": command}
        words = [sys.executable, program, *DATASETS]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=30)

    done = ask(f"echo -n; touch {tmp_path}/done")
    assert (done.returncode, done.stderr) == (1, "this key is for copies of snapshots only\n")
    assert not (tmp_path / "done").exists()
    assert (ask("exit").returncode, ask("").returncode) == (0, 0)
    assert (ask("command -v zstd").returncode, ask("command -v zstd").stdout) == (1, "")
