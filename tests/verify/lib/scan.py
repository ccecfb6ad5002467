"""Which TCP ports of hosts answer, seen from where this runs: a program of its own, sent to a host of no inventory.

    python3 scan.py LAST ADDRESS...      prints {address: [ports that take connections, ports that refuse them]} as JSON

As root, with Python's own library: half-open connections by raw sockets, so that all ports of a host, 1 to LAST, take
seconds though it drops what is sent. A port that refuses answers too, which no port behind the firewall does.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor

#: Own port, which nothing here uses.
SOURCE = 61234
SYN, RST, ACK = 0x02, 0x04, 0x10
#: Packets at once, and the pause after them: a slow host must not lose answers. Unit: s
BURST, PAUSE = 256, 0.01
#: Answers are awaited so long after the last packet. Unit: s
LAST = 3.0
#: Each port is asked so often.
ROUNDS = 2


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packet(source: bytes, target: bytes, port: int) -> bytes:
    """Return a TCP packet that asks for a connection."""

    def head(check: int) -> bytes:
        return struct.pack("!HHIIBBHHH", SOURCE, port, port, 0, 5 << 4, SYN, 1024, check, 0)

    pseudo = source + target + (struct.pack("!BBH", 0, 6, 20) if len(target) == 4 else struct.pack("!II", 20, 6))
    return head(checksum(pseudo + head(0)))


def scan(address: str, last: int) -> tuple[list[int], list[int]]:
    """Return the ports of one address that take connections, and those that refuse them."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        way.connect((address, 9))
        source = socket.inet_pton(family, way.getsockname()[0])
    target = socket.inet_pton(family, address)
    taken: set[int] = set()
    refused: set[int] = set()
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)

        def listen(seconds: float) -> None:
            until = time.monotonic() + seconds
            while select.select([raw], [], [], max(0.0, until - time.monotonic()))[0]:
                data, sender = raw.recvfrom(200)
                if sender[0].partition("%")[0] != address:
                    continue
                # Of IPv4 the header comes along.
                data = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
                port, own, flags = struct.unpack("!HH9xB", data[:14])
                if own == SOURCE:
                    (refused if flags & RST else taken if flags & SYN and flags & ACK else set()).add(port)

        for _ in range(ROUNDS):
            for port in range(1, last + 1):
                raw.sendto(packet(source, target, port), (address, 0))
                if port % BURST == 0:
                    listen(PAUSE)
            listen(LAST)
    return sorted(taken), sorted(refused)


if __name__ == "__main__":
    # Side by side: most of the time answers are awaited that never come.
    with ThreadPoolExecutor(len(sys.argv)) as pool:
        answers = pool.map(lambda address: scan(address, int(sys.argv[1])), sys.argv[2:])
        print(json.dumps(dict(zip(sys.argv[2:], answers, strict=True))))
