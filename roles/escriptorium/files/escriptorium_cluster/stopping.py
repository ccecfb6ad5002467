"""Jobs that an operator ends as failed (``drain_then=stop``): none of them begins again, wherever that is broken off.

Before their workers are killed it is noted under their messages what is to become of them. From then on nobody gives
those messages to other workers. When the workers are gone their reports are marked, and only then the messages are
dropped. So whoever comes next goes on where it was broken off: the repeated command, or the reaper once the lease of
the worker counts as dead.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.lease import (
    NOTES,
    RUNNING,
    UNACKED,
    UNACKED_INDEX,
    Note,
    as_text,
    parse_note,
    read_hash,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    #: Marks jobs as failed: their task ids, no models, the reason that users read.
    Mark = Callable[[Sequence[str], Sequence[int], str], object]

#: Hash: delivery tag -> what is to become of its message, as JSON (``Order``).
STOPPING = "cluster:stopping"

# KEYS: notes, unacked, running, orders. ARGV: tag, note, task id, lease, order.
# Answers 0 where the message is gone or belongs to another worker by now, or its job runs under another lease.
NOTE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
local lease = redis.call('HGET', KEYS[3], ARGV[3])
if lease and lease ~= ARGV[4] then return 0 end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[5])
return 1
"""
# KEYS: orders. ARGV: tag, order.
FORGET = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
# KEYS: notes, unacked, its index, orders. ARGV: tag, note.
# Answers 0 when the message was acknowledged, or belongs to another worker by now.
DROP = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[4], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""


@dataclass(frozen=True, slots=True)
class Order:
    """That a job is to end as failed. ``note``: who held its message then, as noted there; ``reason``: for users."""

    note: str
    reason: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """A job that an operator has ended."""

    node: str
    task: str
    id: str
    since: float
    reason: str


def note_orders(redis: Any, wanted: Callable[[Note], bool], reason: str) -> list[Note]:
    """Note that the jobs of some workers are to end as failed; returns these jobs.

    :param redis: a client of the broker's database.
    :param wanted: whether the job of a message is one of them.
    :param reason: what users read.
    """
    keys = (NOTES, UNACKED, RUNNING, STOPPING)
    found = []
    for tag, text in read_hash(redis, NOTES).items():
        note = parse_note(text)
        if note is None or not wanted(note):
            continue
        order = json.dumps(asdict(Order(text, reason)))
        if redis.eval(NOTE, len(keys), *keys, tag, text, note.id, note.lease, order):
            found.append(note)
    return found


def orders(redis: Any) -> dict[str, Order]:
    """Return what is to become of messages, by their delivery tags. Some may be gone, or be held by others by now."""
    found = {tag: _parse(text) for tag, text in read_hash(redis, STOPPING).items()}
    return {tag: order for tag, order in found.items() if order}


def finish(redis: Any, gone: Callable[[Note], bool], mark: Mark) -> list[Stopped]:
    """End the jobs that are to be ended and whose workers are gone; returns them.

    :param gone: whether the processes of the worker that held a message have ended.
    :param mark: called before a message is dropped; what it raises leaves the rest to the next call.
    """
    notes, unacknowledged = read_hash(redis, NOTES), {as_text(tag) for tag in redis.hkeys(UNACKED)}
    stopped: dict[str, Stopped] = {}
    for tag, text in read_hash(redis, STOPPING).items():
        order = _parse(text)
        note = parse_note(order.note) if order else None
        if order is None or note is None or tag not in unacknowledged or notes.get(tag, order.note) != order.note:
            # It has ended, or went elsewhere before it was noted here.
            redis.eval(FORGET, 1, STOPPING, tag, text)
        elif tag in notes and gone(note):
            stopped[tag] = Stopped(note.node, note.task, note.id, note.since, order.reason)
    for reason in dict.fromkeys(job.reason for job in stopped.values()):
        mark([job.id for job in stopped.values() if job.reason == reason], [], reason)
    keys = (NOTES, UNACKED, UNACKED_INDEX, STOPPING)
    return [job for tag, job in stopped.items() if redis.eval(DROP, len(keys), *keys, tag, notes[tag])]


def take_back(redis: Any, wanted: Callable[[Note], bool]) -> None:
    """Let jobs that were to be ended go on.

    :param wanted: whether the job of a message is one of them.
    """
    for tag, text in read_hash(redis, STOPPING).items():
        order = _parse(text)
        note = parse_note(order.note) if order else None
        if note and wanted(note):
            redis.eval(FORGET, 1, STOPPING, tag, text)


def is_ordered(found: Mapping[str, Order], tag: str, note: str) -> bool:
    """Whether the job of a message is to be ended, as ``orders`` says, while this note about it stands."""
    return tag in found and found[tag].note == note


def _parse(text: str) -> Order | None:
    try:
        return Order(**json.loads(text))
    except (ValueError, TypeError):
        return None
