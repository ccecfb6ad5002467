"""Gives jobs whose worker is gone to other workers, and ends jobs that nobody knows any more. Runs every minute.

    python -m escriptorium_cluster.reaper [--dead HOST] [--json]

A worker's lease (see ``lease``) that nobody has renewed for the lease's time is declared dead, and the messages noted
under it go back to the head of their queues, each once. Only time counts in which this program looked regularly and
Redis was up all along: no worker dies of a broker that was away, and none of a frontend that stood still.
``--dead HOST`` declares all leases of a host dead, for a machine that will not come back as it was.

Jobs of dead workers that an operator was about to end as failed (see ``stopping``) end so, and go nowhere.

Then reports in the database that count as queued or running while no message knows their job (Redis lost its last
second, or was emptied) are marked as failed, with a reason, and models that count as in training go free.

This loads no Django unless there is something to mark: eScriptorium takes many seconds to load.

Exit status 0. 75: broker or database do not answer. 1: the environment is wrong. 2: wrong usage. 68: nobody has ever
heard of the host; those that are known are named.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from escriptorium_cluster.config import QUEUES, ConfigError, ReaperConfig, load_reaper
from escriptorium_cluster.lease import (
    ANSWER_SECONDS,
    DEAD,
    DONE,
    LEASES,
    NOTES,
    RENEWED,
    RUNNING,
    UNACKED,
    UNACKED_INDEX,
    Holder,
    as_text,
    beat_of,
    declare_dead,
    host_of,
    parse_holder,
    parse_note,
    read_hash,
    surely_gone,
)
from escriptorium_cluster.stopping import Stopped, finish, is_ordered, orders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

#: Hash: host -> Redis' time at which a lease of it was seen last. Seconds.
HOSTS = "cluster:hosts"
#: What this program has seen in its last run, as JSON.
STATE = "cluster:reaper"
#: Longest time between two runs that counts as regular. Seconds.
REGULAR_SECONDS = 120.0
#: Seconds for which a dead lease is remembered, so that a worker that was cut off for long learns of it; hosts as well.
REMEMBERED_SECONDS = 60 * 86400
#: Messages of a queue that are read at once.
CHUNK = 1000
#: What separates routing key, pattern and queue in kombu's bindings.
SEPARATOR = "\x06\x16"
#: What kombu adds to the name of a queue for its priorities.
PRIORITIES = ("", *(f"{SEPARATOR}{step}" for step in (3, 6, 9)))
#: Exit status when broker or database do not answer (EX_TEMPFAIL), and when a host is not known (EX_NOHOST).
NOT_NOW = 75
NO_HOST = 68

# KEYS: unacked, its index, notes. ARGV: tag, note, message as it is there, message as it goes back, queues.
GIVE_BACK = """
if redis.call('HGET', KEYS[3], ARGV[1]) ~= ARGV[2] or redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[3] then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
for i = 5, #ARGV do redis.call('RPUSH', ARGV[i], ARGV[4]) end
return 1
"""
# KEYS: notes, unacked. ARGV: tag, note.
FORGET = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] and redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that was seen unchanged: its ``mark``, and for how many regular ``seconds``."""

    mark: str
    seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """What a run leaves to the next. ``time``: Redis' own, in seconds; ``instance``: Redis' run, new with a restart."""

    time: float = 0.0
    instance: str = ""
    leases: Mapping[str, Seen] = field(default_factory=dict)
    orphans: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moment:
    """When a run looks: Redis' time and for how long it is up, both in seconds."""

    time: float
    instance: str
    uptime: float


def regular_seconds(before: State, now: Moment, wanted: float) -> float:
    """Return the seconds since the last run that count as silence of who was not heard.

    :param wanted: seconds of silence after which something is done; no single pause may be more than a third of them.
    """
    if before.instance != now.instance:
        return 0.0
    return max(0.0, min(now.time - before.time, now.uptime, REGULAR_SECONDS, wanted / 3))


def look(before: Mapping[str, Seen], marks: Mapping[str, str], seconds: float) -> dict[str, Seen]:
    """Return what is seen now: seconds add up for what has the same mark as before."""
    return {
        name: Seen(mark, before[name].seconds + seconds if name in before and before[name].mark == mark else 0.0)
        for name, mark in marks.items()
    }


def ripe(seen: Mapping[str, Seen], wanted: float) -> list[str]:
    """Return what has been seen unchanged for ``wanted`` seconds, sorted."""
    return sorted(name for name, item in seen.items() if item.seconds >= wanted)


def dump_state(state: State) -> str:
    """Return a state as text."""
    return json.dumps(asdict(state))


def parse_state(text: str | None) -> State:
    """Return the state of a text; a new one when it cannot be read."""
    try:
        raw = json.loads(text or "{}")
        parts = {
            part: {name: Seen(str(item["mark"]), float(item["seconds"])) for name, item in raw[part].items()}
            for part in ("leases", "orphans")
        }
        return State(float(raw["time"]), str(raw["instance"]), **parts)
    except (ValueError, TypeError, KeyError, AttributeError):
        return State()


def queues_of(bindings: Iterable[str], routing_key: str) -> list[str]:
    """Return the queues that a message goes to, by kombu's bindings of its exchange."""
    found = set()
    for binding in bindings:
        key, _, rest = binding.partition(SEPARATOR)
        queue = rest.rpartition(SEPARATOR)[2]
        if key == routing_key and queue:
            found.add(queue)
    return sorted(found) or [routing_key]


def redelivered(message: Any) -> Any:
    """Mark a message as delivered before, as kombu does."""
    try:
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
    except (KeyError, TypeError):
        pass
    return message


def task_ids(messages: Iterable[str]) -> set[str]:
    """Return the ids of the jobs that messages of a queue ask for."""
    found = set()
    for text in messages:
        try:
            found.add(str(json.loads(text)["headers"]["id"]))
        except (ValueError, TypeError, KeyError):
            continue
    return found


@dataclass(frozen=True, slots=True)
class Pending:
    """What the database holds for unfinished.

    ``jobs``: task ids of reports that count as queued or running. ``models``: models that count as in training, with
    the task ids of all their trainings. ``cancelled``: those of ``jobs`` of which a report says so already.
    """

    jobs: frozenset[str] = frozenset()
    models: Mapping[int, frozenset[str]] = field(default_factory=dict)
    cancelled: frozenset[str] = frozenset()


def orphans(pending: Pending, known: Callable[[], frozenset[str]], at_work: frozenset[str]) -> dict[str, str]:
    """Return the jobs and models that no message knows, by the names under which they are watched.

    :param known: returns the task ids of all messages in queues; asked only where there is need.
    :param at_work: task ids of messages that are not acknowledged, and of jobs that run under a living lease.
    """
    jobs = pending.jobs - pending.cancelled - at_work
    models = {model: ids for model, ids in pending.models.items() if not ids & at_work}
    if not jobs and not models:
        return {}
    waiting = known()
    names = [f"job:{job}" for job in jobs - waiting]
    names += [f"model:{model}" for model, ids in models.items() if not ids & waiting]
    return dict.fromkeys(names, "")


@dataclass(frozen=True, slots=True)
class Restored:
    """A job that has gone back to its queues."""

    node: str
    task: str
    id: str
    queues: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """What a run found and did; ``silent``: nodes that are not heard, and for how many seconds."""

    living: int = 0
    silent: dict[str, float] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    restored: list[Restored] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    unclaimed: int = 0
    watched: int = 0
    failed_jobs: list[str] = field(default_factory=list)
    freed_models: list[int] = field(default_factory=list)
    trouble: str = ""

    def lines(self) -> list[str]:
        """Return what was done, for a person."""
        lines = [f"{self.living} workers live"]
        lines += [f"{node} is silent for {seconds:.0f} s" for node, seconds in sorted(self.silent.items())]
        lines += [f"{node} was declared dead" for node in self.dead]
        lines += [f"{job.id} ({job.task}) of {job.node} waits again: {', '.join(job.queues)}" for job in self.restored]
        lines += [f"{job.id} ({job.task}) of {job.node} ended as failed: {job.reason}" for job in self.stopped]
        lines += [f"{job}: no message knows this job, it is marked as failed" for job in self.failed_jobs]
        lines += [f"model {model} is not in training any more" for model in self.freed_models]
        if self.trouble:
            lines.append(f"trouble: {self.trouble}")
        return lines


def give_back(redis: Any, tag: str, note: str) -> tuple[str, ...]:
    """Put a message back to the head of its queues, unless somebody else holds it or it was acknowledged.

    :param redis: a client of the broker's database.
    :returns: the queues; none when there was nothing to do.
    """
    raw = redis.hget(UNACKED, tag)
    if raw is None:
        redis.eval(FORGET, 2, NOTES, UNACKED, tag, note)
        return ()
    message, exchange, routing_key = json.loads(raw)
    bindings = [as_text(binding) for binding in redis.smembers(f"_kombu.binding.{exchange}")] if exchange else []
    queues = queues_of(bindings, routing_key)
    moved = redis.eval(
        GIVE_BACK, 3, UNACKED, UNACKED_INDEX, NOTES, tag, note, raw, json.dumps(redelivered(message)), *queues
    )
    return tuple(queues) if moved else ()


def give_back_jobs_of_dead(redis: Any) -> list[Restored]:
    """Put back what dead leases hold, and forget notes about messages that were acknowledged.

    Jobs that an operator ends stay where they are: see ``end_jobs_of_dead``.
    """
    dead, ending = _dead_leases(redis), orders(redis)
    unacknowledged = {as_text(tag) for tag in redis.hkeys(UNACKED)}
    restored = []
    for tag, text in read_hash(redis, NOTES).items():
        note = parse_note(text)
        if tag not in unacknowledged or note is None:
            redis.eval(FORGET, 2, NOTES, UNACKED, tag, text)
        elif note.lease in dead and not is_ordered(ending, tag, text):
            queues = give_back(redis, tag, text)
            if queues:
                restored.append(Restored(note.node, note.task, note.id, queues))
    return restored


def _dead_leases(redis: Any) -> set[str]:
    """Return the leases whose jobs may go elsewhere."""
    now = redis.time()[0]
    return {lease for lease, when in read_hash(redis, DEAD).items() if float(when) <= now}


def end_jobs_of_dead(redis: Any) -> list[Stopped]:
    """End the jobs of dead leases that an operator has told to end, where his own command was broken off."""
    dead = _dead_leases(redis)
    return finish(redis, lambda note: note.lease in dead, mark_with_django)


def succeed(redis: Any, own: Holder) -> list[Restored]:
    """Put back what former workers of the same name on the same machine held, if their processes are gone for sure."""
    former = {lease: parse_holder(text) for lease, text in read_hash(redis, LEASES).items()}
    gone = [lease for lease, holder in former.items() if holder and surely_gone(holder, own)]
    if not [lease for lease in gone if declare_dead(redis, lease)]:
        return []
    return give_back_jobs_of_dead(redis)


def bury_host(redis: Any, host: str, lease_seconds: float, pause: Callable[[float], object] = time.sleep) -> Report:
    """Declare all leases of a host dead, and put back what they hold.

    The leases' own time does not count. A worker of the host that lives nevertheless learns of it with its next
    renewal, kills its jobs and starts anew: so long they stay where they are, that none ends twice.
    """
    report = Report()
    grace = math.ceil(beat_of(lease_seconds) + 2 * ANSWER_SECONDS)
    for lease, text in read_hash(redis, LEASES).items():
        holder = parse_holder(text)
        if holder and holder.host == host:
            declare_dead(redis, lease, grace=grace)
            report.dead.append(holder.node)
    report.dead.sort()
    if report.dead:
        pause(grace + 1)
    report.restored = give_back_jobs_of_dead(redis)
    report.living = int(redis.hlen(LEASES))
    return report


def unknown_host(redis: Any, host: str) -> str:
    """Say which hosts are known if this one is not: no worker of it lives, holds a message, or was seen lately."""
    holders = [parse_holder(text) for text in read_hash(redis, LEASES).values()]
    notes = [parse_note(text) for text in read_hash(redis, NOTES).values()]
    known = {holder.host for holder in holders if holder} | {host_of(note.node) for note in notes if note}
    known |= set(read_hash(redis, HOSTS))
    names = ", ".join(sorted(known)) or "none"
    return "" if host in known else f"no worker of {host} was heard in the last 60 days; known: {names}"


def moment(redis: Any) -> Moment:
    """Ask Redis for the time."""
    about = redis.info("server")
    seconds, micro = redis.time()
    return Moment(seconds + micro / 1e6, str(about["run_id"]), float(about["uptime_in_seconds"]))


def reap_leases(redis: Any, before: State, now: Moment, lease_seconds: float) -> tuple[Report, dict[str, Seen]]:
    """Look at all leases, declare those dead that have been silent for too long, and put back what the dead hold."""
    report = Report()
    holders, renewals, dead = read_hash(redis, LEASES), read_hash(redis, RENEWED), read_hash(redis, DEAD)
    notes = [note for text in read_hash(redis, NOTES).values() if (note := parse_note(text))]
    # Redis may have lost a lease and not its notes: it gets as much time as any other.
    names = {note.lease: note.node for note in notes if note.lease not in dead}
    names |= {lease: holder.node if (holder := parse_holder(text)) else lease for lease, text in holders.items()}
    seen = look(
        before.leases,
        {lease: renewals.get(lease, "") for lease in names},
        regular_seconds(before, now, lease_seconds),
    )
    for lease in ripe(seen, lease_seconds):
        if declare_dead(redis, lease, seen[lease].mark):
            report.dead.append(names[lease])
            del seen[lease]
    report.dead.sort()
    report.restored = give_back_jobs_of_dead(redis)
    for host in {holder.host for text in holders.values() if (holder := parse_holder(text))}:
        redis.hset(HOSTS, host, now.time)
    for memory, entries in ((DEAD, dead), (DONE, read_hash(redis, DONE)), (HOSTS, read_hash(redis, HOSTS))):
        for name, when in entries.items():
            if now.time - float(when) > REMEMBERED_SECONDS:
                redis.hdel(memory, name)
    # Two runs may lie closer together than two renewals.
    heard = 2 * beat_of(lease_seconds)
    silent = {lease: item.seconds for lease, item in seen.items() if item.seconds > heard}
    report.silent = {names[lease]: seconds for lease, seconds in silent.items()}
    report.living = len(seen) - len(silent)
    report.unclaimed = len(set(redis.hkeys(UNACKED)) - set(redis.hkeys(NOTES)))
    return report, seen


def waiting_ids(redis: Any, queues: Sequence[str] = QUEUES) -> frozenset[str]:
    """Return the ids of all jobs that wait in queues."""
    found: set[str] = set()
    for name in (queue + suffix for queue in queues for suffix in PRIORITIES):
        for start in range(0, int(redis.llen(name)), CHUNK):
            found |= task_ids(as_text(message) for message in redis.lrange(name, start, start + CHUNK - 1))
    return frozenset(found)


def ids_at_work(redis: Any) -> frozenset[str]:
    """Return the ids of the jobs that workers hold or run."""
    held = (json.loads(raw) for raw in redis.hvals(UNACKED))
    living = {as_text(lease) for lease in redis.hkeys(LEASES)}
    running = {job for job, lease in read_hash(redis, RUNNING).items() if lease in living}
    return frozenset(task_ids(json.dumps(message[0]) for message in held) | running)


def pending_in_database(config: ReaperConfig) -> Pending:
    """Ask the database what counts as unfinished. No Django: eScriptorium takes long to load."""
    import psycopg2

    connection = psycopg2.connect(
        **config.database.arguments(), connect_timeout=10, options="-c statement_timeout=30000"
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT DISTINCT task_id FROM reporting_taskreport WHERE workflow_state IN (0, 1) AND task_id <> ''"
            )
            jobs = frozenset(row[0] for row in cursor.fetchall())
            cursor.execute(
                "SELECT DISTINCT task_id FROM reporting_taskreport WHERE workflow_state = 4 AND task_id = ANY(%s)",
                [list(jobs)],
            )
            cancelled = frozenset(row[0] for row in cursor.fetchall())
            cursor.execute(
                "SELECT m.id, coalesce(array_agg(r.task_id) FILTER (WHERE r.task_id <> ''), '{}') FROM core_ocrmodel m"
                " LEFT JOIN reporting_taskreport r ON r.ocr_model_id = m.id"
                " AND r.method IN ('core.tasks.train', 'core.tasks.segtrain') WHERE m.training GROUP BY m.id"
            )
            models = {int(row[0]): frozenset(row[1]) for row in cursor.fetchall()}
    finally:
        connection.close()
    return Pending(jobs, models, cancelled)


def mark_with_django(jobs: Sequence[str], models: Sequence[int], reason: str = "") -> tuple[list[str], list[int]]:
    """Mark orphans; loads eScriptorium, if it is not loaded yet."""
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
    from escriptorium_cluster.orphans import mark

    return mark(jobs, models, reason) if reason else mark(jobs, models)


def run(redis: Any, config: ReaperConfig) -> Report:
    """Look once: leases first, then what the database holds for unfinished."""
    before, now = parse_state(as_text(redis.get(STATE) or "")), moment(redis)
    report, leases = reap_leases(redis, before, now, config.lease_seconds)
    state = replace(before, time=now.time, instance=now.instance, leases=leases)
    try:
        report.stopped = end_jobs_of_dead(redis)
        # The database first: a job's report is there before its message.
        pending = pending_in_database(config)
        # Twice: a message that a worker fetches between two looks is in neither.
        found = orphans(pending, lambda: waiting_ids(redis) | ids_at_work(redis), ids_at_work(redis))
        watched = look(before.orphans, found, regular_seconds(before, now, config.orphan_seconds))
        names = [name.partition(":")[::2] for name in ripe(watched, config.orphan_seconds)]
        report.watched = len(watched)
        # Upstream cancels one report of a job: the others need not wait until a worker takes its message.
        jobs = [*pending.cancelled, *(name for kind, name in names if kind == "job")]
        if jobs or names:
            report.failed_jobs, report.freed_models = mark_with_django(
                jobs, [int(name) for kind, name in names if kind == "model"]
            )
        state = replace(state, orphans=watched)
    except Exception as error:  # whatever database and application raise: the leases are looked after all the same
        report.trouble = f"{type(error).__name__}: {error}".strip()
    redis.set(STATE, dump_state(state))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="escriptorium_cluster.reaper", description="Look after jobs of lost workers.")
    parser.add_argument("--dead", metavar="HOST", help="declare the workers of this host dead now")
    parser.add_argument("--json", action="store_true", help="print one JSON line instead of text")
    options = parser.parse_args(arguments)
    if options.dead is not None and not options.dead.strip():
        parser.error("--dead wants the name of a host")
    try:
        config = load_reaper(os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1

    from redis import Redis, RedisError

    redis = Redis.from_url(
        config.broker.url(0), socket_connect_timeout=ANSWER_SECONDS, socket_timeout=10 * ANSWER_SECONDS
    )
    host = (options.dead or "").strip()
    try:
        if host and (unknown := unknown_host(redis, host)):
            print(unknown, file=sys.stderr)
            return NO_HOST
        report = bury_host(redis, host, config.lease_seconds) if host else run(redis, config)
    except RedisError as error:
        print(f"the broker does not answer: {error}", file=sys.stderr)
        return NOT_NOW
    print(json.dumps(asdict(report)) if options.json else "\n".join(report.lines()))
    return NOT_NOW if report.trouble else 0


if __name__ == "__main__":
    sys.exit(main())
