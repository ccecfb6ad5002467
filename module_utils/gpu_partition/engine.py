"""From what cards are to what they are to be: compare, drain, change only what differs, undo what fails.

The order of an ``apply``:

1. Look at all declared cards. A card that is missing, of another model or out of order ends it here, before anything
   is changed on any card.
2. Compare. A card is right when its MIG mode is, and when it has the declared number of each profile, each with one
   compute instance over all of it, wherever they lie. Right cards are not touched again.
3. Stop the units of the slices that go (a worker ends its job first) and wait until nothing uses them. Where that does
   not happen in time, the units are started again, and the processes are named (exit 3).
4. Change one card after the other: destroy what goes, switch the mode where that differs, create what is missing at
   planned places. Where a step fails, the card gets its former layout back (exit 1). Where the mode takes effect at a
   reboot only, it stays pending (exit 4).
5. Start the stopped units whose slices exist.

Each step is found out from what NVML says then, never from a record, so a run that was killed is continued by the
next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from .models import is_of, model_for
from .nvml import IN_USE, NO_PERMISSION, RESET_REQUIRED, SUCCESS, Driver, Gpu, Instance, NvmlError, Process
from .placement import Slice, place
from .workers import gpu_workers, slice_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .card import Card
    from .layout import Layout, Memory

RIGHT: Final = 0
ERROR: Final = 1
ILLEGAL: Final = 2
BUSY: Final = 3
REBOOT_NEEDED: Final = 4
NO_DRIVER: Final = 5
DIFFERS: Final = 6

# nvidia_drm holds the card open and is loaded on every Debian host with a driver; nvidia_modeset is held by it.
_MODULES: Final = ("nvidia_drm", "nvidia_modeset")
_RUNS: Final = frozenset({"active", "activating", "reloading"})
_ENDED: Final = frozenset({"inactive", "failed"})
_POLL_S: Final = 0.25
_COMMAND_TIMEOUT_S: Final = 120


class EngineError(Exception):
    """An ``apply`` or ``assert`` ends here; ``code`` is the exit code."""

    def __init__(self, code: int, message: str, processes: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.processes = tuple(processes)


class Host(Protocol):
    """What the engine needs of the computer beside its cards."""

    def unit_states(self, patterns: Sequence[str]) -> dict[str, str]:
        """Return the state (``active``, ``inactive`` ...) of each loaded unit whose name matches a pattern."""

    def stop_units(self, units: Sequence[str], *, wait: bool) -> None:
        """Stop units."""

    def start_units(self, units: Sequence[str]) -> None:
        """Start units, without waiting for them."""

    def remove_modules(self, names: Sequence[str]) -> None:
        """Remove kernel modules where that is possible."""


class Computer:
    """The computer this runs on: systemd and the kernel's modules."""

    @staticmethod
    def _run(*command: str) -> str:
        """Return what a program prints; nothing where there is no such program: then there is nothing to ask for."""
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_COMMAND_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
        except (FileNotFoundError, subprocess.TimeoutExpired):
            return ""
        return done.stdout

    def unit_states(self, patterns: Sequence[str]) -> dict[str, str]:
        """Return the state (``active``, ``inactive`` ...) of each loaded unit whose name matches a pattern."""
        if not patterns:
            return {}
        lines = self._run(
            "systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", *patterns
        ).splitlines()
        # Name, whether it is loaded, state, state in detail, description.
        rows = [line.split() for line in lines]
        return {row[0]: row[2] for row in rows if len(row) > 2}  # noqa: PLR2004 - the third column

    def stop_units(self, units: Sequence[str], *, wait: bool) -> None:
        """Stop units; without ``wait`` they are only told to."""
        if units:
            self._run("systemctl", "stop", *(() if wait else ("--no-block",)), *units)

    def start_units(self, units: Sequence[str]) -> None:
        """Start units, without waiting for them: one may be ordered after the unit that this runs in."""
        if units:
            self._run("systemctl", "start", "--no-block", *units)

    def remove_modules(self, names: Sequence[str]) -> None:
        """Remove kernel modules where that is possible; whether it helped shows in what NVML says then."""
        self._run("modprobe", "--remove", *names)


@dataclass(frozen=True)
class Change:
    """What has to happen to a card; nothing, where it is right."""

    card: Card
    gpu: Gpu
    instances: tuple[Instance, ...]
    mode: bool | None
    after: tuple[Slice, ...]
    destroy: tuple[Instance, ...] = ()
    create: tuple[Slice, ...] = ()

    @property
    def mode_differs(self) -> bool:
        """True where MIG mode is to be switched, or is about to change at the next reboot."""
        return self.mode is not None and (self.gpu.mig, self.gpu.mig_pending) != (self.mode, self.mode)

    @property
    def switches(self) -> bool:
        """True where MIG mode is another one now than it is to be."""
        return self.mode is not None and self.gpu.mig != self.mode

    @property
    def differs(self) -> bool:
        """True where the card is not right."""
        return bool(self.mode_differs or self.destroy or self.create)

    @property
    def before(self) -> tuple[Slice, ...]:
        """The slices that are there now."""
        return tuple(_slice(instance) for instance in self.instances if instance.complete)


@dataclass(frozen=True)
class Outcome:
    """What a card is in fact, where that is not what was planned."""

    mode: bool | None
    slices: tuple[Slice, ...]


@dataclass
class Result:
    """What an ``apply`` or ``assert`` found and did. ``outcomes`` has the cards that are not as planned, by name."""

    changes: tuple[Change, ...] = ()
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    workers: list[dict[str, Any]] = field(default_factory=list)
    stopped_units: list[str] = field(default_factory=list)
    processes: list[dict[str, Any]] = field(default_factory=list)
    changed: bool = False
    reboot_needed: bool = False
    message: str = ""
    code: int = RIGHT

    def as_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        answer: dict[str, Any] = {
            "changed": self.changed,
            "cards": [_card_as_dict(change, self.outcomes.get(change.card.name)) for change in self.changes],
            "workers": self.workers,
            "stopped_units": self.stopped_units,
            "reboot_needed": self.reboot_needed,
            "message": self.message,
        }
        if self.code not in {RIGHT, REBOOT_NEEDED, DIFFERS}:
            answer["failed"] = True
        if self.processes or "failed" in answer:
            answer["processes"] = self.processes
        return answer


def _card_as_dict(change: Change, outcome: Outcome | None) -> dict[str, Any]:
    """Return one card: as planned, or as it is where that is something else."""
    before, after = change.before, change.after
    destroy, create = tuple(map(_slice, change.destroy)), change.create
    mode = change.gpu.mig if change.mode is None else change.mode
    if outcome:
        mode, after = outcome.mode, outcome.slices
        destroy = tuple(found for found in before if found not in after)
        create = tuple(found for found in after if found not in before)

    def names(slices: Iterable[Slice]) -> list[str]:
        return [slice_name(change.card.name, found) for found in sorted(slices)]

    return {
        "name": change.card.name,
        "model": change.card.model.name,
        "address": change.card.address,
        "changed": bool(destroy or create or mode != change.gpu.mig) if outcome else change.differs,
        "mode": {"before": _mode(change.gpu.mig), "after": _mode(mode)},
        "before": names(before),
        "after": names(after),
        "destroy": names(destroy),
        "create": names(create),
    }


def _mode(on: bool | None) -> str:
    return "none" if on is None else "on" if on else "off"


def _slice(instance: Instance) -> Slice:
    return Slice(instance.start, instance.profile, instance.size)


def addressed(card: Card, gpus: Sequence[Gpu]) -> Gpu | None:
    """Return the card of this computer that a declared card means."""
    for gpu in gpus:
        if card.address == {"pci_address": gpu.pci_address, "uuid": gpu.uuid}.get(card.address_kind, str(gpu.index)):
            return gpu
    return None


def _found(card: Card, gpus: Sequence[Gpu]) -> Gpu:
    """Return the card that is declared.

    Raises ``EngineError``: it is not there, does not answer, or is of another model.
    """
    gpu = addressed(card, gpus)
    if gpu is None:
        there = ", ".join(
            f"index {found.index} ({found.error})" if found.error else f"{found.pci_address} ({found.name})"
            for found in gpus
        )
        raise EngineError(
            ERROR, f"{card.name}: there is no card at {card.address_kind} {card.address}; there are: {there or 'none'}"
        )
    if gpu.error:
        raise EngineError(ERROR, f"{card.name} ({card.address}) does not answer: {gpu.error}")
    if card.model.nvml_names and not is_of(card.model, gpu.name, gpu.memory_mib):
        model = model_for(gpu.name, gpu.memory_mib)
        is_one = f", model {model.name}" if model else ""
        another = "" if model else f", or add product: {gpu.name!r} where this is another name of {card.model.name}"
        raise EngineError(
            ERROR,
            f"{card.name} ({card.address}) is declared as {card.model.name} and is a card '{gpu.name}' with "
            f"{gpu.memory_mib} MiB{is_one}: correct the model or the address{another}",
        )
    if card.backend == "mig" and gpu.mig is None:
        raise EngineError(ERROR, f"{card.name} ({card.address}): the driver offers no MIG on this {gpu.name}")
    return gpu


def _compare(driver: Driver, card: Card, gpu: Gpu, remembered: Sequence[Slice]) -> Change:
    """Return what has to happen to a card. Its instances are read, so this needs root where it is in MIG mode."""
    instances = driver.instances(gpu.uuid) if gpu.mig else ()
    if card.backend == "none":
        # A card without MIG has no mode that could be wrong.
        return Change(card, gpu, instances, None if gpu.mig is None else False, (), destroy=instances)
    offered = driver.profiles(gpu.uuid)
    missing = sorted(set(card.slices) - set(offered)) if offered else []
    if missing:
        raise EngineError(
            ERROR, f"{card.name} ({card.address}): the driver does not offer {', '.join(missing)} on this card"
        )
    complete = Counter(instance.profile for instance in instances if instance.complete)
    if complete == Counter(card.slices) and len(instances) == complete.total():
        return Change(card, gpu, instances, mode=True, after=tuple(sorted(map(_slice, instances))))
    # An instance without a compute instance is what a killed run leaves: it only lacks that.
    usable = {
        _slice(instance): instance
        for instance in instances
        if instance.profile in card.model.profiles and (instance.complete or not instance.parts)
    }
    after = place(card.model, card.slices, present=tuple(usable), remembered=remembered)
    return Change(
        card,
        gpu,
        instances,
        mode=True,
        after=after,
        destroy=tuple(
            instance
            for instance in instances
            if usable.get(_slice(instance)) is not instance or _slice(instance) not in after
        ),
        create=tuple(wanted for wanted in after if wanted not in usable or not usable[wanted].complete),
    )


class Engine:
    """Compares the cards of a layout with those of a driver, and changes them."""

    def __init__(self, layout: Layout, driver: Driver, host: Host, memory: Memory) -> None:
        self._layout = layout
        self._driver = driver
        self._host = host
        self._memory = memory
        self._stopped: list[str] = []
        self._stopped_clients: list[str] = []
        # Cards that have been changed by this apply, and why some of them need a reboot.
        self._touched: set[str] = set()
        self._pending: dict[str, str] = {}

    # Looking

    def compare(self) -> tuple[Change, ...]:
        """Return what has to happen to each declared card. Nothing is changed.

        Raises ``EngineError``: a card is missing, another one than declared, or does not answer.
        """
        gpus = self._driver.gpus()
        remembered = self._memory.placements()
        owners: dict[str, Card] = {}
        changes = []
        cards = [card for card in self._layout.cards if card.backend != "vgpu"]
        for card, gpu in [(card, _found(card, gpus)) for card in cards]:
            owner = owners.setdefault(gpu.uuid, card)
            if owner is not card:
                raise EngineError(
                    ERROR, f"{owner.name} and {card.name} are the same card, {gpu.pci_address}: correct an address"
                )
            try:
                changes.append(_compare(self._driver, card, gpu, remembered.get(gpu.uuid, ())))
            except NvmlError as error:
                hint = "; this needs root" if error.code == NO_PERMISSION else ""
                raise EngineError(ERROR, f"{card.name} ({card.address}): {error}{hint}") from error
        return tuple(changes)

    def check(self) -> Result:
        """Return what ``apply`` would do. Nothing is changed and no unit is touched."""
        changes = self.compare()
        result = Result(changes, changed=any(change.differs for change in changes))
        result.workers = self._workers({change.card.name: change.after for change in changes})
        result.processes = self._processes(changes)
        result.reboot_needed = any(change.switches and change.gpu.mig_pending == change.mode for change in changes)
        differing = [change.card.name for change in changes if change.differs]
        result.message = f"to be changed: {', '.join(differing)}" if differing else "all cards are right"
        if result.processes:
            result.message += f"; in use now: {_in_words(result.processes)}"
        return result

    def _workers(self, placed: Mapping[str, Sequence[Slice]]) -> list[dict[str, Any]]:
        return [asdict(worker) for worker in gpu_workers(self._layout.cards, self._layout.training_memory, placed)]

    def _actual(self, changes: Sequence[Change]) -> dict[str, Outcome]:
        """Return what each card is now, and keep the UUIDs of slices for who may not ask for places."""
        found = {}
        uuids = {}
        for change in changes:
            gpu = self._driver.gpu(change.gpu.uuid)
            instances = self._driver.instances(gpu.uuid) if gpu.mig else ()
            complete = [instance for instance in instances if instance.complete]
            found[change.card.name] = Outcome(gpu.mig, tuple(map(_slice, complete)))
            devices = {
                device.instance: device.uuid for device in (self._driver.mig_devices(gpu.uuid) if gpu.mig else ())
            }
            for instance in complete:
                if instance.id in devices:
                    uuids[slice_name(change.card.name, _slice(instance))] = devices[instance.id]
        self._memory.remember_slices(uuids)
        return found

    def _placed(self, outcomes: Mapping[str, Outcome]) -> dict[str, list[Slice]]:
        """Return the slices of each card that is to have some, as far as its model has such."""
        return {
            card.name: [found for found in outcomes[card.name].slices if found.profile in card.model.profiles]
            for card in self._layout.cards
            if card.backend == "mig" and card.name in outcomes
        }

    def _processes(self, changes: Sequence[Change]) -> list[dict[str, Any]]:
        """Return what runs on slices that go, and on cards whose mode is switched."""
        found = []
        for change in changes:
            names = {instance.id: slice_name(change.card.name, _slice(instance)) for instance in change.destroy}
            devices = self._driver.mig_devices(change.gpu.uuid) if names else ()
            for device in devices:
                if device.instance in names:
                    found += _described(change.card, names[device.instance], self._driver.processes(device.uuid))
            if change.switches and not change.gpu.mig:
                found += _described(change.card, "", self._driver.processes(change.gpu.uuid))
        return found

    # Units

    def _card_of(self, unit: str) -> Card | None:
        """Return the card that a unit works on. Of two cards that fit, it is that with the longer name."""
        found = [
            card
            for card in self._layout.cards
            if unit in {template.replace("{card}", card.name) for template in self._layout.card_units}
            or any(
                unit.startswith(f"{template.partition('{slice}')[0]}{card.name}-")
                and unit.endswith(template.partition("{slice}")[2])
                for template in self._layout.slice_units
            )
        ]
        return max(found, key=lambda card: len(card.name), default=None)

    def _concerned(self, changes: Sequence[Change]) -> dict[str, str]:
        """Return units, with their states, of slices that go and of cards whose mode is switched."""
        exact = []
        found = {}
        for change in changes:
            if change.switches:
                patterns = [
                    template.replace("{slice}", f"{change.card.name}-*") for template in self._layout.slice_units
                ]
                states = self._host.unit_states(patterns)
                found.update({unit: state for unit, state in states.items() if self._card_of(unit) == change.card})
                exact += [template.replace("{card}", change.card.name) for template in self._layout.card_units]
            names = [slice_name(change.card.name, _slice(instance)) for instance in change.destroy]
            exact += [template.replace("{slice}", name) for template in self._layout.slice_units for name in names]
        return {**found, **self._host.unit_states(exact)}

    def _drain(self, changes: Sequence[Change], result: Result) -> None:
        """Stop the units of what goes, and wait until nothing uses it.

        Raises ``EngineError``: it stays in use.
        """
        states = self._concerned(changes)
        running = sorted(unit for unit, state in states.items() if state in _RUNS)
        self._stopped += running
        result.stopped_units = running
        self._remember_stopped()
        self._host.stop_units(running, wait=False)
        leaving = [unit for unit, state in states.items() if state not in _ENDED]
        deadline = time.monotonic() + self._layout.drain_timeout_s
        while True:
            states = self._host.unit_states(leaving)
            still = [unit for unit in leaving if states.get(unit, "inactive") not in _ENDED]
            processes = self._processes(changes)
            if not still and not processes:
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_S)
        reasons = [_in_words(processes)] if processes else []
        reasons += [f"{unit} has not ended" for unit in still]
        raise EngineError(
            BUSY, f"in use, nothing was changed: {'; '.join(reasons)}. Try again when that has ended", processes
        )

    def _remember_stopped(self) -> None:
        self._memory.remember_stopped_units([*self._stopped, *self._stopped_clients])

    def _start_again(self, result: Result, outcomes: Mapping[str, Outcome]) -> None:
        """Start the stopped units: all of a card that has its former layout, else those whose slices exist."""
        workers = gpu_workers(self._layout.cards, self._layout.training_memory, self._placed(outcomes))
        shared = [card.name for card in self._layout.cards if card.backend == "none" and card.sharing == "mps"]
        exist = {
            template.replace("{slice}", worker.name) for template in self._layout.slice_units for worker in workers
        }
        exist |= {template.replace("{card}", name) for template in self._layout.card_units for name in shared}
        as_before = {change.card.name for change in result.changes if change.differs} - self._touched
        wanted = []
        for unit in self._stopped:
            card = self._card_of(unit)
            if unit in exist or (card and card.name in as_before):
                wanted.append(unit)
        self._host.start_units(sorted(wanted))
        self._stopped = []
        self._remember_stopped()

    def _stop_clients(self) -> bool:
        """Stop the active clients of the driver, until the end of this ``apply``; False where none was active."""
        states = self._host.unit_states(self._layout.driver_clients)
        running = [unit for unit in self._layout.driver_clients if states.get(unit) in _RUNS]
        self._stopped_clients += running
        self._remember_stopped()
        self._host.stop_units(running, wait=True)
        return bool(running)

    def _start_clients(self) -> None:
        self._host.start_units(self._stopped_clients)
        self._stopped_clients = []
        self._remember_stopped()

    # Changing

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one ``apply`` at a time run on this computer."""
        self._memory.run.mkdir(parents=True, exist_ok=True)
        with (self._memory.run / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def apply(self) -> Result:
        """Bring the cards to what is declared, and return what was done; the result's code says how it ended."""
        result = Result()
        with self._alone():
            # What an apply had stopped when it was killed.
            left_over = self._memory.stopped_units()
            self._stopped = [unit for unit in left_over if unit not in self._layout.driver_clients]
            self._stopped_clients = [unit for unit in left_over if unit in self._layout.driver_clients]
            try:
                self._bring(result)
            except (EngineError, NvmlError, OSError, KeyboardInterrupt) as error:
                self._end_early(result, error)
            finally:
                self._start_clients()
        return result

    def _bring(self, result: Result) -> None:
        """Do all of an ``apply``."""
        result.changes = self.compare()
        differing = tuple(change for change in result.changes if change.differs)
        if differing:
            self._drain(differing, result)
        self._memory.remember_placements(
            {change.gpu.uuid: change.after for change in result.changes if change.card.backend == "mig"}
        )
        for change in differing:
            self._change(change, result)
        outcomes = self._actual(result.changes)
        result.outcomes = {name: outcome for name, outcome in outcomes.items() if name in self._pending}
        result.workers = self._workers(self._placed(outcomes))
        self._start_again(result, outcomes)
        result.reboot_needed = bool(self._pending)
        result.code = REBOOT_NEEDED if self._pending else RIGHT
        names = [change.card.name for change in differing]
        result.message = f"changed: {', '.join(names)}" if names else "all cards are right"
        if self._pending:
            result.message = f"reboot needed: {'; '.join(self._pending.values())}"

    def _end_early(self, result: Result, error: BaseException) -> None:
        """Note why an ``apply`` ended, and start again what has its slice."""
        result.code, result.message = ERROR, str(error) or "interrupted"
        if isinstance(error, EngineError):
            result.code, result.processes = error.code, list(error.processes)
        if not result.changes:
            # Nothing is known of the cards: what is stopped stays noted for the next time.
            return
        outcomes: dict[str, Outcome] = {}
        with contextlib.suppress(NvmlError, OSError):
            outcomes = self._actual(result.changes)
            result.workers = self._workers(self._placed(outcomes))
        result.outcomes = outcomes
        self._start_again(result, outcomes)

    def _change(self, change: Change, result: Result) -> None:
        """Change one card.

        Raises ``EngineError``: a step failed; the message says whether the card has its former layout again.
        """
        name = change.card.name
        if change.switches and change.card.model.mode_change != "immediate":
            self._stop_clients()
        try:
            pending = self._steps(change)
        except (NvmlError, KeyboardInterrupt) as error:
            self._undo(change, error)
        self._touched.add(name)
        if pending:
            self._pending[name] = pending
        # A card that waits for its reboot already is not changed by being told so again.
        result.changed = bool(result.changed or not pending or change.destroy or change.gpu.mig_pending != change.mode)

    def _steps(self, change: Change) -> str:
        """Do what a card needs; return why a reboot is needed, or nothing."""
        uuid = change.gpu.uuid
        for instance in change.destroy:
            self._destroy(uuid, instance.id)
        if change.mode_differs:
            pending = self._switch(change)
            if pending:
                return pending
        # Each has its place, so the order decides nothing; largest first is what NVIDIA's own tools do.
        existing = {_slice(found): found.id for found in self._driver.instances(uuid)} if change.create else {}
        for wanted in sorted(change.create, key=lambda found: (-found.size, found.start)):
            number = existing.get(wanted)
            if number is None:
                number = self._driver.create_instance(uuid, wanted.profile, wanted.start)
            self._driver.create_part(uuid, number, change.card.model.profiles[wanted.profile].compute)
        return ""

    def _destroy(self, uuid: str, instance: int) -> None:
        """Destroy an instance; where the driver says that it is in use and no process is, its clients are stopped."""
        for step in (self._driver.destroy_parts, self._driver.destroy_instance):
            try:
                step(uuid, instance)
            except NvmlError as error:
                if error.code != IN_USE or self._processes_on(uuid, instance) or not self._stop_clients():
                    raise
                step(uuid, instance)

    def _processes_on(self, uuid: str, instance: int) -> tuple[Process, ...]:
        return tuple(
            process
            for device in self._driver.mig_devices(uuid)
            if device.instance == instance
            for process in self._driver.processes(device.uuid)
        )

    def _switch(self, change: Change) -> str:
        """Switch MIG mode; return why it takes effect at a reboot only, or nothing. What NVML says then counts."""
        uuid, on = change.gpu.uuid, bool(change.mode)
        status = self._driver.set_mig_mode(uuid, on=on)
        if status == IN_USE:
            self._host.remove_modules(_MODULES)
            status = self._driver.set_mig_mode(uuid, on=on)
        gpu = self._driver.gpu(uuid)
        if gpu.mig == on:
            return ""
        if gpu.mig_pending != on:
            text = f"MIG mode stayed {_mode(gpu.mig)}, and {_mode(gpu.mig_pending)} is pending"
            raise NvmlError("nvmlDeviceSetMigMode", status, text)
        why = {
            SUCCESS: "the driver gives no reason",
            IN_USE: "another program or module holds it open",
            RESET_REQUIRED: "it cannot be reset, as in a virtual machine that it is passed through to",
        }.get(status, f"NVML's code {status}")
        if status == IN_USE and self._driver.persistence_mode(uuid):
            why += ", and persistence mode is on"
        return f"{change.card.name} ({gpu.pci_address}): MIG mode {_mode(on)} takes effect at the next reboot: {why}"

    # Undoing

    def _undo(self, change: Change, error: BaseException) -> NoReturn:
        """Give a card its former layout back.

        Raises ``EngineError``: always; it says what failed and whether the card is as it was.
        """
        code, processes = ERROR, []
        failed = f"{change.card.name} ({change.card.address}): {str(error) or 'interrupted'}"
        with contextlib.suppress(NvmlError):
            processes = self._processes([change])
        if isinstance(error, NvmlError) and error.code == IN_USE and processes:
            code = BUSY
            failed += f": {_in_words(processes)}"
        try:
            self._restore(change)
        except NvmlError as second:
            message = f"{failed}; and its former layout could not be restored: {second}. Apply again"
            raise EngineError(ERROR, message, processes) from second
        raise EngineError(code, f"{failed}; the card has its former layout again", processes) from error

    def _restore(self, change: Change) -> None:
        """Bring a card back to the instances and the mode it had."""
        uuid, mode = change.gpu.uuid, change.gpu.mig
        former = {_slice(instance): instance.parts for instance in change.instances}
        for instance in self._driver.instances(uuid) if self._driver.gpu(uuid).mig else ():
            # One that was there and has lost its compute instances only gets those back.
            if former.get(_slice(instance)) not in {None, instance.parts} and instance.parts:
                self._driver.destroy_parts(uuid, instance.id)
            elif _slice(instance) not in former:
                self._driver.destroy_parts(uuid, instance.id)
                self._driver.destroy_instance(uuid, instance.id)
        gpu = self._driver.gpu(uuid)
        if mode is not None and (gpu.mig, gpu.mig_pending) != (mode, change.gpu.mig_pending):
            self._driver.set_mig_mode(uuid, on=mode)
            if self._driver.gpu(uuid).mig != mode:
                raise NvmlError("nvmlDeviceSetMigMode", IN_USE, f"MIG mode is not {_mode(mode)} again")
        existing = {_slice(found): found for found in self._driver.instances(uuid)} if former else {}
        for wanted, parts in former.items():
            there = existing.get(wanted)
            number = there.id if there else self._driver.create_instance(uuid, wanted.profile, wanted.start)
            for slices in parts if not there or there.parts != parts else ():
                self._driver.create_part(uuid, number, slices)


def _described(card: Card, name: str, processes: Iterable[Process]) -> list[dict[str, Any]]:
    return [
        {"card": card.name, "slice": name, "pid": found.pid, "program": found.program, "memory_mib": found.memory_mib}
        for found in processes
    ]


def _in_words(processes: Iterable[Mapping[str, Any]]) -> str:
    """Return processes as a sentence names them."""
    return ", ".join(
        f"process {found['pid']} ({found['program']}) on {found['slice'] or found['card']}" for found in processes
    )
