"""Lookup `topology`: who is who among the hosts, for group_vars/all, which is the place to read what goes where.

    lookup('topology', 'application')         hosts that run the application; also absent, members, gpu_hosts
    lookup('topology', 'known_to', HOST)      hosts whose names a host writes down
    lookup('topology', 'addresses', HOSTS)    private address of each host: {host: IPv4 address}
    lookup('topology', 'clients', SERVICE)    private addresses of the hosts that a service lets in
    lookup('topology', 'doors', HOST, PORTS, INSIDE)
                                              what a host answers beside ssh; PORTS: {service: ports}, INSIDE: address
                                              in the tunnel of each host that is in it
    lookup('topology', 'ssh_clients', HOST)   private addresses of the hosts that need the ssh of a host

Decided in module_utils/platform_topology.py and platform_firewall.py, as for the check of the inventory, which is read
once for a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ansible.module_utils
from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

try:
    from ansible.module_utils import platform_firewall, platform_read
except ImportError:
    # module_utils of ansible.cfg serves modules on hosts only; plugins on the control machine need the path themselves.
    ansible.module_utils.__path__.append(str(Path(__file__).resolve().parent.parent / "module_utils"))
    from ansible.module_utils import platform_firewall, platform_read

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Questions that need no further word.
PLAIN = ("absent", "application", "members")


class LookupModule(LookupBase):  # type: ignore[misc]
    """Takes a question, and the word that some need."""

    def run(self, terms: Sequence[Any], variables: Mapping[str, Any] | None = None, **_: Any) -> list[Any]:
        """Return one answer; a question that is none, or an address that the inventory lacks, is an error."""
        known = variables or {}
        site = platform_read.site(known, self._loader)
        match list(terms):
            case [str(question)] if question in PLAIN:
                return [list(getattr(site.topology, question))]
            case ["gpu_hosts"]:
                cards = site.of_all("gpu_partition_cards", site.topology.compute, known.get("hostvars", {}))
                return [list(site.topology.gpu_hosts(cards))]
            case ["known_to", host]:
                return [list(site.topology.known_to(str(host)))]
            case ["addresses", hosts]:
                return [self._addresses(site, hosts, known)]
            case ["clients", service]:
                try:
                    clients = site.topology.clients(str(service))
                except ValueError as error:
                    raise AnsibleLookupError(f"topology: {error}") from error
                return [list(self._addresses(site, clients, known).values())]
        return [self._firewall(site, list(terms), known)]

    def _firewall(self, site: platform_read.Site, terms: Sequence[Any], known: Mapping[str, Any]) -> list[Any]:
        match terms:
            case ["doors", host, ports, inside]:
                addresses = self._addresses(site, site.topology.members, known)
                return list(platform_firewall.doors(site.topology, str(host), ports, addresses, inside))
            case ["ssh_clients", host]:
                clients = platform_firewall.ssh_clients(site.topology, str(host))
                return list(self._addresses(site, clients, known).values())
        raise AnsibleLookupError(f"topology: there is no such question: {' '.join(map(str, terms))}")

    @staticmethod
    def _addresses(site: platform_read.Site, hosts: Iterable[str], known: Mapping[str, Any]) -> dict[str, Any]:
        found = site.of_all("private_address", hosts, known.get("hostvars", {}))
        missing = [host for host in hosts if host not in found]
        if missing:
            raise AnsibleLookupError(f"topology: the inventory has no private_address of {', '.join(missing)}")
        return dict(found)
