"""What restic, ssh and servers say where a target cannot be opened or takes no more, and what that means."""

from __future__ import annotations

import re
from typing import Final

#: Patterns of what is said of a target that is there and cannot be opened, or is not there.
REFUSALS: Final = {
    "wrong password or no key found": (
        "the passphrase is another one than that of the copies at {name}: secret_media_passphrase has to be the one "
        "that they were made with"
    ),
    r"Host key verification failed|REMOTE HOST IDENTIFICATION": (
        "the machine that answers for {name} has another host key than its host_key"
    ),
    r"Permission denied \(|unexpected: 40[13] |response \(40[13]\)|Access ?Denied|[Aa]ccess [Kk]ey"
    r"|SignatureDoesNotMatch": "{name} refuses the login",
    # Of a full disk the server of sftp says that it is a failure.
    r"[Nn]o space left|[Qq]uota|SSH_FX_FAILURE|\b507\b|Insufficient Storage|StorageFull": (
        "{name} is full, or takes no more"
    ),
    r"\b50[0234]\b|InternalError|Internal Server Error|Bad Gateway|Service Unavailable|[Ss]lowDown": (
        "{name} answers with errors"
    ),
    # The last two lines are how Go tells of a server that hangs up before it is asked, or is silent.
    r"connection refused|[Cc]onnection (reset|closed|timed out)|no route to host|[Nn]etwork is unreachable|no such host"
    r"|i/o timeout|Could not resolve|broken pipe|EOF"
    r"|server closed idle connection|connection broken|deadline exceeded|(handshake|Client\.) ?[Tt]imeout"
    r"|timeout awaiting": "{name} cannot be reached",
    "unable to start the sftp session": "{name} refuses the login, or cannot be reached",
}


def refusal(name: str, said: str) -> str:
    """Return why a target cannot be opened or takes no more; empty where that is unknown, or it has no copies yet."""
    for shape, words in REFUSALS.items():
        if re.search(shape, said):
            return words.format(name=name)
    return ""


def told(name: str, said: str, shown: int) -> str:
    """Return what restic has said as operators read it: what it means, and its end, ``shown`` letters at most.

    Of its tries, which are many, the last one stays.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    tries = [line for line in lines if "retrying after" in line]
    rest = [line for line in lines if "retrying after" not in line]
    why = refusal(name, " ".join([*tries[-3:], *rest]))
    return ": ".join(filter(None, (why, " ".join([*tries[-1:], *rest])[-shown:])))
