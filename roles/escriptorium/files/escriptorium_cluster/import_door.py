"""The places at one server that all imports of the platform share, kept in Redis."""

from __future__ import annotations

import time
from typing import Any

from escriptorium_cluster.politeness import LOOK_SECONDS

#: Seconds that a place is kept without a sign of life: longer than a server may be silent.
PLACE_SECONDS = 120

#: Takes a place: 0, or milliseconds to wait. Places whose process died end by themselves.
_ENTER = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local shut = redis.call('PTTL', KEYS[2])
if shut > 0 then return shut end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return tonumber(ARGV[4]) end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 0
"""
_STAY = """
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
#: Never shortens what an earlier answer has asked for.
_SHUT = """
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], 1, 'PX', ARGV[1]) end
"""


class RedisDoor:
    """One server's places, in Redis."""

    def __init__(self, redis: Any, server: str, places: int) -> None:
        self._redis = redis
        self._busy = f"cluster:imports:busy:{server}"
        self._shut = f"cluster:imports:shut:{server}"
        self._places = places
        self._stayed = 0.0

    def enter(self, token: str) -> float:
        """Take a place, or return how many seconds to wait."""
        look = round(LOOK_SECONDS * 1000)
        # No bound is the same as more places than there are processes.
        places = self._places or 1 << 20
        wait = self._redis.eval(_ENTER, 2, self._busy, self._shut, places, token, PLACE_SECONDS * 1000, look)
        self._stayed = time.monotonic()
        return int(wait) / 1000

    def stay(self, token: str) -> None:
        """Keep the place; asks Redis no more often than needed."""
        if time.monotonic() - self._stayed > PLACE_SECONDS / 8:
            self._redis.eval(_STAY, 1, self._busy, token, PLACE_SECONDS * 1000)
            self._stayed = time.monotonic()

    def leave(self, token: str) -> None:
        """Give the place back."""
        self._redis.zrem(self._busy, token)

    def shut(self, seconds: float) -> None:
        """Let nobody in for some time."""
        if seconds > 0:
            self._redis.eval(_SHUT, 1, self._shut, round(seconds * 1000))
