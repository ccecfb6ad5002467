"""How long a job waits for its database, and how it sees that it has to. No Django: see database/base.py."""

from __future__ import annotations

import logging
import select
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Bounds of the seconds between two attempts to connect, and seconds between two lines about it in the journal.
PAUSES = (1.0, 10.0)
TELL_SECONDS = 60.0
#: Where waiting does not help, by the class of SQLSTATE: who asks, which database, what is allowed. And by the words of
#: server and client, for psycopg2 keeps no code of an attempt to connect; the role has the server speak English.
HOPELESS_CLASSES = frozenset({"28", "3D", "42"})
HOPELESS = ("authentication failed", "does not exist", "permission denied", "invalid ")


class Patience:
    """Whether this process waits for its database, and how many questions have gone down with it."""

    def __init__(self) -> None:
        self.on = False
        self.losses = 0

    def applies(self) -> bool:
        """Whether the caller is a job: the threads that look after this process do not wait."""
        return self.on and threading.current_thread() is threading.main_thread()


patience = Patience()


def let_in_no_more(error: Exception) -> bool:
    """Whether the server does not know this host (any more), in whatever language it says so."""
    return "pg_hba.conf" in str(error)


def hopeless(error: Exception) -> bool:
    """Whether an attempt to connect failed for a reason that stays."""
    code = getattr(error, "pgcode", None)
    if code:
        return code[:2] in HOPELESS_CLASSES
    return let_in_no_more(error) or any(words in str(error) for words in HOPELESS)


def connect_patiently(
    connect: Callable[[], Any],
    expected: type[Exception],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """Connect, again and again until the server is there.

    :param connect: one attempt; raises ``expected`` when it fails.
    :raises Exception: that of the attempt, where waiting does not help.
    """
    pause, longest = PAUSES
    began, told = now(), 0.0
    while True:
        try:
            connection = connect()
        except expected as error:
            if hopeless(error):
                raise
            if not told or now() - told >= TELL_SECONDS:
                told = now()
                logger.warning("the job waits for the database: %s", " ".join(str(error).split()))
            sleep(pause)
            pause = min(2 * pause, longest)
        else:
            if told:
                logger.warning("the database is back after %.0f s: the job goes on", now() - began)
            return connection


def server_has_gone(connection: Any, lost: type[Exception]) -> bool:
    """Whether a connection of psycopg2 on which nothing is asked is lost. Costs one look at its socket.

    :param lost: what the connection raises then.
    """
    if connection.closed:
        return True
    if connection.info.transaction_status != 0:  # not idle: somebody else will see
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    if not poll.poll(0):
        return False
    # Nothing was asked and something has come: the server's last words, or a harmless notice.
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except lost:
        return True
    return False
