"""Filters of the platform: Jinja access to platform_*.py and gpu_partition of module_utils."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleFilterError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

try:
    from ansible.module_utils import (
        platform_backup,
        platform_capacity,
        platform_environment,
        platform_firewall,
        platform_queues,
        platform_rebuild,
        platform_restore,
        platform_sandbox,
        platform_topology,
        platform_tree,
        platform_version,
    )
    from ansible.module_utils.gpu_partition import cards as gpu
    from ansible.module_utils.gpu_partition import report, workers
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import (
        platform_backup,
        platform_capacity,
        platform_environment,
        platform_firewall,
        platform_queues,
        platform_rebuild,
        platform_restore,
        platform_sandbox,
        platform_topology,
        platform_tree,
        platform_version,
    )
    from ansible.module_utils.gpu_partition import cards as gpu
    from ansible.module_utils.gpu_partition import report, workers


def worker_plan(
    queues: Sequence[str],
    cores: int,
    memory_mb: int,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    gpu_workers: Sequence[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Plan the worker units of a host: each queue has one, each GPU worker too. Sizes are processor threads and MB."""
    try:
        plan = platform_capacity.worker_plan(queues, cores, memory_mb, overrides, gpu_workers)
        return [dict(worker) for worker in plan]
    except ValueError as error:
        raise AnsibleFilterError(f"worker_plan: {error}") from error


def compute_queues(own: Sequence[str] | None, cards: bool, some_have_cards: bool, alignment: object) -> list[str]:
    """Return the queues of a compute host, of its own choice or None: see module_utils/platform_queues.py."""
    aligned = bool(platform_queues.truth(alignment))
    return list(platform_queues.compute_queues(own, cards=cards, some_have_cards=some_have_cards, aligned=aligned))


def host_units(items: Sequence[Mapping[str, Any]], name: str, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a unit of the action ``host_config`` for each item: its name from the item's values, all else in common.

    Templates find the item as ``item``. An example: ``[{'command': 'x'}] | host_units('{command}.timer', {...})``.
    """
    return [{**common, "name": name.format(**item), "vars": {"item": dict(item)}} for item in items]


def postgresql_memory(memory_mb: int, shared_host: bool = False) -> dict[str, int]:
    """Return the memory settings of PostgreSQL in MB, from the memory of its host in MB."""
    try:
        return dict(platform_capacity.postgresql_memory(memory_mb, shared_host))
    except ValueError as error:
        raise AnsibleFilterError(f"postgresql_memory: {error}") from error


def web_processes(cores: int) -> int:
    """Return the number of uwsgi's processes on a host with this many processor threads."""
    try:
        return int(platform_capacity.web_processes(cores))
    except ValueError as error:
        raise AnsibleFilterError(f"web_processes: {error}") from error


def redis_memory(memory_mb: int) -> int:
    """Return ``maxmemory`` of the broker in MB, from the memory of its host in MB."""
    try:
        return int(platform_capacity.redis_memory(memory_mb))
    except ValueError as error:
        raise AnsibleFilterError(f"redis_memory: {error}") from error


def _cards(raw: object, training_memory: Mapping[str, int]) -> Sequence[Any]:
    cards: Sequence[Any]
    cards, problems = gpu.parse_cards(raw, training_memory)
    if problems:
        first = problems[0]
        raise AnsibleFilterError(f"{first.path}: found {first.found}, wanted {first.wanted}; {first.mend}")
    return cards


def gpu_cards(raw: object, training_memory: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the cards of an inventory with what follows from them; memory is in MiB."""
    return [
        {
            "name": card.name,
            "model": card.model.name,
            "address_kind": card.address_kind,
            "address": card.address,
            "backend": card.backend,
            "sharing": card.sharing,
            "vgpu_type": card.vgpu_type,
            "vgpu_count": card.vgpu_count,
        }
        for card in _cards(raw, training_memory)
    ]


def gpu_workers(raw: object, training_memory: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the workers that the cards of an inventory have room for; memory is in MiB."""
    return [asdict(worker) for worker in workers.gpu_workers(_cards(raw, training_memory), training_memory)]


def gpu_report(raw: object, training_memory: Mapping[str, int]) -> str:
    """Return what the cards of an inventory become, as a table and a picture of each; memory is in MiB."""
    cards = _cards(raw, training_memory)
    return "\n".join([report.table(cards, training_memory), *map(report.picture, cards)])


def ssh_port(values: Mapping[str, Any]) -> int:
    """Return the port on which other hosts reach the ssh of one, from its variables (``hostvars[NAME]``)."""
    try:
        return int(platform_topology.ssh_port(values))
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"ssh_port: {error}") from error


def backup_targets(
    given: Sequence[Mapping[str, Any]] | None, backups: str, backend: str, logins: Sequence[str], enabled: object = True
) -> list[dict[str, Any]]:
    """Return the targets of a site's copies with all that follows from them: see module_utils/platform_backup.py."""
    on = bool(platform_queues.truth(enabled))
    return list(platform_backup.targets(given, backups, backend, logins, enabled=on))


def sandbox(writes: Sequence[str] = (), networks: Sequence[str] | None = None, cards: bool = False) -> str:
    """Return what a unit that may write in these folders is shut into: see module_utils/platform_sandbox.py.

    An example: ``['/srv/escriptorium/media'] | sandbox(networks=['10.10.0.1/32'])``; without networks all are open.
    """
    return str(platform_sandbox.text(writes, networks, cards=cards))


def ssh_ports(values: Mapping[str, Any]) -> list[int]:
    """Return the ports of ssh that an inventory names for a host, from its variables (``hostvars[NAME]``)."""
    try:
        return list(platform_firewall.ssh_ports(values))
    except (TypeError, ValueError) as error:
        raise AnsibleFilterError(f"ssh_ports: {error}") from error


def firewall_rules(rules: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of nftables that let in what rules of the role firewall name."""
    try:
        return list(platform_firewall.rule_lines(rules))
    except (KeyError, ValueError) as error:
        raise AnsibleFilterError(f"firewall_rules: {error}") from error


def firewall_sources(networks: Sequence[str]) -> list[str]:
    """Return the words of nftables for packets from networks: one text for each version of IP that they have."""
    try:
        return [" ".join(words) for words in platform_firewall.sources(networks)]
    except ValueError as error:
        raise AnsibleFilterError(f"firewall_sources: {error}") from error


def tree_files(root: str, folders: Sequence[str]) -> list[str]:
    """Return all files below folders of ``root`` by their paths from there: see module_utils/platform_tree.py."""
    try:
        return list(platform_tree.files_below(root, folders))
    except ValueError as error:
        raise AnsibleFilterError(f"tree_files: {error}") from error


def breaking_changes(note: str, deployed: bool, number: str, read: str = "") -> list[str]:
    """Return why a site with this note must not be deployed with a repository of this number; usually nothing."""
    try:
        noted = platform_version.note_of(note, deployed)
    except ValueError as error:
        raise AnsibleFilterError(
            f"breaking_changes: /etc/escriptorium-version on the frontend holds no number: {error}"
        ) from error
    names = [name.strip() for name in read.split(",") if name.strip()]
    return list(platform_version.refusals(noted, int(number), names))


def restore_line(info: Sequence[Mapping[str, Any]], wanted: str | int) -> int:
    """Return the number of the timeline that a restore follows, of a number or ``latest``."""
    try:
        return platform_restore.newest_timeline(info) if wanted == "latest" else int(wanted)
    except ValueError as error:
        raise AnsibleFilterError(f"restore_timeline is {wanted}: write a number, or latest") from error


def restore_set(info: Sequence[Mapping[str, Any]], timeline: int, moment: int, history: str) -> dict[str, str]:
    """Return the ``label`` of the backup that a restore begins with, or a ``refusal``: platform_restore.choose."""
    return asdict(platform_restore.choose(info, timeline, moment, history))


class FilterModule:
    """Names under which Jinja finds the filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "breaking_changes": breaking_changes,
            "compute_queues": compute_queues,
            "environment_files": platform_environment.files,
            "firewall_rules": firewall_rules,
            "firewall_sources": firewall_sources,
            "gpu_cards": gpu_cards,
            "has_gpu_workers": gpu.has_workers,
            "gpu_report": gpu_report,
            "gpu_workers": gpu_workers,
            "host_units": host_units,
            "rebuild_refusal": platform_rebuild.refusal,
            "rebuild_report": platform_rebuild.report,
            "restore_line": restore_line,
            "restore_set": restore_set,
            "backup_files": platform_backup.files,
            "backup_targets": backup_targets,
            "backup_units": platform_backup.units,
            "reached_networks": platform_sandbox.reach,
            "sandbox": sandbox,
            "ssh_port": ssh_port,
            "ssh_ports": ssh_ports,
            "tree_entries": platform_tree.entries,
            "tree_files": tree_files,
            "tree_programs": platform_tree.programs,
            "tree_id": platform_tree.content_id,
            "web_processes": web_processes,
            "worker_plan": worker_plan,
            "worker_queues": platform_queues.worker_queues,
            "postgresql_memory": postgresql_memory,
            "redis_memory": redis_memory,
        }
