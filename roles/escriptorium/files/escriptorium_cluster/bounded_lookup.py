"""Looks a name up within a time limit.

The system's resolver has none: it asks each server of resolv.conf twice and waits 5 s each time, and so for each domain
of the search list. Who names a host may have its servers be silent. So a thread of its own looks, which is left behind
when the time is over, and ends when the resolver does.
"""

from __future__ import annotations

import queue
import socket
import threading


def addresses_of(host: str, port: int, seconds: float | None) -> list[str]:
    """Return the addresses of a name, in the resolver's order.

    :param seconds: time for it; None: the resolver's.
    :raises socket.gaierror: when the name has none.
    :raises TimeoutError: when the time is over.
    """
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()

    def look() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except Exception as error:  # whatever it is, it is the asker's
            answers.put(error)

    threading.Thread(target=look, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no address of {host} within {seconds:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
