"""Database and broker of a bench that speak TLS, with certificates of an authority of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from application_bench import PASSWORD, reserved_ports
from client import wait_until

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))
from module_utils.platform_certificates import renew  # noqa: E402 - found by the path above

if TYPE_CHECKING:
    from collections.abc import Iterator

    from application_bench import Bench, Database

APPLY = ROOT / "roles" / "redis" / "files" / "redis_apply.py"


def other_authority(folder: Path) -> Path:
    """Make an authority that has signed nothing of the services; returns its certificate."""
    renew(folder, ["127.0.0.1"], datetime.now(UTC), write=True)
    return folder / "ca.crt"


class Services:
    """Database and broker of a bench, and their certificate."""

    def __init__(self, bench: Bench, port: int, *, clear_too: bool = False) -> None:
        self.bench, self.port, self.folder = bench, port, bench.folder / "tls"
        self.clear = bench.ports["redis"] if clear_too else 0
        self.database: Database = bench.database
        self.file = bench.folder / "encrypted.conf"

    def certify(self, *names: str) -> None:
        """Give both a certificate for these names, without a restart."""
        (self.folder / "server.crt").unlink(missing_ok=True)
        renew(self.folder, names, datetime.now(UTC), write=True)
        for name in ("server.crt", "server.key"):
            copy = self.database.data / name
            shutil.copy(self.folder / name, copy)
            copy.chmod(0o600)
            if os.geteuid() == 0:
                shutil.chown(copy, "postgres")
        self.database.ask("postgres", "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        self.file.touch(0o600)
        self.file.write_text(
            f"requirepass {json.dumps(PASSWORD)}\nport {self.clear}\ntls-port {self.port}\ntls-auth-clients no\n"
            f"tls-cert-file {self.folder}/server.crt\ntls-key-file {self.folder}/server.key\n"
        )
        clear = str(self.bench.ports["redis"])
        subprocess.run(["python3", str(APPLY), "--port", clear, str(self.file)], check=True, capture_output=True)
        self.wait_for_database()

    def wait_for_database(self) -> None:
        """Wait until the database shows the certificate: a reload is told, and not waited for."""
        words = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{self.database.port}"]
        wanted = (self.folder / "server.crt").read_text().strip()
        wait_until(
            lambda: wanted in subprocess.run(words, input="", capture_output=True, text=True, check=False).stdout,
            bool, 20, "PostgreSQL shows the certificate", 0.1,
        )  # fmt: skip

    @contextmanager
    def trusting(self, authority: Path) -> Iterator[None]:
        """Let the application trust another authority for a while."""
        before = self.bench.environment["CLUSTER_SERVICES_CA"]
        self.bench.environment["CLUSTER_SERVICES_CA"] = str(authority)
        try:
            yield
        finally:
            self.bench.environment["CLUSTER_SERVICES_CA"] = before

    @property
    def environment(self) -> dict[str, str]:
        """Return what the application has to know of them."""
        return {"REDIS_PORT": str(self.port), "CLUSTER_SERVICES_CA": str(self.folder / "ca.crt")}


@contextmanager
def encrypted_services(bench: Bench, *, clear_too: bool = False) -> Iterator[Services]:
    """Let the services of a bench speak TLS for a while, and take nobody in clear unless that is said."""
    access = bench.database.data / "pg_hba.conf"
    before = access.read_text()
    with reserved_ports("tls") as ports:
        made = Services(bench, ports["tls"], clear_too=clear_too)
        if not clear_too:
            access.write_text(f"hostnossl all all all reject\n{before}")
        try:
            made.certify("127.0.0.1")
            yield made
        finally:
            # Other modules share the database.
            access.write_text(before)
            bench.database.ask("postgres", "ALTER SYSTEM RESET ssl", "SELECT pg_reload_conf()")
