"""Validation of an inventory, before anything is changed.

``check_inventory`` is pure, needs no connection to any host, and returns all problems at once. The facts of hosts are
checked in platform_facts.py.

One small function per rule; its docstring says why the rule exists. To add a rule, write a function that takes an
``Inventory`` and a ``Catalogue``, yields ``Problem``s, and name it in ``INVENTORY_RULES``, whose order is that of the
messages. A subject has a module of its own (platform_hosts.py, platform_types.py, ...); one that has many rules names
them in a list of its own, which stands here as a whole.

No Ansible import. Values of secrets never appear in a problem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .platform_acme import ACME_RULES
from .platform_addresses import rule_distinct_addresses, rule_private_addresses, rule_private_network
from .platform_backup import BACKUP_RULES
from .platform_firewall import FIREWALL_RULES
from .platform_gpu import GPU_RULES
from .platform_hosts import (
    rule_compute_hosts,
    rule_host_names,
    rule_hosts_have_a_role,
    rule_reserved_groups,
    rule_single_hosts,
)
from .platform_names import rule_derived_names, rule_known_names, rule_required_names, rule_site_values_agree
from .platform_networks import NETWORK_RULES
from .platform_problems import Inventory, Problem, Rule, collapse
from .platform_queues import QUEUE_RULES
from .platform_secret_rules import rule_missing_secrets, rule_weak_secrets
from .platform_sizes import rule_memory_wanted, rule_sizes
from .platform_ssh import SSH_RULES
from .platform_storage import STORAGE_RULES
from .platform_templates import TEMPLATE_RULES
from .platform_texts import rule_one_line, rule_paths, rule_placeholders
from .platform_tunnel import TUNNEL_RULES
from .platform_types import rule_types
from .platform_values import (
    rule_certificate_pairs,
    rule_database_names,
    rule_domain,
    rule_email,
    rule_further_names,
    rule_gate_views,
    rule_timezone,
    rule_version,
)

if TYPE_CHECKING:
    from .platform_variables import Catalogue

INVENTORY_RULES: tuple[Rule, ...] = (
    rule_single_hosts,
    rule_compute_hosts,
    rule_hosts_have_a_role,
    rule_reserved_groups,
    rule_host_names,
    rule_private_network,
    rule_private_addresses,
    rule_distinct_addresses,
    rule_known_names,
    rule_derived_names,
    rule_required_names,
    rule_site_values_agree,
    *TEMPLATE_RULES,
    rule_types,
    rule_sizes,
    rule_paths,
    rule_memory_wanted,
    *QUEUE_RULES,
    *GPU_RULES,
    *STORAGE_RULES,
    *BACKUP_RULES,
    *TUNNEL_RULES,
    *NETWORK_RULES,
    *FIREWALL_RULES,
    *SSH_RULES,
    rule_weak_secrets,
    rule_one_line,
    rule_placeholders,
    rule_domain,
    rule_further_names,
    rule_gate_views,
    rule_database_names,
    rule_email,
    rule_timezone,
    rule_version,
    rule_certificate_pairs,
    *ACME_RULES,
)


def check_inventory(inventory: Inventory, catalogue: Catalogue, *, secrets_required: bool = True) -> list[Problem]:
    """All problems of an inventory, merged over hosts, in the order of the rules; empty where there is none.

    ``secrets_required`` is False where missing secrets are made by the next playbook.
    """
    problems: list[Problem] = []
    for rule in INVENTORY_RULES:
        problems.extend(rule(inventory, catalogue))
    if secrets_required:
        problems.extend(rule_missing_secrets(inventory, catalogue))
    return collapse(problems, inventory.hosts)
