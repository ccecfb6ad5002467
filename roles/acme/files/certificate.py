#!/usr/bin/python3
"""The certificate that came by ACME: puts it in the place of the site's, and says where none came. Runs as root.

    certificate ask                          ask the CA now; print why none has come
    certificate pending                      print why the CA is to be asked again; nothing where all is well
    certificate install FOLDER               (of the service) certificate.pem, key.pem, kind.conf for nginx
    certificate report FOLDER DAYS EMAIL     (of the service) note how it ended; a mail where the end is near

The account that asks the CA writes one file, SITE. It is opened without following a link, has a bound, and is used as
bytes: who holds that account can give nginx a bad certificate, which nginx refuses, and nothing else.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import stat
import subprocess
import sys
import time
from pathlib import Path

SERVICE = "escriptorium-acme.service"
#: Under which the lines of its programs are in the journal: systemd's own are not.
IDENTIFIER = "escriptorium-acme"
SITE = Path("/var/lib/private/escriptorium-acme/site.pem")
SETTINGS = Path("/etc/escriptorium-acme")
RECORD = Path("/var/lib/escriptorium-certificate")
#: Bytes that a key with its certificates has at most.
BOUND = 1 << 17
#: Seconds between two mails. A bit less than a day: the timer does not come at the same second.
MAIL_EVERY = 23 * 3600
DAY = 86400
_PART = re.compile(rb"-----BEGIN ([A-Z ]+)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n")


class CertificateError(RuntimeError):
    """What the account has left cannot be used; the text is for people."""


def read_foreign(path: Path) -> bytes:
    """Read a file that another account has written, in a folder above which is root's alone."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_size > BOUND:
            raise CertificateError(f"{path} is no plain file, or larger than {BOUND} bytes")
        return file.read(BOUND)


def parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the key and the chain of a file that holds both."""
    found = [(match[1], match[0]) for match in _PART.finditer(content)]
    keys = [text for name, text in found if name.endswith(b"PRIVATE KEY")]
    chain = [text for name, text in found if name == b"CERTIFICATE"]
    if len(keys) != 1 or not chain:
        raise CertificateError(f"found {len(keys)} keys and {len(chain)} certificates, wanted 1 and a chain")
    return keys[0], b"".join(chain)


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file of root's whole, or not at all."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # whatever the umask of the service is
        file.write(content)
        file.flush()
        os.fsync(handle)
    beside.replace(path)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its answer is read whatever its status."""
    return subprocess.run(words, check=False, capture_output=True, text=True)


def install(folder: Path, site: Path = SITE) -> bool:
    """Give nginx the certificate where it has another one; answers whether it had.

    Raises:
        CertificateError: nginx refuses it. What was there is there again, and was in use all the time.

    """
    key, chain = parts(read_foreign(site))
    wanted = {"key.pem": (key, 0o600), "certificate.pem": (chain, 0o644), "kind.conf": (b"default real;\n", 0o644)}
    before = {name: (folder / name).read_bytes() if (folder / name).exists() else b"" for name in wanted}
    if all(before[name] == content for name, (content, _) in wanted.items()):
        return False
    for name, (content, mode) in wanted.items():
        write(folder / name, content, mode)
    tested = run("nginx", "-t")
    if tested.returncode != 0:
        for name, (_, mode) in wanted.items():
            write(folder / name, before[name], mode)
        raise CertificateError(f"nginx refuses the new certificate: {tested.stderr.strip()}")
    # Where somebody has stopped nginx, it stays so; where it could not start with a half of each, it starts now.
    if run("systemctl", "show", "--property=ActiveState", "--value", "nginx.service").stdout.strip() != "inactive":
        reloaded = run("systemctl", "reload-or-restart", "nginx.service")
        if reloaded.returncode != 0:
            raise CertificateError(f"nginx did not read it: {reloaded.stderr.strip()}")
    return True


def days_left(certificate: Path, now: float) -> int:
    """Return the whole days until a certificate ends."""
    end = run("openssl", "x509", "-noout", "-enddate", "-in", str(certificate)).stdout.strip().removeprefix("notAfter=")
    return int((ssl.cert_time_to_seconds(end) - now) // DAY) if end else 0


def journal(invocation: str) -> list[str]:
    """Return the last lines that one run of the service has written."""
    words = ["journalctl", "--quiet", "--output=cat", "--lines=40", f"--identifier={IDENTIFIER}"]
    answer = run(*words, f"_SYSTEMD_INVOCATION_ID={invocation}").stdout
    return [line for line in answer.splitlines() if line.strip()][-20:]


def message(email: str, days: int, lines: list[str]) -> str:
    """Return the mail to the person who runs the site."""
    return "\n".join(
        [
            f"To: {email}",
            f"Subject: {os.uname().nodename}: the certificate of the site ends in {days} days",
            "Content-Type: text/plain; charset=utf-8",
            "",
            f"It has not been renewed. After that day no browser opens the site. What {SERVICE} said last:",
            "",
            *lines,
            "",
            f"To try again: systemctl start {SERVICE}",
            "",
        ]
    )


def report(folder: Path, warn_days: int, email: str, *, record: Path = RECORD, now: float | None = None) -> None:
    """Note how the service has ended; tell a person once a day where the certificate's end is near."""
    moment = time.time() if now is None else now
    problem, told = record / "problem", record / "told"
    if os.environ.get("SERVICE_RESULT") == "success":
        problem.unlink(missing_ok=True)
        told.unlink(missing_ok=True)
        (record / "asked").touch()
        return
    lines = journal(os.environ.get("INVOCATION_ID", "")) or [f"{SERVICE}: {os.environ.get('SERVICE_RESULT')}"]
    problem.write_text("\n".join(lines) + "\n", encoding="utf-8")
    days = days_left(folder / "certificate.pem", moment)
    due = days < warn_days and not (told.exists() and moment - told.stat().st_mtime < MAIL_EVERY)
    if due and (sendmail := shutil.which("sendmail", path="/usr/sbin:/usr/lib")):
        sent = subprocess.run([sendmail, "-t"], input=message(email, days, lines), check=False, text=True)
        if sent.returncode == 0:
            told.touch()
            os.utime(told, (moment, moment))


def pending(record: Path = RECORD, settings: Path = SETTINGS) -> str:
    """Say why the CA is to be asked again."""
    problem, asked = record / "problem", record / "asked"
    if problem.exists():
        return "the last question came to nothing"
    # A time that is still to come is of a clock that was wrong.
    if not asked.exists() or asked.stat().st_mtime > time.time():
        return "the CA has not been asked yet"
    changed = [path.name for path in settings.iterdir() if path.stat().st_mtime > asked.stat().st_mtime]
    return f"{', '.join(sorted(changed))}: younger than the last question" if changed else ""


def ask() -> str:
    """Ask the CA now; answers why no certificate has come."""
    if run("systemctl", "start", SERVICE).returncode == 0:
        return ""
    problem = RECORD / "problem"
    return problem.read_text(encoding="utf-8") if problem.exists() else f"{SERVICE} did not start"


def main() -> int:
    """Do what the first word says."""
    match sys.argv[1:]:
        case ["ask"]:
            print(ask(), end="")
        case ["pending"]:
            print(pending(), end="")
        case ["install", folder]:
            try:
                install(Path(folder))
            except (CertificateError, OSError) as error:
                print(error)
                return 1
        case ["report", folder, days, email]:
            report(Path(folder), int(days), email)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
