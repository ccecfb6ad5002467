"""Action `preflight_facts`: refuse hosts that cannot carry the platform, all problems of all hosts in one list.

Takes the name of a registered result, ``seen``: on each host the lines of ``df --output=avail -B1 /opt
/opt/escriptorium/current``, ``no-ipv6`` where the kernel has none, ``no-timezone`` where the site's is unknown,
``firewall NAME`` for each firewall of another kind that is switched on, ``no-wireguard`` where the kernel has none and
is to have it, and on the storage host what ``ss`` says of each connection of an NFS client; on hosts with cards then
the line ``driver``, the version of the loaded driver, and what ``df --output=size -B1 /dev/shm`` says. And
``tree_address``, where the storage host is to serve the tree (empty: nowhere).

Runs once, on the control machine, after the facts of all hosts of the play were gathered. The rules are in
module_utils/platform_facts.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

try:
    from ansible.module_utils import platform_catalogue, platform_facts, platform_problems
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_catalogue, platform_facts, platform_problems

NO_IPV6 = "no-ipv6"
NO_TIMEZONE = "no-timezone"
FIREWALL = "firewall "
NO_WIREGUARD = "no-wireguard"
#: What ss says of a connection of NFS: two queues, the address here, that of the client.
_NFS = re.compile(r"\d+ +\d+ +\[?(?:::ffff:)?([^]\s]+?)\]?:2049 +\[?(?:::ffff:)?([^]\s]+?)\]?:\d+")

ARGUMENTS: dict[str, Any] = {
    "seen": {"type": "str", "required": True},
    "tree_address": {"type": "str", "default": ""},
}
ROLE = Path(__file__).resolve().parent.parent / "roles/escriptorium"


def number(value: Any) -> int | None:
    """Return a whole number, or None where the value is none."""
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


@cache
def usual_profile() -> str:
    """Return the release profile that the role takes where the inventory names none."""
    return str(platform_catalogue.read_yaml(ROLE / "defaults/main.yml")["escriptorium_profile"])


def _lines(result: Any) -> list[str]:
    return [str(line).strip() for line in (result or {}).get("stdout_lines") or []]


def _parts(result: Any) -> tuple[list[str], list[str]]:
    """Return the lines of df, and those of the driver."""
    words = (NO_IPV6, NO_TIMEZONE, NO_WIREGUARD)
    lines = [
        line
        for line in _lines(result)
        if line not in words and not line.startswith(FIREWALL) and not _NFS.fullmatch(line)
    ]
    place = lines.index("driver") if "driver" in lines else len(lines)
    return lines[:place], lines[place + 1 :]


def has_said(result: Any, word: str) -> bool:
    """Return True where the host has said the word of a thing that it lacks."""
    return word in _lines(result)


def other_firewalls(result: Any) -> tuple[str, ...]:
    """Return the firewalls that the host has switched on, beside the platform's own."""
    return tuple(line.removeprefix(FIREWALL) for line in _lines(result) if line.startswith(FIREWALL))


def tree_clients(result: Any) -> tuple[tuple[str, str], ...]:
    """Return (address here, address of the client) of each connection of NFS."""
    found = [match.groups() for line in _lines(result) if (match := _NFS.fullmatch(line))]
    return tuple(dict.fromkeys((str(own), str(client)) for own, client in found))


def disk_space(result: Any) -> tuple[int | None, bool]:
    """(free bytes under /opt, whether a release is there) from the lines of df: a heading, /opt, the release."""
    lines, _ = _parts(result)
    figures = lines[1:]
    return (number(figures[0]) if figures else None), len(figures) > 1


def gpu_state(result: Any) -> tuple[str, int | None]:
    """(version of the loaded driver, bytes of /dev/shm) from its line and df's; nothing for a host without cards."""
    _, lines = _parts(result)
    return (lines[0], number(lines[-1])) if len(lines) > 1 else ("", None)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Reads facts that were gathered already; contacts no host itself."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Fail with the list of problems, or say how many hosts were checked."""
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)

        hosts = [self._host(name, variables, arguments) for name in variables["ansible_play_hosts"]]
        problems = platform_facts.check_facts(hosts)
        result["changed"] = False
        if problems:
            result["failed"] = True
            result["msg"] = (
                f"The hosts have {len(problems)} problem{'s' if len(problems) > 1 else ''}, listed below. "
                "Nothing was changed on them."
            )
            result["problems"] = platform_problems.report(problems)
        else:
            result["msg"] = f"The hosts can carry the platform: {len(hosts)} checked."
        return result

    def _host(self, name: str, variables: Mapping[str, Any], registered: Mapping[str, str]) -> Any:
        own = variables["hostvars"][name]
        seen = own.get(registered["seen"], None)
        free, has_release = disk_space(seen)
        driver, shared_memory = gpu_state(seen)
        try:
            facts = own["ansible_facts"]
            described = platform_facts.HostFacts(
                distribution=str(facts["distribution"]),
                major_version=str(facts["distribution_major_version"]),
                version=str(facts["distribution_version"]),
                architecture=str(facts["architecture"]),
                memory_mb=number(facts.get("memtotal_mb")),
                processors=number(facts.get("processor_vcpus")),
                release_free_bytes=free,
                has_release=has_release,
                driver_version=driver,
                shared_memory_bytes=shared_memory,
                has_ipv6=not has_said(seen, NO_IPV6),
                has_timezone=not has_said(seen, NO_TIMEZONE),
                other_firewalls=other_firewalls(seen),
                has_wireguard=not has_said(seen, NO_WIREGUARD),
                tree_clients=tree_clients(seen),
            )
        except KeyError as error:
            raise AnsibleActionFail(
                f"{name}: the fact {error} was not gathered; needed subsets: platform, distribution, hardware"
            ) from error

        def setting(key: str, fallback: Any) -> Any:
            try:
                return own.get(key, fallback)
            except AnsibleError as error:
                raise AnsibleActionFail(f"{name}: {key} cannot be resolved: {error}") from error

        memory = setting("preflight_memory_mb", None)
        settings = platform_facts.FactsSettings(
            allow_untested=boolean(setting("preflight_allow_untested", "no")),
            release_disk_gb=float(setting("preflight_release_disk_gb", platform_facts.DEFAULT_RELEASE_DISK_GB)),
            memory_mb={str(group): int(size) for group, size in memory.items()}
            if isinstance(memory, Mapping)
            else number(memory),
            gpu=self._gpu(setting),
            timezone=str(setting("base_timezone", "Etc/UTC")),
            ipv6=boolean(setting("nginx_ipv6", "yes")),
            firewall=boolean(setting("firewall_enabled", "yes")),
            tree_address=str(registered["tree_address"]),
        )
        roles = frozenset(
            group for group in platform_facts.DEFAULT_MEMORY_MB if name in variables["groups"].get(group, ())
        )
        return platform_facts.FactsHost(name, described, roles, settings)

    def _gpu(self, setting: Callable[[str, Any], Any]) -> Any:
        """Return what the host's cards ask of its driver; None where it has none for its own workers."""
        workers = setting("celery_worker_gpu_workers", [])
        if not workers:
            return None
        given = setting("escriptorium_profile", None)
        profile = usual_profile() if given is None else str(given)
        folder = Path(profile) if "/" in profile else ROLE / "files/profiles" / profile
        try:
            content = platform_catalogue.read_yaml(folder / "profile.yml") or {}
        except platform_catalogue.CatalogueError as error:
            raise AnsibleActionFail(f"the release profile cannot be read: {error}") from error
        return platform_facts.GpuSettings(
            workers=len(workers),
            load_threads=number(setting("escriptorium_training_load_threads", 0)) or 0,
            managed=boolean(setting("nvidia_driver_managed", "yes")),
            version=str(setting("nvidia_driver_version", "")),
            cuda=str(content.get("cuda_version", "")),
        )
