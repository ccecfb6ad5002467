"""What restic, ssh and servers say is told as what it means; nothing else is taken for it."""

from __future__ import annotations

import pytest
from ansible.module_utils.backup_programs.refusals import refusal, told

ASKED = 'Fatal: unable to open config file: Stat: Head "http://127.0.0.1:41821/media/config": '


@pytest.mark.parametrize(
    "said",
    [
        "Connection closed by foreign host http://127.0.0.1:41821/media/config. Retry again.",
        "http: server closed idle connection",
        "net/http: HTTP/1.x transport connection broken: http: CloseIdleConnections called",
        "read tcp 127.0.0.1:5->127.0.0.1:6: read: connection reset by peer",
        "write tcp 127.0.0.1:5->127.0.0.1:6: write: broken pipe",
        "dial tcp 127.0.0.1:41821: connect: connection refused",
        "dial tcp: lookup copies.example on 10.0.0.1:53: no such host",
        "dial tcp 10.0.0.7:443: i/o timeout",
        "net/http: TLS handshake timeout",
        "net/http: timeout awaiting response headers",
        "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
        "unexpected EOF",
    ],
)
def test_a_server_that_hangs_up_or_is_silent_is_away(said: str) -> None:
    assert refusal("elsewhere", ASKED + said) == "elsewhere cannot be reached"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Fatal: wrong password or no key found", "secret_media_passphrase has to be the one"),
        ("client.Put: The Access Key Id you provided does not exist in our records.", "refuses the login"),
        ("unexpected: 401 Unauthorized", "refuses the login"),
        ("Host key verification failed.", "another host key"),
        ('sftp: "Failure" (SSH_FX_FAILURE)', "is full"),
        ("server response unexpected: 507 Insufficient Storage (507)", "is full"),
        ("server response unexpected: 500 Internal Server Error (500)", "answers with errors"),
        (
            "unable to start the sftp session, error: error receiving version packet from server",
            "refuses the login, or",
        ),
    ],
)
def test_what_a_target_refuses_is_named(said: str, words: str) -> None:
    assert words in refusal("elsewhere", said)


def test_a_target_without_copies_refuses_nothing() -> None:
    assert refusal("elsewhere", f"{ASKED}The specified key does not exist.") == ""
    assert refusal("disk", "Fatal: unable to open config file: stat /mnt/disk/config: no such file or directory") == ""


def test_of_many_tries_the_last_one_is_shown() -> None:
    tries = [f"Save(<data/1>) returned error, retrying after {n}s: connection refused" for n in range(5)]
    words = told("elsewhere", "\n".join([*tries, "Fatal: it did not work"]), 200)
    assert words.startswith("elsewhere cannot be reached: ")
    assert "after 4s" in words
    assert "after 3s" not in words
    assert words.endswith("Fatal: it did not work")
