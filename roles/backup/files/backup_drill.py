#!/usr/bin/python3
"""Restores the database beside the live one: for a trial, or to look up what it held at a moment.

    backup-drill [--keep]
    platform-scratch start --target-time MOMENT [--account NAME --role NAME]
    platform-scratch stop

The first restores the newest backup, compares it with the live database and takes it away again. The live database gets
a named restore point, and its tables are counted just before and just after it. The backup is restored up to that
point, into a folder of its own, on a socket that only the account postgres reaches. Then each table has to have as many
rows, and the same newest rows. Prints the result as JSON, exit status 0 or 1; monitoring finds it in a text file.

The second leaves a server with the database of the moment, which is only read, on a socket that only postgres reaches,
and the account, which is taken for the role. It prints where that is, as JSON; the third takes it away. An exit status
of 3 says that another one is in use. Runs as root, needs nothing but Python. All that is done in the folders of both is
done as postgres, who may put links there.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS: Final = Path("/etc/pgbackrest/drill.json")
#: So many of the newest rows of each table are compared word by word.
NEWEST_ROWS: Final = 100
#: Files of a restored server beside its data: settings, who may come, who counts as whom, log.
CONFIGURATION: Final = ("drill.conf", "drill_hba.conf", "drill_ident.conf")
LOG: Final = "drill.log"
#: Exit status that says that another server is in use.
IN_USE: Final = 3
#: Seconds after which the statistics of the server hold what was written before.
STATISTICS_DELAY: Final = 1.5

TABLES_QUERY: Final = """
SELECT coalesce(json_agg(json_build_object('name', format('%I.%I', n.nspname, c.relname), 'key', (
  SELECT quote_ident(a.attname)
  FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
  WHERE i.indrelid = c.oid AND i.indisprimary AND i.indnkeyatts = 1))), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
"""
CHANGES_QUERY: Final = """
SELECT coalesce(json_object_agg(format('%I.%I', schemaname, relname), n_tup_ins + n_tup_upd + n_tup_del), '{}')
FROM pg_stat_user_tables
"""


class DrillError(Exception):
    """The restore failed; the message says why."""


class Database:
    """One PostgreSQL server, asked as its superuser through a socket."""

    def __init__(self, socket: str, port: int) -> None:
        self.socket = socket
        self.port = port

    def ask(self, database: str, query: str) -> str:
        """Answer the one value of a query.

        Raises:
            DrillError: the server gave no answer.

        """
        done = as_postgres(
            "psql",
            "-h",
            self.socket,
            "-p",
            str(self.port),
            "-d",
            database,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            stdin=query,
        )
        if done.returncode != 0:
            raise DrillError(f"the database {database} on port {self.port} does not answer: {done.stderr.strip()}")
        return done.stdout.strip()

    def databases(self) -> list[str]:
        """Names of all databases but the templates."""
        query = "SELECT coalesce(json_agg(datname), '[]') FROM pg_database WHERE datallowconn AND NOT datistemplate"
        names: list[str] = json.loads(self.ask("postgres", query))
        return sorted(names)

    def tables(self, database: str) -> dict[str, dict[str, Any]]:
        """Row count, newest key and a sum of the newest rows of each table, all seen at one moment."""
        found = json.loads(self.ask(database, TABLES_QUERY))
        parts = [_table_query(table["name"], table["key"]) for table in found]
        if not parts:
            return {}
        rows = self.ask(
            database,
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;\n" + ";\n".join(parts) + ";\nCOMMIT;",
        )
        return {row["name"]: row for row in map(json.loads, rows.splitlines())}

    def changes(self, database: str) -> dict[str, int]:
        """How many rows were written so far, by table."""
        answer: dict[str, int] = json.loads(self.ask(database, CHANGES_QUERY))
        return answer


# Names of tables come from the server's own catalogue, quoted by it.
def _table_query(table: str, key: str | None) -> str:
    """Return the query for one table; ``key`` is its primary key, where that is one column."""
    literal = table.replace("'", "''")
    parts = [f"'name', '{literal}'", f"'rows', (SELECT count(*) FROM {table})"]  # noqa: S608
    if key is not None:
        newest = f"SELECT * FROM {table} ORDER BY {key} DESC LIMIT {NEWEST_ROWS}"  # noqa: S608
        parts += [
            f"'newest', (SELECT {key}::text FROM {table} ORDER BY {key} DESC LIMIT 1)",  # noqa: S608
            f"'sum', (SELECT md5(string_agg(newest::text, ',')) FROM ({newest}) AS newest)",  # noqa: S608
        ]
    return f"SELECT json_build_object({', '.join(parts)})"


def compare(
    before: dict[str, dict[str, Any]],
    after: dict[str, dict[str, Any]],
    restored: dict[str, dict[str, Any]],
    changes: dict[str, int],
) -> list[str]:
    """Return how the restored tables differ from the live ones beyond what was written meanwhile.

    ``before`` and ``after`` are the live tables around the restore point, ``changes`` the rows written between the two.
    """
    there = {*before} & {*after}
    problems = [f"{name} is missing" for name in sorted(there - {*restored})]
    for name, table in sorted(restored.items()):
        if name not in there:
            continue
        churn = changes.get(name, 0)
        least = min(before[name]["rows"], after[name]["rows"]) - churn
        most = max(before[name]["rows"], after[name]["rows"]) + churn
        if not least <= table["rows"] <= most:
            wanted = str(least) if least == most else f"{least} to {most}"
            problems.append(f"{name} has {table['rows']} rows instead of {wanted}")
        elif churn == 0 and before[name] == after[name] and table != before[name]:
            problems.append(f"{name} has other newest rows than the live database")
    return problems


def as_postgres(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program as the account of PostgreSQL."""
    return subprocess.run(
        ["runuser", "-u", "postgres", "--", *arguments],
        input=stdin,
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
    )


def pgbackrest(stanza: str, *arguments: str) -> str:
    """Run pgBackRest; answers what it prints.

    Raises:
        DrillError: it failed, with its own words.

    """
    done = as_postgres("pgbackrest", f"--stanza={stanza}", *arguments)
    if done.returncode != 0:
        said = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "P00   INFO" not in line)
        raise DrillError(f"pgbackrest {arguments[-1]} failed ({done.returncode}): {said.strip()[-2000:]}")
    return done.stdout


def wait_for_archive(live: Database, wal: str, deadline: float) -> None:
    """Wait until a file of the log of changes has been handed to pgBackRest.

    Raises:
        DrillError: it was not in time, with the archiver's last trouble.

    """
    query = "SELECT coalesce(last_archived_wal, ''), coalesce(last_failed_wal, 'none') FROM pg_stat_archiver"
    while True:
        archived, failed = live.ask("postgres", query).split("|")
        if archived >= wal:
            return
        if time.monotonic() > deadline:
            raise DrillError(
                f"the log of changes does not reach the backups: {wal} is not there, last failure with {failed}; "
                "see the log of PostgreSQL"
            )
        time.sleep(1)


def newest_backup(stanza: str) -> dict[str, Any]:
    """Return the newest backup.

    Raises:
        DrillError: there is none.

    """
    info = json.loads(pgbackrest(stanza, "--output=json", "info"))
    backups: list[dict[str, Any]] = [backup for cluster in info for backup in cluster.get("backup", ())]
    if not backups:
        raise DrillError("there is no backup yet")
    return max(backups, key=lambda backup: int(backup["timestamp"]["stop"]))


@dataclass(frozen=True)
class Guest:
    """An account of this host that may ask a restored server, as a role of the database."""

    account: str
    role: str


class Scratch:
    """A restored server beside the live one: small, on a socket only, and writing to no archive."""

    def __init__(self, settings: dict[str, Any], folder: str, port: int) -> None:
        self.settings = settings
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.server = Database(folder, port)

    def check_room(self, size: int, variable: str) -> None:
        """Refuse to restore where the database has no room.

        Raises:
            DrillError: it has none.

        """
        free, needed = shutil.disk_usage(self.folder).free, int(size * 1.2)
        if free < needed:
            raise DrillError(
                f"{self.folder} has {free / 1e9:.1f} GB free and the restore needs {needed / 1e9:.1f} GB: "
                f"set {variable} to a folder with more room"
            )

    def restore(self, *target: str) -> float:
        """Restore the files up to a target of pgBackRest; answers the seconds it took."""
        began = time.monotonic()
        stanza, data = self.settings["stanza"], str(self.data)
        as_postgres("mkdir", "-m", "0700", data)
        fetch = f'pgbackrest --stanza={stanza} --pg1-path={data} --no-archive-async archive-get %f "%p"'
        pgbackrest(
            stanza,
            f"--pg1-path={data}",
            "--archive-mode=off",
            *target,
            "--target-action=promote",
            f"--recovery-option=restore_command={fetch}",
            "restore",
        )
        return round(time.monotonic() - began, 1)

    def start(self, live: Database, deadline: float, guest: Guest | None = None) -> float:
        """Start the server and wait until it has reached the target; answers the seconds it took.

        Raises:
            DrillError: it does not start, with the end of its log.

        """
        began = time.monotonic()
        texts = (
            self.configuration(live, guest),
            f"local all postgres peer\n{f'local all {guest.role} peer map=guest' if guest else ''}\n",
            f"guest {guest.account} {guest.role}\n" if guest else "",
        )
        for name, text in zip(CONFIGURATION, texts, strict=True):
            as_postgres("tee", str(self.folder / name), stdin=text)
        remaining = max(60, int(deadline - time.monotonic()))
        log = self.folder / LOG
        options = f"-c config_file={self.folder}/drill.conf -c data_directory={self.data}"
        command = ("start", "-D", str(self.data), "-w", "-t", str(remaining), "-s", "-l", str(log), "-o", options)
        started = as_postgres(f"{self.settings['programs']}/pg_ctl", *command)
        while started.returncode == 0:
            if self.server.ask("postgres", "SELECT pg_is_in_recovery()") == "f":
                return round(time.monotonic() - began, 1)
            if time.monotonic() > deadline:
                break
            time.sleep(1)
        said = as_postgres("tail", "-c", "2000", str(log)).stdout or started.stderr
        raise DrillError(f"the restored database does not start: {said.strip()}")

    def configuration(self, live: Database, guest: Guest | None) -> str:
        """Return the configuration of the server."""
        # A server that restores must not allow fewer of these than the one that wrote.
        names = (
            "max_connections",
            "max_worker_processes",
            "max_wal_senders",
            "max_prepared_transactions",
            "max_locks_per_transaction",
        )
        taken = "".join(f"{name} = {live.ask('postgres', f'SHOW {name}')}\n" for name in names)
        folder = self.folder
        return (
            f"{taken}port = {self.server.port}\nlisten_addresses = ''\nunix_socket_directories = '{folder}'\n"
            f"unix_socket_permissions = {'0777' if guest else '0700'}\n"
            f"hba_file = '{folder}/drill_hba.conf'\nident_file = '{folder}/drill_ident.conf'\n"
            "archive_mode = off\nfsync = off\nfull_page_writes = off\nautovacuum = off\nssl = off\n"
            "shared_buffers = 128MB\nmaintenance_work_mem = 64MB\nlogging_collector = off\n"
            "default_transaction_read_only = on\n"
        )

    def runs(self) -> bool:
        """Whether the server is there."""
        command = (f"{self.settings['programs']}/pg_ctl", "status", "-D", str(self.data), "-s")
        return self.data.exists() and as_postgres(*command).returncode == 0

    def clean(self) -> None:
        """Stop the server and take its files away, whatever state they are in.

        Raises:
            DrillError: they cannot be taken away.

        """
        if (self.data / "postmaster.pid").exists():
            as_postgres(f"{self.settings['programs']}/pg_ctl", "stop", "-D", str(self.data), "-m", "immediate", "-s")
        socket = f".s.PGSQL.{self.server.port}"
        names = (self.data.name, *CONFIGURATION, LOG, socket, f"{socket}.lock")
        removed = as_postgres("rm", "-rf", "--", *(str(self.folder / name) for name in names))
        if removed.returncode != 0:
            raise DrillError(f"{self.folder} cannot be emptied: {removed.stderr.strip()}")


class Drill:
    """One trial."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.scratch = Scratch(settings, settings["folder"], int(settings["drill_port"]))
        self.live = Database("/var/run/postgresql", int(settings["port"]))
        self.deadline = time.monotonic() + float(settings["timeout"])
        self.result: dict[str, Any] = {"success": False, "started": round(time.time())}

    def run(self) -> None:
        """Restore and compare; the result is in ``result``.

        Raises:
            DrillError: the backup is not as good as the live database.

        """
        self._choose_backup()
        databases = self.live.databases()
        before = {name: self.live.tables(name) for name in databases}
        time.sleep(STATISTICS_DELAY)
        changes_before = {name: self.live.changes(name) for name in databases}
        point = f"drill-{time.time_ns()}"
        self.live.ask("postgres", f"SELECT pg_create_restore_point('{point}')")
        wal = self.live.ask("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
        after = {name: self.live.tables(name) for name in databases}
        time.sleep(STATISTICS_DELAY)
        changes_after = {name: self.live.changes(name) for name in databases}
        wait_for_archive(self.live, wal, min(self.deadline, time.monotonic() + 300))

        self.result["restore_seconds"] = self.scratch.restore("--type=name", f"--target={point}")
        self.result["recovery_seconds"] = self.scratch.start(self.live, self.deadline)
        problems, tables, rows = [], 0, 0
        for name in databases:
            restored = self.scratch.server.tables(name)
            written = {
                table: count - changes_before[name].get(table, 0) for table, count in changes_after[name].items()
            }
            problems += [f"{name}: {text}" for text in compare(before[name], after[name], restored, written)]
            tables += len(restored)
            rows += sum(table["rows"] for table in restored.values())
        self.result |= {"databases": databases, "tables": tables, "rows": rows}
        if problems:
            raise DrillError("the restored database differs from the live one: " + "; ".join(problems))

    def _choose_backup(self) -> None:
        newest = newest_backup(self.settings["stanza"])
        self.result |= {
            "backup": newest["label"],
            "age_seconds": round(time.time()) - int(newest["timestamp"]["stop"]),
            "bytes": newest["info"]["size"],
        }
        self.scratch.check_room(newest["info"]["size"], "backup_drill_folder")


def metrics(result: dict[str, Any], last_success: int) -> str:
    """Return the result as text for Prometheus."""
    rows = [
        ("escriptorium_backup_drill_success", "Whether the last trial restore went well.", int(result["success"])),
        ("escriptorium_backup_drill_timestamp_seconds", "When the last trial ended.", result["ended"]),
        ("escriptorium_backup_drill_last_success_timestamp_seconds", "When a trial last went well.", last_success),
        ("escriptorium_backup_drill_seconds", "How long the last trial took.", result["ended"] - result["started"]),
        ("escriptorium_backup_drill_bytes", "Size of the restored database.", result.get("bytes", 0)),
        ("escriptorium_backup_drill_backup_age_seconds", "Age of the newest backup.", result.get("age_seconds", 0)),
    ]
    return "".join(f"# HELP {name} {text}\n# TYPE {name} gauge\n{name} {value}\n" for name, text, value in rows)


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step: nobody ever reads half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
        os.fchmod(handle, mode)
    Path(name).replace(path)


def start_scratch(settings: dict[str, Any], moment: str, guest: Guest | None) -> dict[str, Any]:
    """Leave a server with the database as it was at a moment; answers where it is.

    Raises:
        DrillError: there is none, and nothing is left of it.

    """
    live = Database("/var/run/postgresql", int(settings["port"]))
    scratch = Scratch(settings, settings["scratch_folder"], int(settings["scratch_port"]))
    deadline = time.monotonic() + float(settings["timeout"])
    scratch.clean()  # of one that died
    trouble = ""
    try:
        scratch.check_room(newest_backup(settings["stanza"])["info"]["size"], "backup_scratch_folder")
        # A moment is only reached where a change came after it, and only what is in the archive can be read.
        live.ask("postgres", "SELECT txid_current()")
        wal = live.ask("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
        try:
            wait_for_archive(live, wal, time.monotonic() + 60)
        except DrillError as error:
            trouble = f" ({error})"  # an older moment may do without it
        seconds = scratch.restore("--type=time", f"--target={moment}") + scratch.start(live, deadline, guest)
    except BaseException as error:
        scratch.clean()
        raise DrillError(f"{error}{trouble}") from error
    return {"host": str(scratch.folder), "port": scratch.server.port, "seconds": round(seconds, 1)}


@contextlib.contextmanager
def only_one(settings: dict[str, Any], name: str) -> Iterator[bool]:
    """Keep others away meanwhile; answers whether none is at work. Only root can open what is locked."""
    place = Path(settings["result"]).with_name(f"{name}.lock")
    with os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
        alone = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        yield alone


def scratch_main() -> int:
    """Run the command platform-scratch; the exit status."""
    parser = argparse.ArgumentParser(
        prog="platform-scratch", description="The database of a moment beside the live one."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("stop", help="take it away")
    start = commands.add_parser("start", help="restore it")
    start.add_argument("--target-time", required=True, help="moment, as PostgreSQL reads it, with its time zone")
    start.add_argument("--account", help="account of this host that may read it")
    start.add_argument("--role", help="role of the database that the account is taken for")
    options = parser.parse_args()
    settings: dict[str, Any] = json.loads(SETTINGS.read_text())
    scratch = Scratch(settings, settings["scratch_folder"], int(settings["scratch_port"]))
    with only_one(settings, "scratch") as alone:
        if not alone or (options.command == "start" and scratch.runs()):
            sys.stderr.write("somebody brings something back just now. Was that cut off? Then: platform-scratch stop\n")
            return IN_USE
        try:
            if options.command == "stop":
                scratch.clean()
            else:
                guest = Guest(options.account, options.role) if options.account and options.role else None
                sys.stdout.write(json.dumps(start_scratch(settings, options.target_time, guest)) + "\n")
        except (DrillError, OSError, ValueError, KeyError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


def try_backup(settings: dict[str, Any], *, keep: bool) -> dict[str, Any]:
    """Restore the newest backup for a trial; answers what was found."""
    drill = Drill(settings)
    try:
        drill.scratch.clean()  # of a trial that was cut off
        try:
            drill.run()
        finally:
            if not keep:
                drill.scratch.clean()
        drill.result["success"] = True
    except (DrillError, OSError, ValueError, KeyError) as error:
        drill.result["problem"] = str(error)
    return drill.result


def main() -> int:
    """Run the trial; the exit status."""
    parser = argparse.ArgumentParser(prog="backup-drill", description="Restore the newest backup for a trial.")
    parser.add_argument("--keep", action="store_true", help="leave the restored files where they are")
    options = parser.parse_args()
    settings: dict[str, Any] = json.loads(SETTINGS.read_text())
    with only_one(settings, "drill") as alone:
        if not alone:
            sys.stderr.write("another trial is running\n")
            return 1
        result = try_backup(settings, keep=options.keep) | {"ended": round(time.time())}
    path = Path(settings["result"])
    last_success = json.loads(path.read_text())["last_success"] if path.exists() else 0
    if result["success"]:
        last_success = result["ended"]
    result["last_success"] = last_success
    write_whole(Path(settings["metrics"]), metrics(result, last_success))
    write_whole(path, json.dumps(result) + "\n", 0o600)
    sys.stdout.write(json.dumps(result) + "\n")
    if not result["success"]:
        sys.stderr.write(f"the trial restore FAILED: {result['problem']}\n")
    return 0 if result["success"] else 1


if __name__ == "__main__":
    sys.exit(scratch_main() if Path(sys.argv[0]).name == "platform-scratch" else main())
