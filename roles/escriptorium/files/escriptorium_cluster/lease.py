"""Tells the broker that a worker's main process lives and which jobs it holds, until the process really ends.

Redis keeps the jobs that workers have fetched and not acknowledged (``unacked``), but not who fetched them. So the jobs
of a machine without power would wait for the visibility timeout, a week. And a worker that ends its last job before it
stops answers no ping, though it works for hours. Hence a lease for each worker's main process: a thread renews it,
whatever else the process does. ``reaper`` gives the jobs of a lease that is not renewed to other workers.

A worker that was cut off comes back to find its lease declared dead: its jobs run elsewhere. It kills its own at once
and ends, and systemd starts it anew. Before that, as soon as its lease may have been declared dead, it has stopped its
jobs for the time being: none of them can end a second time.

Times are Redis' own, so that clocks of hosts do not matter. No key expires by itself: those of a Redis that was away
would be gone when it is back.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import logging
import os
import signal
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

#: Hash: lease -> what ``Holder`` tells, as JSON. A lease that is here and not in ``DEAD`` lives.
LEASES = "cluster:leases"
#: Hash: lease -> Redis' time of the last renewal. Seconds.
RENEWED = "cluster:leases:renewed"
#: Hash: lease -> Redis' time at which it was declared dead. Seconds.
DEAD = "cluster:leases:dead"
#: Hash: delivery tag -> who holds that message, as JSON (``Note``). A message keeps its tag when it is delivered again.
NOTES = "cluster:deliveries"
#: Hash: task id -> lease under which it runs.
RUNNING = "cluster:running"
#: Hash: task id -> delivery tag of a message that asked for the job while it ran: it is dropped when the job has ended.
CONTESTED = "cluster:contested"
#: Hash: delivery tag -> Redis' time, in seconds, at which its job had ended while it waited to be begun again.
DONE = "cluster:done"
#: Hashes of kombu: delivery tag -> message, and when it was fetched.
UNACKED = "unacked"
UNACKED_INDEX = "unacked_index"
#: Seconds that Redis has for an answer. A silent one must not hold up the worker's event loop for long.
ANSWER_SECONDS = 2.0
#: Bounds of the time between two renewals. Seconds.
BEAT_SECONDS = (0.5, 10.0)
#: Seconds after which a job that still runs under another lease is put back into its queue.
PUT_BACK_SECONDS = 10.0
#: Seconds after which the jobs of a worker that leaves go to others: its processes are gone by then.
LEAVE_SECONDS = 2.0
#: Seconds of the broker's silence after which a worker without jobs, told to end, ends.
IDLE_SECONDS = 60.0
#: Its messages belong to others by then.
DECLARED_DEAD = "the lease of %s was declared dead: its jobs run elsewhere, they are killed here"
#: Exit status of a worker that found its lease declared dead (EX_TEMPFAIL).
EXIT_STATUS = 75

# KEYS: leases, renewed, dead, notes, unacked, running. ARGV: lease, holder, then for each job tag, note, task id and
# whether it runs (1 or 0). A job that runs keeps its claim even if its message is elsewhere.
# Answers "dead", or "alive" and the tags that this lease does not hold any more.
RENEW = """
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then return {'dead'} end
local now = redis.call('TIME')
redis.call('HSET', KEYS[2], ARGV[1], string.format('%d.%06d', now[1], now[2]))
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
local answer = {'alive'}
for i = 3, #ARGV, 4 do
  local tag, own, task, runs = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3] == '1'
  local note = redis.call('HGET', KEYS[4], tag)
  local held = redis.call('HEXISTS', KEYS[5], tag) == 1
  if held and not note then
    -- Redis has lost its last second.
    redis.call('HSET', KEYS[4], tag, own)
  end
  if runs then
    redis.call('HSETNX', KEYS[6], task, ARGV[1])
  elseif not held or (note and note ~= own) then
    if note == own then redis.call('HDEL', KEYS[4], tag) end
    if redis.call('HGET', KEYS[6], task) == ARGV[1] then redis.call('HDEL', KEYS[6], task) end
    answer[#answer + 1] = tag
  end
end
return answer
"""
# KEYS: leases, dead, notes, running, contested, done. ARGV: lease, tag, note, task id, whether it runs here (1 or 0).
# Answers "dead", "done", "taken", or the lease under which the job runs.
TAKE = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 'dead' end
if redis.call('HEXISTS', KEYS[6], ARGV[2]) == 1 then return 'done' end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
-- Redis may have lost that it runs.
if ARGV[5] == '1' then redis.call('HSET', KEYS[4], ARGV[4], ARGV[1]) end
local other = redis.call('HGET', KEYS[4], ARGV[4])
if ARGV[5] == '1' or (other and other ~= ARGV[1] and redis.call('HEXISTS', KEYS[1], other) == 1
    and redis.call('HEXISTS', KEYS[2], other) == 0) then
  redis.call('HSET', KEYS[5], ARGV[4], ARGV[2])
  return other
end
redis.call('HDEL', KEYS[5], ARGV[4])
return 'taken'
"""
# KEYS: leases, renewed, dead, notes, unacked, running. ARGV: lease, then for each job tag, note and task id.
# A lease that still holds messages is declared dead, so that the reaper gives them back. Answers how many those are.
END = """
local left = 0
for i = 2, #ARGV, 3 do
  local tag, own, task = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('HGET', KEYS[4], tag) == own then
    if redis.call('HEXISTS', KEYS[5], tag) == 1 then
      left = left + 1
    else
      redis.call('HDEL', KEYS[4], tag)
    end
  end
  if redis.call('HGET', KEYS[6], task) == ARGV[1] then redis.call('HDEL', KEYS[6], task) end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
if left > 0 then redis.call('HSET', KEYS[3], ARGV[1], redis.call('TIME')[1]) end
return left
"""
# KEYS: running, contested, done. ARGV: task id, lease.
RELEASE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
local tag = redis.call('HGET', KEYS[2], ARGV[1])
if tag then
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('HSET', KEYS[3], tag, redis.call('TIME')[1])
end
return 1
"""
# KEYS: leases, renewed, dead, running. ARGV: lease, time of the renewal that was seen last, seconds until its
# jobs go back.
# Answers 0 when it has been renewed since. Seen as never renewed: whatever its renewal is.
DECLARE_DEAD = """
local renewed = redis.call('HGET', KEYS[2], ARGV[1])
if ARGV[2] ~= '*' and (renewed or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[3], ARGV[1], redis.call('TIME')[1] + ARGV[3])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
local running = redis.call('HGETALL', KEYS[4])
for i = 1, #running, 2 do
  if running[i + 1] == ARGV[1] then redis.call('HDEL', KEYS[4], running[i]) end
end
return 1
"""


class Verdict(Enum):
    """What a worker does with a message."""

    BEGIN = "begin its job"
    LATER = "let go of it: its job runs, the lease puts it back"
    KEEP = "leave it as it is: its job runs here, and acknowledges it"
    DROP = "acknowledge it: its job has ended elsewhere"


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose lease it is.

    ``machine``, ``boot``, ``process`` and ``ticks`` (start of the process, in ticks of its machine) tell a process from
    every other one. ``started``: seconds since 1970 by the clock of the host, for people.
    """

    node: str
    machine: str
    boot: str
    process: int
    ticks: int
    started: float

    @property
    def host(self) -> str:
        """Return the host, as the node's name says it."""
        return host_of(self.node)


@dataclass(frozen=True, slots=True)
class Note:
    """Who holds a message, and which job it is. ``since``: seconds since 1970 by the clock of the host."""

    lease: str
    node: str
    task: str
    id: str
    since: float


def host_of(node: str) -> str:
    """Return the host of a Celery node's name, QUEUE@HOST."""
    return node.partition("@")[2] or node


def beat_of(lease_seconds: float) -> float:
    """Return the seconds between two renewals."""
    low, high = BEAT_SECONDS
    return min(high, max(low, lease_seconds / 10))


def parse_holder(text: str) -> Holder | None:
    """Return what a lease says about its holder; None when it cannot be read."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def parse_note(text: str) -> Note | None:
    """Return what is noted about a message; None when it cannot be read."""
    try:
        return Note(**json.loads(text))
    except (ValueError, TypeError):
        return None


def process_ticks(process: int) -> int | None:
    """Return when a process of this machine started (ticks since its boot); None when there is no such process."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold spaces. A zombie runs no more, but nobody has asked for its end yet.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def this_process(node: str) -> Holder:
    """Return what tells this process from all others."""
    process = os.getpid()
    return Holder(
        node, _text("/etc/machine-id"), _text("/proc/sys/kernel/random/boot_id"), process, process_ticks(process) or 0,
        round(time.time(), 3),
    )  # fmt: skip


def surely_gone(former: Holder, own: Holder, ticks: Callable[[int], int | None] = process_ticks) -> bool:
    """Whether the process of a former lease has ended for sure, as far as this machine can tell.

    True only for a process of the same node's name and machine, which was started before the last boot or is there no
    more: a worker that was killed need not wait for its own lease.
    """
    if former.node != own.node or not own.machine or former.machine != own.machine:
        return False
    return former.boot != own.boot or ticks(former.process) != former.ticks


def descendants(process: int) -> list[int]:
    """Return all processes that a process of this machine has started, directly or not."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(word) for word in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def send(processes: Iterable[int], number: signal.Signals) -> None:
    """Send a signal to processes that may have ended meanwhile."""
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def die_with_parent(**_: Any) -> None:
    """Let the kernel kill this child of a worker when the main process is gone: nobody could acknowledge its job."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if parent != os.getppid():
        os.kill(os.getpid(), signal.SIGKILL)


def boot_seconds() -> float:
    """Return seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def as_text(raw: Any) -> str:
    """Return what Redis answers with as text."""
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def read_hash(redis: Any, name: str) -> dict[str, str]:
    """Return a hash of Redis as texts."""
    return {as_text(key): as_text(value) for key, value in redis.hgetall(name).items()}


def declare_dead(redis: Any, lease: str, renewed: str = "*", grace: float = 0.0) -> bool:
    """Declare a lease dead, unless it was renewed since ``renewed`` was seen.

    :param grace: seconds for which its jobs still stay where they are.
    """
    keys = (LEASES, RENEWED, DEAD, RUNNING)
    return bool(redis.eval(DECLARE_DEAD, len(keys), *keys, lease, renewed, f"{grace:.0f}"))


def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


class Fence:
    """Says what becomes of a worker's running jobs by what is known about its lease.

    :param seconds: silence after which a lease may be declared dead.
    """

    def __init__(self, seconds: float, now: float) -> None:
        self._seconds = seconds
        # A renewal may be on its way when the time is over.
        self._patience = seconds - 2 * beat_of(seconds)
        self._renewed = now
        self.halted = False

    def must_halt(self, now: float) -> bool:
        """Whether the jobs have to be stopped for the time being: the lease may have been declared dead."""
        if self.halted or now - self._renewed <= self._patience:
            return False
        self.halted = True
        return True

    def must_end(self, now: float, *, busy: bool) -> bool:
        """Whether a worker that was told to end does so though nothing is heard from the broker.

        Its jobs wait for twice the lease's time: by then they have gone to others, or the broker is away for all.
        Without jobs it has nothing to wait for, and a child that was stopped would keep it for ever.
        """
        return now - self._renewed > (2 * self._seconds if busy else min(self._seconds, IDLE_SECONDS))

    def may_resume(self, now: float) -> bool:
        """Note a renewal at ``now``; whether the jobs, stopped before, go on."""
        # Of two renewals at once the earlier one may be answered last.
        self._renewed = max(self._renewed, now)
        resumed, self.halted = self.halted, False
        return resumed


class Lease:
    """The lease of this process, and the messages that it holds.

    :param redis: a client of the broker's database whose answers are bytes.
    :param seconds: silence after which a lease may be declared dead.
    :param give_back: puts a message, by tag and note, back into its queue.
    :param active: returns the task ids of the jobs that run here.
    """

    def __init__(
        self,
        redis: Any,
        holder: Holder,
        seconds: float,
        give_back: Callable[[Any, str, str], object],
        active: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.holder = holder
        self._redis = redis
        self._seconds = seconds
        self._give_back = give_back
        self._active = active
        self._process = os.getpid()
        self._guard = threading.Lock()
        #: Around a decision of the fence and the signal that follows: the main thread resumes what the other one halts.
        self._signals = threading.Lock()
        self._fence = Fence(seconds, boot_seconds())
        self._ended = False
        #: Whether this worker was told to end.
        self.ending = False
        #: Called where the broker does not answer: the main loop may be waiting for it as well.
        self.on_silence: Callable[[], None] = lambda: None
        #: Tag -> note and task id of what this process holds.
        self._held: dict[str, tuple[str, str]] = {}
        #: Tag -> when a message that was not begun goes back into its queue, by ``boot_seconds``.
        self._deferred: dict[str, float] = {}

    def start(self) -> None:
        """Renew from now on, in a thread of its own, until the process ends."""
        atexit.register(self.end)
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    def check(self) -> None:
        """Renew now. Does not return where the lease was declared dead; never raises."""
        held, active = self._snapshot(), self._active()
        arguments = [
            part for tag, (note, task) in held.items() for part in (tag, note, task, "1" if task in active else "0")
        ]
        keys = (LEASES, RENEWED, DEAD, NOTES, UNACKED, RUNNING)
        try:
            began = boot_seconds()
            answer, *gone = self._ask(RENEW, keys, self.id, json.dumps(asdict(self.holder)), *arguments)
        except Exception as error:
            logger.debug("the lease could not be renewed: %s", error)
            self.on_silence()
            return
        if answer == "dead":
            self._die(DECLARED_DEAD)
        with self._guard:
            for tag in gone:
                # Unless it was fetched again meanwhile.
                if self._held.get(tag) == held.get(tag):
                    self._held.pop(tag, None)
                    self._deferred.pop(tag, None)
        with self._signals:
            if self._fence.may_resume(began):
                logger.warning("the lease of %s is valid again: its jobs go on", self.holder.node)
                send(descendants(self._process), signal.SIGCONT)

    def take(self, tag: str, name: str, task_id: str) -> Verdict:
        """Note that this worker holds a message, and say what to do with it."""
        here = task_id in self._active()
        note = json.dumps(asdict(Note(self.id, self.holder.node, name, task_id, round(time.time(), 3))))
        with self._guard:
            again = here and self._held.get(tag, ("", ""))[1] == task_id
            if not again:
                self._held[tag] = (note, task_id)
        if again:
            logger.warning("job %s (%s) runs here, and its message was handed out again", task_id, name)
            return Verdict.KEEP
        keys = (LEASES, DEAD, NOTES, RUNNING, CONTESTED, DONE)
        try:
            answer = self._ask(TAKE, keys, self.id, tag, note, task_id, "1" if here else "0")
        except Exception as error:
            # The thread notes it as soon as the broker answers.
            logger.warning("job %s could not be noted under the lease: %s", task_id, error)
            answer = self.id if here else "taken"
        if answer == "dead":
            self._die(DECLARED_DEAD)
        if answer == "taken":
            return Verdict.BEGIN
        if answer == "done":
            logger.warning("job %s (%s) has ended under another lease: it is not started again", task_id, name)
            return Verdict.DROP
        logger.warning("job %s (%s) runs under lease %s: it is not started a second time", task_id, name, answer)
        with self._guard:
            self._deferred[tag] = boot_seconds() + PUT_BACK_SECONDS
        return Verdict.LATER

    def claim(self, task_id: str) -> None:
        """Note that a job runs, in the child process that runs it."""
        self._redis.hset(RUNNING, task_id, self.id)

    def release(self, task_id: str) -> None:
        """Note that a job has ended, in the child process that ran it."""
        self._ask(RELEASE, (RUNNING, CONTESTED, DONE), task_id, self.id)

    def leave(self, reason: str) -> None:
        """Give all jobs of this worker to others and end it, from the child process that runs one of them.

        Does not return. The reaper puts the jobs back; where the broker does not answer either, after the lease's time.
        """
        logger.critical("%s can work no more, its jobs go to others: %s", self.holder.node, reason)
        try:
            declare_dead(self._redis, self.id, grace=LEAVE_SECONDS)
        except Exception as error:
            logger.warning("the lease of %s could not be declared dead: %s", self.holder.node, error)
        os.kill(self._process, signal.SIGKILL)
        # The kernel kills this process with its parent.
        time.sleep(LEAVE_SECONDS)
        os._exit(EXIT_STATUS)

    def end(self) -> None:
        """Give the lease up: this process ends by itself. A child of it does not."""
        if os.getpid() != self._process or self._ended:
            return
        self._ended = True
        held = self._snapshot()
        arguments = [part for tag, (note, task) in held.items() for part in (tag, note, task)]
        try:
            left = self._ask(END, (LEASES, RENEWED, DEAD, NOTES, UNACKED, RUNNING), self.id, *arguments)
        except Exception as error:
            logger.warning("the lease of %s could not be given up: %s", self.holder.node, error)
            return
        if left:
            logger.warning("%s ends with %s jobs not acknowledged: they start again elsewhere", self.holder.node, left)

    def _beat(self) -> None:
        seconds = beat_of(self._seconds)
        while not self._ended:
            try:
                # First of all: this process may itself have been stopped until now.
                self._halt()
                if self.ending and self._fence.must_end(boot_seconds(), busy=bool(self._active())):
                    self._die("%s ends without the broker, from which nothing is heard", status=0)
                self.check()
                self._put_back()
            except Exception:
                logger.warning("trouble with the lease of %s", self.holder.node, exc_info=True)
            time.sleep(seconds)

    def _halt(self) -> None:
        """Stop the jobs for the time being if the lease may have been declared dead."""
        with self._signals:
            if self._fence.must_halt(boot_seconds()):
                logger.warning(
                    "no renewal for %.0f s: the jobs of %s wait until the broker answers",
                    self._seconds,
                    self.holder.node,
                )
                send(descendants(self._process), signal.SIGSTOP)

    def _put_back(self) -> None:
        now = boot_seconds()
        with self._guard:
            # Forgotten before they go back: this worker may be the one that fetches them again.
            due = {tag: when for tag, when in self._deferred.items() if when <= now}
            notes = {tag: self._held.pop(tag)[0] for tag in due if tag in self._held}
            for tag in due:
                del self._deferred[tag]
        for tag, note in notes.items():
            try:
                self._give_back(self._redis, tag, note)
            except Exception:
                with self._guard:
                    self._deferred.setdefault(tag, now)
                    self._held.setdefault(tag, (note, ""))
                raise

    def _snapshot(self) -> Mapping[str, tuple[str, str]]:
        with self._guard:
            return dict(self._held)

    def _ask(self, script: str, keys: Sequence[str], *arguments: str) -> Any:
        answer = self._redis.eval(script, len(keys), *keys, *arguments)
        if isinstance(answer, list):
            return [part.decode() if isinstance(part, bytes) else part for part in answer]
        return answer.decode() if isinstance(answer, bytes) else answer

    def _die(self, reason: str, status: int = EXIT_STATUS) -> None:
        """End this process and what it runs, without a word to the broker; ``reason`` names the worker as ``%s``."""
        logger.critical(reason, self.holder.node)
        send(descendants(self._process), signal.SIGKILL)
        os._exit(status)


#: The lease of this process or, in a child, of its parent.
current: Lease | None = None
