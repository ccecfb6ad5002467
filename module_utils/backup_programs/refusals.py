"""What restic, ssh and servers say where a target cannot be opened or takes no more, and what that means for operators."""

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
    r"Permission denied \(|unexpected: 40[13] |response \(40[13]\)|Access ?Denied|[Aa]ccess [Kk]ey|SignatureDoesNotMatch": (
        "{name} refuses the login"
    ),
    r"connection refused|[Cc]onnection (reset|closed|timed out)|no route to host|[Nn]etwork is unreachable|no such host"
    r"|i/o timeout|Could not resolve|broken pipe|EOF|Service Unavailable|Bad Gateway": "{name} cannot be reached",
}


def refusal(name: str, said: str) -> str:
    """Return why a target cannot be opened, where it is not that there are no copies yet; empty where that is unknown."""
    for shape, words in REFUSALS.items():
        if re.search(shape, said):
            return words.format(name=name)
    return ""
