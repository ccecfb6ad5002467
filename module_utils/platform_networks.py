"""Rules about lists of networks: each opens something, so each is a network, and as narrow as one's own.

No Ansible import. See platform_inventory.py for how rules are used.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final

from .platform_problems import Inventory, Problem, Rule, given, quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .platform_variables import Catalogue

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Ends of the names of such lists, and one that nginx calls otherwise.
NAME_END: Final = "_networks"
PROXIES: Final = "nginx_trusted_proxies"
#: What imports may ask though it is not public.
INTERNAL: Final = "escriptorium_import_internal_networks"
#: Shortest prefix by IP version: nobody has more, and 0.0.0.0/0 is everybody.
MIN_PREFIX_LENGTHS: Final = {4: 8, 6: 19}
#: The host itself and its link: the broker, and the page of a cloud that gives out its keys, answer there.
_NEIGHBOURHOOD: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text) for text in ("127.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "::1/128", "fe80::/10")
)


def rule_networks(inventory: Inventory, catalogue: Catalogue) -> Iterator[Problem]:
    """Each network of a list lets programs in, or requests out: one that is too wide lets everybody."""
    for name, variable in catalogue.variables.items():
        if variable.type != "list" or not (name.endswith(NAME_END) or name == PROXIES):
            continue
        for host, value in given(inventory, name, list):
            for index, text in enumerate(value):
                for wanted, mend in _wrong(name, text):
                    yield Problem(host, f"{name}[{index}]", quote(text), wanted, mend)


def _wrong(name: str, text: Any) -> Iterator[tuple[str, str]]:
    """Yield what is wanted and what helps where a text is no network that may stand there."""
    if not isinstance(text, str) or "{{" in text:
        return
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        yield "a network or an address, e.g. 10.20.0.0/16", near(text)
        return
    shortest = MIN_PREFIX_LENGTHS[network.version]
    if network.prefixlen < shortest:
        mend = "name the networks of the hosts that you mean, and no more"
        if name == PROXIES:
            mend = "name your proxies only: who stands in it may claim any address"
        yield f"a prefix length from {shortest}", mend
    elif name == INTERNAL and any(_overlap(network, own) for own in _NEIGHBOURHOOD):
        yield "no address of a host itself or its link", "name the address of the image server, e.g. 10.20.30.40/32"


def near(text: str) -> str:
    """Say how a text that is no network would be one."""
    try:
        return f"write {ipaddress.ip_network(text, strict=False)}"
    except ValueError:
        return "write the network's address and its prefix length"


def _overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


NETWORK_RULES: Final[tuple[Rule, ...]] = (rule_networks,)
