#!/usr/bin/python
"""Module `zfs_pool`: make a pool as declared, change what can be changed safely, and report all else."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.zfs_pool.declaration import parse_pool
from ansible.module_utils.zfs_pool.devices import BLKID, LSBLK, Devices, parse_lsblk, parse_probe
from ansible.module_utils.zfs_pool.plan import plan
from ansible.module_utils.zfs_pool.record import (
    CACHEFILE,
    Record,
    RecordError,
    parse_cached,
    read_record,
    write_record,
)
from ansible.module_utils.zfs_pool.status import (
    GET,
    IMPORTABLE,
    LIST,
    STATUS,
    StatusError,
    parse_importable,
    parse_status,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ansible.module_utils.zfs_pool.declaration import PoolProblem, PoolSpec
    from ansible.module_utils.zfs_pool.devices import Signature
    from ansible.module_utils.zfs_pool.plan import Plan
    from ansible.module_utils.zfs_pool.status import Importable, PoolStatus

DOCUMENTATION = r"""
module: zfs_pool
short_description: Make and grow a ZFS pool, safely
description:
  - Imports, creates or changes one pool so that it is as declared. Devices are compared by what they are, not by name.
  - Never destroys, never forces, never writes over a disk that carries anything. Data vdevs are only added, and only
    like those that are there, while each vdev that the pool had is there and declared. What differs beyond that is
    returned in RV(drift) with the command that mends it.
  - The pool as last seen is kept in C(/var/lib/zfs-pool): one that is switched off is not made a second time.
  - Everything that is wrong is refused at once, before anything is changed.
options:
  name:
    description: Name of the pool.
    type: str
    required: true
  vdevs:
    description:
      - Data vdevs, each with C(type) (disk, mirror, raidz1, raidz2, raidz3), C(disks) and, if wanted, C(size).
      - C(disks) is a list of names in /dev/disk, or a rule with C(count), C(at_least), C(at_most), C(controller),
        C(rotational) and C(model).
    type: list
    elements: dict
    required: true
  spares:
    description: Hot spares, as C(disks) of a vdev.
    type: raw
    default: []
  cache:
    description: Cache devices (L2ARC), as C(disks) of a vdev.
    type: raw
    default: []
  log:
    description: Log devices (SLOG); as O(vdevs), with the types disk and mirror.
    type: list
    elements: dict
    default: []
  special:
    description: Special vdevs for metadata, as O(log). In a pool with raidz they stay for ever.
    type: list
    elements: dict
    default: []
  properties:
    description: Properties of the pool.
    type: dict
    default: {}
  filesystem_properties:
    description: Properties of the pool's root file system, used when the pool is created.
    type: dict
    default: {}
  ashift:
    description: Sector size as a power of two, for new vdevs.
    type: int
    default: 12
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the pool
  zfs_pool:
    name: tank
    vdevs:
      - {type: raidz2, disks: [/dev/disk/by-id/a, /dev/disk/by-id/b, /dev/disk/by-id/c, /dev/disk/by-id/d]}
    spares: [/dev/disk/by-id/e]
    properties: {autotrim: "on"}
    filesystem_properties: {compression: lz4, mountpoint: none}
"""

RETURN = r"""
steps:
  description: The commands that ran, or would run in check mode; each a list of words.
  returned: always
  type: list
drift:
  description: What differs and is left to a person; each with C(found), C(wanted) and C(command).
  returned: always
  type: list
refusals:
  description: What kept everything from being done; each with C(path), C(found), C(wanted) and C(mend).
  returned: failure
  type: list
capacity:
  description:
    - Bytes C(size), C(allocated) and C(free) with parity; C(used) and C(available) as zfs list shows them.
    - Before the pool is there, only what is expected of C(available).
  returned: success
  type: dict
state:
  description: State of the pool, empty where there is none yet.
  returned: success
  type: str
"""

# Names by id first: an import takes the first that it finds.
DIRECTORIES = ("/dev/disk/by-id", "/dev/disk/by-path")
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "LANGUAGE": "C"}
SETTLE = ("udevadm", "settle", "--timeout=30")
# What ZFS says of a disk whose new partition has no name just now, and how often a step is tried then.
VANISHED = re.compile(r"no such pool or dataset|devices is currently unavailable")
ATTEMPTS = 5


class Host:
    """What is read on the host, and the commands that run there."""

    def __init__(self, module: Any) -> None:
        self.module = module
        # A dry run on a bare host has no zpool yet, and no pool either.
        self.has_zfs = bool(module.get_bin_path("zpool"))

    def run(self, command: Sequence[str]) -> tuple[int, str, str]:
        """Run a command and return its status, output and errors."""
        status, output, errors = self.module.run_command(list(command), environ_update=ENVIRONMENT)
        return status, output, errors

    def take(self, step: Sequence[str]) -> tuple[int, str, str]:
        """Run a command that may partition disks, some times where ZFS was faster than udev.

        udev takes the names of new partitions away for a moment while it reads the table of a disk once more. ZFS waits
        one second for them, and leaves disks with tables and no pool; the next run would refuse these.
        """
        for _ in range(ATTEMPTS - 1):
            status, output, errors = self.run(step)
            if status == 0 or not VANISHED.search(errors):
                return status, output, errors
            self.run(SETTLE)
        return self.run(step)

    def answer(self, command: Sequence[str]) -> str:
        """Return the output of a command that has to succeed."""
        status, output, errors = self.run(command)
        if status != 0:
            self.module.fail_json(
                msg=f"{' '.join(command)} ended with status {status}: {errors.strip() or output.strip()}",
                rc=status,
            )
        return output

    def devices(self) -> Devices:
        """Return the disks of the host."""
        self.run(SETTLE)
        links = {
            str(link): os.path.realpath(link)
            for folder in Path("/dev/disk").glob("by-*")
            for link in folder.iterdir()
            if link.is_symlink()
        }
        sysfs = {
            f"/dev/{block.name.replace('!', '/')}": os.path.realpath(block) for block in Path("/sys/block").iterdir()
        }
        return Devices(parse_lsblk(self.answer(LSBLK), links, sysfs), links, self.probe, self.busy)

    def probe(self, path: str) -> tuple[Signature, ...]:
        """Return what a device carries."""
        found: tuple[Signature, ...] = parse_probe(*self.run((*BLKID, path)))
        return found

    @staticmethod
    def busy(path: str) -> bool:
        """Return True where the kernel keeps a device for something, as a mount or a RAID does."""
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError:
            return True
        return False

    def pools(self) -> dict[str, PoolStatus]:
        """Return the imported pools."""
        if not self.has_zfs and self.module.check_mode:
            return {}
        found: dict[str, PoolStatus] = {}
        try:
            found = parse_status(self.answer(STATUS), self.answer(LIST), self.answer(GET))
        except StatusError as error:
            self.module.fail_json(msg=f"{error}. OpenZFS 2.3 or newer is needed")
        return found

    def importable(self) -> tuple[Importable, ...]:
        """Return the pools that could be imported."""
        if not self.has_zfs and self.module.check_mode:
            return ()
        # Status 1 where there is none.
        _, output, _ = self.run(IMPORTABLE)
        found: tuple[Importable, ...] = parse_importable(output)
        return found

    def recall(self, name: str) -> Record | None:
        """Return what this host has had by this name: by its own file, or where it has none yet, by ZFS's."""
        found: Record | None = None
        try:
            found = read_record(name)
        except RecordError as error:
            self.module.fail_json(msg=f"{error}. Look at zpool status and zpool import, then remove the file")
        if found is None and self.has_zfs and Path(CACHEFILE).exists():
            _, output, _ = self.run(("zdb", "-C", "-U", CACHEFILE))
            guid = parse_cached(output).get(name)
            found = Record(name, guid, file=CACHEFILE) if guid is not None else None
        return found

    def remember(self, record: Record) -> None:
        """Keep a pool as it is now. Nothing of the host changes by it."""
        try:
            write_record(record)
        except OSError as error:
            self.module.fail_json(msg=f"The pool {record.pool} is there, but {record.file} cannot be written: {error}")

    def capacity(self, pool: PoolStatus) -> dict[str, int]:
        """Return how large an imported pool is."""
        listed = self.answer(("zfs", "list", "-Hp", "-o", "used,available", pool.name)).split()
        figures = {name: pool.properties.get(name, "0") for name in ("size", "allocated", "free")}
        return {
            **{name: int(value) if value.isdecimal() else 0 for name, value in figures.items()},
            "used": int(listed[0]),
            "available": int(listed[1]),
        }


def text_of(problem: PoolProblem) -> str:
    """Return a problem in one line."""
    return f"{problem.path}: found {problem.found}; wanted {problem.wanted}; {problem.mend}"


def refuse(module: Any, problems: Sequence[PoolProblem], found: Plan | None = None) -> None:
    """End the module with everything that is wrong."""
    module.fail_json(
        msg="Nothing was changed. " + " | ".join(text_of(problem) for problem in problems),
        refusals=[vars(problem) for problem in problems],
        drift=[vars(drift) for drift in found.drift] if found else [],
        steps=[],
    )


def compare(module: Any, host: Host, spec: PoolSpec) -> tuple[Plan, PoolStatus | None]:
    """Return what has to be done by now, and the pool as it is."""
    pools = host.pools()
    record = host.recall(spec.name)
    found = plan(
        spec,
        host.devices(),
        pools,
        () if spec.name in pools else host.importable(),
        ashift=module.params["ashift"],
        filesystem_properties={
            name: ("on" if value else "off") if isinstance(value, bool) else str(value)
            for name, value in module.params["filesystem_properties"].items()
        },
        directories=[directory for directory in DIRECTORIES if Path(directory).is_dir()],
        record=record,
    )
    if found.record is not None and found.record != record and not module.check_mode:
        host.remember(found.record)
    if found.refusals:
        refuse(module, found.refusals, found)
    return found, pools.get(spec.name)


def carry_out(module: Any, host: Host, found: Plan, done: list[list[str]]) -> None:
    """Run the steps of a plan, and note each one that succeeded."""
    for step in found.steps:
        status, output, errors = host.take(step.command)
        if status != 0:
            module.fail_json(
                msg=f"Could not {step.text}: {errors.strip() or output.strip()}",
                rc=status,
                changed=bool(done),
                steps=done,
                failed_step=list(step.command),
                drift=[vars(drift) for drift in found.drift],
            )
        done.append(list(step.command))


def main() -> None:
    """Compare, act, and answer."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "vdevs": {"type": "list", "elements": "dict", "required": True},
            "spares": {"type": "raw", "default": []},
            "cache": {"type": "raw", "default": []},
            "log": {"type": "list", "elements": "dict", "default": []},
            "special": {"type": "list", "elements": "dict", "default": []},
            "properties": {"type": "dict", "default": {}},
            "filesystem_properties": {"type": "dict", "default": {}},
            "ashift": {"type": "int", "default": 12},
        },
        supports_check_mode=True,
    )
    spec, problems = parse_pool(module.params)
    if spec is None:
        refuse(module, problems)
        return
    host = Host(module)
    found, pool = compare(module, host, spec)
    diff = {"before": found.before, "after": found.after}
    done: list[list[str]] = []
    if module.check_mode:
        done = [list(step.command) for step in found.steps]
    else:
        imports = any(step.command[1] == "import" for step in found.steps)
        while found.steps:
            carry_out(module, host, found, done)
            found, pool = compare(module, host, spec)
            diff["after"] = found.after
            # Only after an import is there more to do than the first look could tell.
            if found.steps and not imports:
                module.fail_json(
                    msg="The pool is not as declared after all steps: "
                    + "; ".join(step.text for step in found.steps)
                    + ". Look at zpool status and zpool history",
                    changed=True,
                    steps=done,
                )
            imports = False
    module.exit_json(
        changed=bool(done),
        steps=done,
        drift=[vars(drift) for drift in found.drift],
        capacity=host.capacity(pool) if pool is not None else {"available": found.expected},
        state=pool.state if pool is not None else "",
        diff=diff,
    )


if __name__ == "__main__":
    main()
