"""What gets well by itself: workers that are stuck, starts that fail, jobs that need too much memory or kill workers.

How soon a stuck worker is killed is made shorter here, by a drop-in of systemd's for the workers that train.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support import DONE, ERROR, TRAINING, Database, Inventory, Site, ends, starts, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.scenario("cluster")

UNIT = "escriptorium-worker@gpu.service"
#: Seconds without a sign of life.
LIMIT = 20
#: Seconds of TimeoutStartSec= that a slow start outlives; more than the time until it is looked at first.
START = 20
#: Starts of a job: escriptorium_job_max_starts.
STARTS = 3
#: MiB that a worker may use, its job included, and MiB that a job wants.
MEMORY, WANTED = 600, 900


def show(host: Any, unit: str, *names: str) -> list[str]:
    """Answer properties of a unit."""
    shown = [host.check_output("systemctl show --value --property=%s %s", name, unit) for name in names]
    return [value.strip() for value in shown]


def active(host: Any, unit: str = UNIT) -> bool:
    return show(host, unit, "ActiveState") == ["active"]


def await_active(host: Any, unit: str = UNIT) -> None:
    wait_for(f"{unit} to take jobs", lambda: active(host, unit), timeout=120)


@contextmanager
def settings(host: Any, unit: str, text: str) -> Iterator[None]:
    """Give a unit other settings for a while, and start it with them; at the end it is as it was."""
    folder = f"/run/systemd/system/{unit}.d"
    host.check_output("mkdir -p %s && printf %%b %s > %s/healing.conf", folder, text, folder)
    try:
        host.check_output("systemctl daemon-reload && systemctl restart --no-block %s", unit)
        yield
    finally:
        host.check_output("rm -r %s && systemctl daemon-reload && systemctl restart --no-block %s", folder, unit)
        await_active(host, unit)


@pytest.fixture(scope="module")
def trainers(inventory: Inventory, connect: Callable[[str], Any]) -> Iterator[dict[str, Any]]:
    """Workers that count as stuck after a short time; answers their hosts by name."""
    hosts = {name: connect(name) for name in inventory.compute}
    with ExitStack() as stack:
        for host in hosts.values():
            stack.enter_context(settings(host, UNIT, f"[Service]\\nWatchdogSec={LIMIT}\\n"))
        for host in hosts.values():
            await_active(host)
        yield hosts


class Training:
    """A training that was queued, and what is known of it."""

    def __init__(self, site: Site, database: Database, model: str) -> None:
        self.database = database
        self.model = model
        self.document = site.api.training(model)

    def hosts(self) -> list[str]:
        """Return the hosts of the workers that began it, in this order."""
        report = self.database.report(self.document, TRAINING)
        return [worker.partition("@")[2] for worker in starts(report)] if report else []

    def running(self, start: int = 1) -> str:
        """Wait until it runs for the so many-th time; answers the host."""

        def found() -> str | None:
            hosts = self.hosts()
            return hosts[-1] if len(hosts) == start else None

        self.database.running(self.document)
        host = wait_for(f"start {start} of {self.model}", found, timeout=120)
        # The report says so a moment before the job begins.
        time.sleep(2)
        return host

    def ended(self, state: int, timeout: float = 180) -> dict[str, Any]:
        """Wait for its end, and for the model to be free."""

        def found() -> dict[str, Any] | None:
            report = self.database.report(self.document, TRAINING)
            return report if report and report["workflow_state"] == state else None

        report = wait_for(f"state {state} of {self.model}", found, timeout=timeout)
        assert not self.database.in_training(report["task_id"])
        return report


def journal(host: Any, unit: str = UNIT, lines: int = 300) -> str:
    text: str = host.check_output("journalctl --quiet --unit %s --output cat --lines %s", unit, str(lines))
    return text


def test_all_workers_are_watched_and_their_jobs_die_first(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    for name in inventory.compute:
        host = connect(name)
        for queue in ("default", "live", "low-priority"):
            unit = f"escriptorium-worker@{queue}.service"
            await_active(host, unit)
            (kind, limit, abort, policy, swap, main) = show(
                host, unit, "Type", "WatchdogUSec", "TimeoutAbortUSec", "OOMPolicy", "MemorySwapMax", "MainPID"
            )
            assert (kind, limit, abort, policy, swap) == ("notify", "3min", "30s", "continue", "0")
            assert host.file(f"/proc/{main}/oom_score_adj").content_string.strip() == "0"
            for child in host.check_output(f"cat /proc/{main}/task/{main}/children").split():
                assert host.file(f"/proc/{child}/oom_score_adj").content_string.strip() == "500"


@pytest.mark.fault
def test_a_worker_that_is_stuck_starts_anew_and_its_job_ends_once(
    site: Site, database: Database, trainers: dict[str, Any]
) -> None:
    training = Training(site, database, "hold-30 stuck")
    name = training.running()
    host = trainers[name]
    (main, restarts) = show(host, UNIT, "MainPID", "NRestarts")
    jobs = host.check_output(f"cat /proc/{main}/task/{main}/children").split()
    stopped = time.monotonic()
    host.check_output("kill -STOP %s", main)
    wait_for("the worker to be killed", lambda: show(host, UNIT, "MainPID") != [main], timeout=2 * LIMIT)
    # The last sign of life may be a moment old, and asking takes its time.
    assert LIMIT / 2 < time.monotonic() - stopped < LIMIT + 10
    assert [pid for pid in jobs if host.file(f"/proc/{pid}").exists] == []
    report = training.ended(DONE)
    assert len(training.hosts()) == 2
    assert ends(trainers.values(), report["task_id"]) == 1
    await_active(host)
    assert int(show(host, UNIT, "NRestarts")[0]) == int(restarts) + 1
    # Where it was stuck.
    text = journal(host)
    assert f"Watchdog timeout (limit {LIMIT}s)!" in text
    assert "Fatal Python error: Aborted" in text


@pytest.mark.fault
@pytest.mark.parametrize(
    "stop", ["systemctl stop --no-block", "systemctl kill --kill-whom=main --signal=TERM"], ids=["systemd", "itself"]
)
def test_a_worker_that_stops_ends_its_job_however_long_that_takes(
    site: Site, database: Database, trainers: dict[str, Any], stop: str
) -> None:
    training = Training(site, database, f"hold-{2 * LIMIT + 10} stopping")
    name = training.running()
    host = trainers[name]
    before = journal(host).count("Watchdog timeout")
    host.check_output(f"{stop} {UNIT}")
    report = training.ended(DONE)
    assert training.hosts() == [name]
    assert ends(trainers.values(), report["task_id"]) == 1
    assert journal(host).count("Watchdog timeout") == before
    host.check_output(f"systemctl start --no-block {UNIT}")
    await_active(host)


@pytest.mark.fault
def test_starts_that_fail_wait_longer_each_time(inventory: Inventory, connect: Callable[[str], Any]) -> None:
    host, unit = connect(inventory.compute[0]), "escriptorium-worker@live.service"
    said = "3 starts in a row did not last a minute: the next one is in 10 s"
    before = journal(host, unit).count(said)
    with settings(host, unit, "[Service]\\nExecStart=\\nExecStart=/bin/false\\n"):
        since = time.monotonic()
        wait_for("the third wait", lambda: journal(host, unit).count(said) > before, timeout=90)
        # Five seconds before each start and five more before the second, where each start takes no time.
        assert time.monotonic() - since > 19
        mended = time.monotonic()
    # What a person starts does not wait.
    assert time.monotonic() - mended < 60
    assert active(host, unit)


@pytest.mark.fault
def test_starts_that_take_long_wait_for_each_other_and_are_not_killed(
    inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    """Each computes for longer than its unit's time to start. With few processors two of them start at a time."""
    host = connect(inventory.compute[0])
    units = [f"escriptorium-worker@{queue}.service" for queue in ("default", "live", "low-priority")]
    slow = f"[Service]\\nTimeoutStartSec={START}\\nEnvironment=STAND_IN_START_SECONDS={2 * START}\\n"
    with ExitStack() as stack:
        for unit in units:
            stack.enter_context(settings(host, unit, slow))
        said: set[str] = set()

        def started() -> bool:
            shown = [show(host, unit, "ActiveState", "StatusText") for unit in units]
            said.update(text.partition(",")[0] for _, text in shown)
            return [state for state, _ in shown] == ["active"] * len(units)

        wait_for("all to take jobs", started, timeout=400)
        assert "starts" in said
        processors = int(host.check_output("nproc"))
        assert processors > 5 or "waits for its turn" in said
        assert [show(host, unit, "NRestarts", "StatusText") for unit in units] == [["0", "takes jobs"]] * len(units)


@pytest.mark.parametrize("victim", ["job", pytest.param("worker", marks=pytest.mark.fault)])
def test_a_job_that_kills_is_given_up(
    site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any], victim: str
) -> None:
    hosts = {name: connect(name) for name in inventory.compute}
    training = Training(site, database, f"hold-600 kills its {victim}")
    for start in range(1, STARTS + 1):
        host = hosts[training.running(start)]
        (main,) = show(host, UNIT, "MainPID")
        if victim == "worker":
            host.check_output(f"kill -KILL {main}")
        else:
            host.check_output(f"pkill -KILL --parent {main}")
    report = training.ended(ERROR)
    assert f"given up: this job's process was killed {STARTS} times" in report["messages"]
    assert len(training.hosts()) == STARTS + 1, "the last one is refused before the job begins"
    for host in hosts.values():
        await_active(host)
    after = Training(site, database, f"after the killed {victim}")
    after.ended(DONE)
    assert len(after.hosts()) == 1


@contextmanager
def bounded(host: Any) -> Iterator[None]:
    """Let a worker use little memory: by its unit where systemd can do that in a container, else by hand."""
    by_hand = "/sys/fs/cgroup/memory"
    if host.file("/sys/fs/cgroup/cgroup.controllers").exists:
        (before,) = show(host, UNIT, "MemoryMax")
        host.check_output(f"systemctl set-property --runtime {UNIT} MemoryMax={MEMORY}M")
        try:
            yield
        finally:
            host.check_output(f"systemctl set-property --runtime {UNIT} MemoryMax={before}")
            host.check_output(f"rm -r /run/systemd/system.control/{UNIT}.d && systemctl daemon-reload")
    elif host.file(f"{by_hand}/memory.limit_in_bytes").exists:
        host.check_output(
            f"mount -o remount,bind,rw {by_hand} && mkdir -p {by_hand}/healing && cd {by_hand}/healing "
            f"&& echo {MEMORY}M > memory.limit_in_bytes && main=$(systemctl show --value --property=MainPID {UNIT}) "
            "&& for process in $main $(cat /proc/$main/task/$main/children); do echo $process > cgroup.procs; done"
        )
        try:
            yield
        finally:
            host.check_output(
                f"cd {by_hand} && for process in $(cat healing/cgroup.procs); do echo $process > cgroup.procs; done "
                "&& rmdir healing && mount -o remount,bind,ro ."
            )
    else:
        pytest.skip("the containers of this computer cannot bound memory")


@pytest.mark.fault
def test_a_job_that_needs_too_much_memory_is_given_up_and_nothing_else_dies(
    site: Site, database: Database, trainers: dict[str, Any]
) -> None:
    with ExitStack() as stack:
        for host in trainers.values():
            stack.enter_context(bounded(host))
        before = [show(host, UNIT, "MainPID") for host in trainers.values()]
        training = Training(site, database, f"eat-{WANTED} hold-600")
        report = training.ended(ERROR)
        assert f"given up: this job's process was killed {STARTS} times" in report["messages"]
        assert len(training.hosts()) == STARTS + 1, "the last one is refused before the job begins"
        after = Training(site, database, f"eat-{WANTED // 9} and no more")
        after.ended(DONE)
        assert [show(host, UNIT, "MainPID") for host in trainers.values()] == before
        assert [show(host, UNIT, "ActiveState") for host in trainers.values()] == [["active"]] * len(before)
