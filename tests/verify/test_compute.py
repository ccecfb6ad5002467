"""GPU slices: one worker each, jobs where they fit, and layouts that change without hurting anybody.

The cards are those of the simulated driver (molecule/simulated_driver); units, jobs, queues and MPS are real.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from misbehaving import misbehave
from support import DONE, STARTED, Database, Inventory, PlayRun, Site, boot, play, unit_states, wait_for, workers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.scenario("compute")

NODE = "gpu1"
CUT = ("gpu0", "gpu1")
LARGE = {f"{card}-2g.10gb-0" for card in CUT} | {"gpu2-0", "gpu2-1"}
SMALL = {f"{card}-1g.5gb-{start}" for card in CUT for start in range(2, 7)}
OTHER_LAYOUT = {"3g.20gb": 1, "1g.5gb": 4}
OTHER_SLICES = {"gpu0-3g.20gb-4", *(f"gpu0-1g.5gb-{start}" for start in range(4))}


def unit(worker: str) -> str:
    return f"escriptorium-worker@{worker}.service"


def worker_of(name: str) -> str:
    return name.removeprefix("escriptorium-worker@").removesuffix(".service")


@pytest.fixture(scope="module")
def node(connect: Callable[[str], Any]) -> Any:
    return connect(NODE)


@dataclass
class Cards:
    """The cards of the node: what they are, and what an operator makes of them."""

    inventory: Inventory
    node: Any
    folder: Path

    def shown(self) -> dict[str, str]:
        """UUID of each slice, by name."""
        layout = json.loads(self.node.check_output("cat /run/gpu-partition/slices.json"))
        return {name: self.node.check_output(f"gpu-partition uuid {name}") for name in layout}

    def writes(self) -> list[str]:
        """Writing calls to the driver since they were forgotten last."""
        lines: list[str] = self.node.check_output("/opt/simulated-driver/bin/simulated-gpu calls").splitlines()
        return lines

    def simulate(self, *arguments: str) -> None:
        """Run a command of the simulated driver."""
        self.node.check_output("/opt/simulated-driver/bin/simulated-gpu " + " ".join(arguments))

    def deploy(
        self, slices: dict[str, int] | None, *arguments: str, check: bool = True, drain: int | None = None
    ) -> tuple[PlayRun, PlayRun | None]:
        """Give the first card other slices (None: those of the inventory) as an operator does: edit, then run."""
        edited = self.folder / "edited.yml"
        cards = json.loads(json.dumps(self.inventory.hosts[NODE]["gpu_partition_cards"]))
        if slices is not None:
            cards[0]["slices"] = slices
        variables = {"gpu_partition_cards": cards}
        if drain is not None:
            variables["gpu_partition_drain_timeout"] = drain
        edited.write_text(yaml.safe_dump({"all": {"hosts": {NODE: variables}}}))
        where = ("--inventory", str(edited), *arguments)
        cut = play(self.inventory, "playbooks/deploy-gpus.yml", *where, check=check)
        if any(counts.get("failed", 0) for counts in cut.stats.values()):
            return cut, None
        return cut, play(self.inventory, "playbooks/deploy-application.yml", "--limit", NODE, *where, check=check)


@pytest.fixture(scope="module")
def cards(inventory: Inventory, node: Any, tmp_path_factory: pytest.TempPathFactory) -> Cards:
    return Cards(inventory, node, tmp_path_factory.mktemp("edited"))


@dataclass
class Trainings:
    """Trainings on documents of their own, and where they run."""

    site: Site
    database: Database
    inventory: Inventory
    connect: Callable[[str], Any]

    def start(self, method: str, hold: str, count: int = 1) -> list[int]:
        """Queue trainings that last as `hold` says (hold-60, for instance); answers their documents."""
        documents = []
        for number in range(count):
            document, parts = self.site.api.document(f"{method} {number}", pages=2)
            train = self.site.api.train if method == "train" else self.site.api.train_segmenter
            train(document, parts, f"{method} of {document} {hold}")
            documents.append(document)
        return documents

    def reports(self, documents: list[int], state: int) -> list[str]:
        """Task ids of those trainings that are in a state; eScriptorium keeps a report for each page."""
        listed = ", ".join(map(str, documents))
        rows = self.database.rows(
            "SELECT DISTINCT task_id FROM reporting_taskreport "
            "WHERE method IN ('core.tasks.train', 'core.tasks.segtrain') "
            f"AND workflow_state = {state} AND document_id IN ({listed})"
        )
        return [row["task_id"] for row in rows]

    def running(self, documents: list[int], count: int | None = None, timeout: float = 180) -> list[str]:
        """Wait until so many of the trainings run (default: all); answers the workers, one for each."""
        wanted = len(documents) if count is None else count
        wait_for(
            f"{wanted} running trainings", lambda: len(self.reports(documents, STARTED)) >= wanted, timeout=timeout
        )
        return self.workers(self.reports(documents, STARTED))

    def done(self, documents: list[int], timeout: float = 180) -> list[str]:
        """Wait until all have ended well; answers the workers, one for each."""
        wait_for(
            "the end of the trainings",
            lambda: len(self.reports(documents, DONE)) == len(documents),
            timeout=timeout,
        )
        return self.workers(self.reports(documents, DONE))

    def workers(self, tasks: list[str]) -> list[str]:
        """Worker of each task; each was taken once, on the node with the cards."""
        found = []
        for task in tasks:
            ((host, name),) = workers_of(self.inventory, self.connect, task)
            assert host == NODE
            found.append(worker_of(name))
        return found


@pytest.fixture
def trainings(site: Site, database: Database, inventory: Inventory, connect: Callable[[str], Any]) -> Trainings:
    return Trainings(site, database, inventory, connect)


@pytest.fixture
def stopped(node: Any) -> Iterator[Callable[[str], None]]:
    """Stop the workers of a pattern; they are started again in the end."""
    patterns = []

    def stop(pattern: str) -> None:
        patterns.append(pattern)
        node.check_output(f"systemctl stop '{unit(pattern)}'")

    yield stop
    for pattern in patterns:
        # A pattern names loaded units only; the files say which there are.
        node.check_output(
            f"cd /etc/systemd/system && systemctl start $(ls -d {unit(pattern)})",
        )


def gpu_units(node: Any) -> dict[str, str]:
    """Main process of each running GPU worker."""
    listed = node.check_output("systemctl list-units --plain --no-legend --state=active 'escriptorium-worker@gpu*'")
    names = [line.split()[0] for line in listed.splitlines()]
    return {worker_of(name): node.check_output(f"systemctl show --property MainPID --value {name}") for name in names}


def environment(node: Any, pid: str) -> dict[str, str]:
    lines = node.check_output(f"tr '\\0' '\\n' < /proc/{pid}/environ").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_the_driver_comes_from_debian_and_answers(node: Any) -> None:
    installed = node.check_output("dpkg-query --show --showformat '${Version}' nvidia-kernel-dkms")
    assert installed.startswith("535.")
    assert node.package("xserver-xorg-core").is_installed is False
    assert "install nvidia-drm" in node.check_output("cat /etc/modprobe.d/00-nvidia-drm.conf")
    assert node.service("nvidia-persistenced").is_running


def test_every_slice_has_one_worker_on_its_queue(node: Any, frontend: Any) -> None:
    assert set(gpu_units(node)) == LARGE | SMALL
    assert len({name for name in gpu_units(node) if name.startswith(CUT)}) == 12, "two A100 give 12 GPU workers"
    answer = json.loads(
        frontend.check_output(
            "/usr/local/lib/escriptorium/run-as-service celery -A escriptorium inspect active_queues --json --timeout 5"
        )
    )
    queues = {
        worker.partition("@")[0]: [queue["name"] for queue in queues]
        for worker, queues in answer.items()
        if worker.endswith(f"@{NODE}") and worker.startswith("gpu")
    }
    assert queues == {**{key: ["gpu-large"] for key in LARGE}, **{key: ["gpu"] for key in SMALL}}


def test_a_worker_sees_its_own_slice_only(node: Any, cards: Cards) -> None:
    uuids = cards.shown()
    assert len(set(uuids.values())) == 12
    units = gpu_units(node)
    for name, uuid in uuids.items():
        assert uuid.startswith("MIG-")
        seen = environment(node, units[name])
        assert (seen["CUDA_VISIBLE_DEVICES"], seen["KRAKEN_TRAINING_DEVICE"]) == (uuid, "cuda:0")
        assert seen["TMPDIR"].startswith("/var/lib/")


@pytest.fixture
def device(node: Any) -> Iterator[str]:
    """Make a device file as a driver does; behind it is /dev/null, which the kernel of the test bed has."""
    path = "/dev/nvidia-misbehave"
    node.check_output(f"mknod --mode=666 {path} c 1 3")
    yield path
    node.check_output(f"rm {path}")


def test_a_worker_has_device_files_and_is_shut_in_all_the_same(frontend: Any, node: Any, device: str) -> None:
    """What a job may do that has been taken over: on a slice, and on processors beside it. See test_sandbox.py."""
    node.check_output("ip address replace 192.0.2.9/32 dev lo")
    program = f"""
found["device"] = tried(lambda: open({device!r}, "w").close())[0]
found["visible"] = os.environ.get("CUDA_VISIBLE_DEVICES", "")
found["node"] = os.uname().nodename
found["may"] = [name for name, act in dict(
    elsewhere=lambda: connected("192.0.2.9", 22), etc=lambda: written("/etc/misbehave"),
    secrets=lambda: read("/etc/escriptorium/escriptorium.env"),
    placements=lambda: written("/var/lib/gpu-partition/misbehave")).items() if tried(act)[0]]
"""
    on_slice, beside = (misbehave(frontend, queue, program) for queue in ("gpu", "default"))
    node.check_output("ip address delete 192.0.2.9/32 dev lo")
    assert (on_slice["node"], beside["node"]) == (NODE, NODE)
    assert on_slice["device"]
    assert on_slice["visible"]
    assert (beside["device"], beside["visible"]) == (False, "")
    assert (on_slice["may"], beside["may"]) == ([], [])


def test_workers_that_share_a_card_have_bounds(node: Any) -> None:
    units = gpu_units(node)
    shared = [environment(node, units[name]) for name in ("gpu2-0", "gpu2-1")]
    assert {seen["CUDA_VISIBLE_DEVICES"][:4] for seen in shared} == {"GPU-"}
    assert {seen["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] for seen in shared} == {"0=12288M"}
    assert {seen["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] for seen in shared} == {"50"}
    (pipe,) = {seen["CUDA_MPS_PIPE_DIRECTORY"] for seen in shared}
    assert node.file(f"{pipe}/control").is_socket
    daemon = node.check_output("systemctl show --property MainPID --value nvidia-mps@gpu2.service")
    assert environment(node, daemon)["CUDA_VISIBLE_DEVICES"] == shared[0]["CUDA_VISIBLE_DEVICES"]
    assert node.check_output(f"ps -o user= -p {daemon}").strip() == "escriptorium"


def test_trainings_run_where_they_fit(trainings: Trainings, node: Any, cards: Cards) -> None:
    """Small slices first for recognition, large ones where those are busy, and large ones only for segmentation."""
    first = trainings.start("train", trainings.site.api.held("first"), count=len(SMALL))
    assert set(trainings.running(first)) == SMALL, "recognition prefers small slices"
    (overflow,) = trainings.running(trainings.start("train", trainings.site.api.held("overflow")))
    assert overflow in LARGE, "where the small ones are busy a large one helps"

    segmenters = trainings.start("segtrain", trainings.site.api.held("segmenters"), count=len(LARGE))
    running = set(trainings.running(segmenters, count=len(LARGE) - 1))
    assert running == LARGE - {overflow}
    trainings.site.api.release("first")
    trainings.done(first)
    assert len(trainings.reports(segmenters, STARTED)) == len(LARGE) - 1, "none takes a small slice that is free"
    trainings.site.api.release("overflow")
    trainings.site.api.release("segmenters")
    assert set(trainings.done(segmenters)) <= LARGE, "no segmentation training lands on a small slice"

    journal = node.check_output(f"journalctl --quiet --output cat --unit '{unit('gpu0-1g.5gb-2')}'")
    assert f"Training on cuda:0 {cards.shown()['gpu0-1g.5gb-2']}" in journal


def test_a_right_card_is_not_touched(cards: Cards) -> None:
    cards.simulate("calls", "--clear")
    before = cards.node.check_output("stat -c %Y /var/lib/gpu-partition/placements.json")
    run, _ = cards.deploy(None)
    assert run.changed == []
    assert cards.writes() == []
    assert cards.node.check_output("stat -c %Y /var/lib/gpu-partition/placements.json") == before


def test_check_mode_shows_the_change_and_makes_none(cards: Cards, inventory: Inventory, connect: Any) -> None:
    states = unit_states(inventory, connect)
    run, _ = cards.deploy(OTHER_LAYOUT, "--check", "--diff")
    assert "+gpu0-3g.20gb-4" in run.output
    assert "-gpu0-2g.10gb-0" in run.output
    assert "gpu1-2g.10gb-0" not in run.output, "only the card that changes"
    assert cards.writes() == []
    assert unit_states(inventory, connect) == states


def test_a_busy_slice_is_left_alone_and_its_process_named(cards: Cards, trainings: Trainings, node: Any) -> None:
    uuids, units = cards.shown(), gpu_units(node)
    documents = trainings.start("train", trainings.site.api.held("busy"), count=len(SMALL))
    trainings.running(documents)
    run, _ = cards.deploy(OTHER_LAYOUT, check=False, drain=5)
    assert run.stats[NODE]["failed"] == 1
    assert "in use" in run.output
    assert "gpu0-1g.5gb-" in run.output
    assert "raise gpu_partition_drain_timeout" in run.output
    assert cards.writes() == []
    assert cards.shown() == uuids
    trainings.site.api.release("busy")
    trainings.done(documents)
    wait_for("every worker again", lambda: set(gpu_units(node)) == set(units), timeout=180)


def test_one_card_changes_and_the_jobs_of_the_other_go_on(
    cards: Cards,
    trainings: Trainings,
    node: Any,
    stopped: Callable[[str], None],
) -> None:
    stopped("gpu0-*")
    documents = trainings.start("train", trainings.site.api.held("others"), count=5)
    assert {name.partition("-")[0] for name in trainings.running(documents)} == {"gpu1"}
    node.check_output("cd /etc/systemd/system && systemctl start $(ls -d escriptorium-worker@gpu0-*)")
    others = {name: pid for name, pid in gpu_units(node).items() if not name.startswith("gpu0")}
    uuids = {name: uuid for name, uuid in cards.shown().items() if name.startswith("gpu1")}

    cards.deploy(OTHER_LAYOUT)

    wait_for("its workers", lambda: {name for name in gpu_units(node) if name.startswith("gpu0")} == OTHER_SLICES)
    units = gpu_units(node)
    assert {name: pid for name, pid in units.items() if not name.startswith("gpu0")} == others
    assert {name: uuid for name, uuid in cards.shown().items() if name.startswith("gpu1")} == uuids
    assert len(trainings.reports(documents, STARTED)) == 5, "still running"
    trainings.site.api.release("others")
    trainings.done(documents)


@pytest.fixture
def other_layout(cards: Cards, node: Any) -> None:
    """The first card has its other layout: from the test before, where that has run."""
    if not cards.shown().keys() >= OTHER_SLICES:
        cards.deploy(OTHER_LAYOUT)
        wait_for("its workers", lambda: set(gpu_units(node)) >= OTHER_SLICES, timeout=180)


@pytest.mark.fault
@pytest.mark.usefixtures("other_layout")
def test_a_failed_step_is_rolled_back(cards: Cards, node: Any) -> None:
    before = {name: uuid for name, uuid in cards.shown().items() if name.startswith("gpu0")}
    assert set(before) == OTHER_SLICES
    cards.simulate("fail", "nvmlDeviceCreateGpuInstanceWithPlacement", "2")
    try:
        run, _ = cards.deploy(None, check=False)
    finally:
        cards.simulate("fail")
    assert run.stats[NODE]["failed"] == 1
    assert "former layout" in run.output
    after = {name: uuid for name, uuid in cards.shown().items() if name.startswith("gpu0")}
    assert after == before
    wait_for("its workers again", lambda: set(gpu_units(node)) >= OTHER_SLICES, timeout=180)

    cards.deploy(None)
    kept = {f"gpu0-1g.5gb-{start}" for start in range(4)}
    after = {name: uuid for name, uuid in cards.shown().items() if name.startswith("gpu0")}
    assert set(after) == kept | {"gpu0-2g.10gb-4", "gpu0-1g.5gb-6"}, "the slices that could stay did"
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    wait_for("a worker on each", lambda: {name for name in gpu_units(node) if name.startswith("gpu0")} == set(after))


@pytest.mark.fault
def test_slices_and_workers_come_back_after_a_reboot(
    cards: Cards, trainings: Trainings, inventory: Inventory, connect: Callable[[str], Any]
) -> None:
    before, units = cards.shown(), set(gpu_units(cards.node))
    cards.node = boot(inventory, connect, NODE)
    wait_for("every worker", lambda: set(gpu_units(cards.node)) == units, timeout=180)
    assert cards.shown() == before
    time.sleep(5)
    (worker,) = trainings.done(trainings.start("train", "hold-1"))
    assert worker in units
