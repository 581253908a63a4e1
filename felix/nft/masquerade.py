"""Outgoing NAT as a part of our table: pods' traffic that leaves the cluster gets the node's address.

In goes a `Masquerade`, out comes its `Content`; `untranslated` says of one packet what the rules say. Pure: whoever
keeps the table writes it.

    nat_postrouting   source is one of our pods ─ nat_out4/6 ─ to the cluster, excluded, learned, opted out → as it is
                                                             └ masquerade

Its own base chain, one step behind kube-proxy's at srcnat in all of its modes: a connection that kube-proxy
masquerades has its source then, and the kernel asks no further chain. Translated is by source address, not by link,
so that a node's own traffic and traffic in transit never are; an address of the node itself that lies among its pods'
(a bridge's, a tunnel's) is the node's own traffic, too.

Only the first packet of a connection comes here. What is changed concerns new connections; those that are
established keep the address they have.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from felix.nft.elements import PLAIN
from felix.nft.enforcement import Content, SetContent
from felix.nft.familywords import TYPES, WORDS, digit, prefix_set
from felix.nft.parts import NOTHING
from felix.nft.table import SetText
from inet.prefix import Family, Prefix

PRIORITY: Final = 110
"""Of the base chain: kube-proxy's is at srcnat, 100, whatever its mode. At one priority the order would be luck."""

BASE_CHAIN: Final = "nat_postrouting"

_WITH_PORTS: Final = ("tcp", "udp", "sctp")


@dataclass(frozen=True, slots=True)
class Masquerade:
    """What is translated, and how. Prefixes may overlap, and be of both families."""

    pods: tuple[Prefix, ...] = ()  # whose traffic is translated: this node's pod CIDRs
    cluster: tuple[Prefix, ...] = ()  # pods, services and nodes
    excluded: tuple[Prefix, ...] = ()
    learned: tuple[Prefix, ...] = ()
    opted_out: frozenset[bytes] = frozenset()  # packed addresses of pods
    ports: tuple[int, int] | None = None  # first and last source port; None: as the kernel chooses
    fully_random: bool = True
    addresses: Mapping[Family, bytes] = field(default_factory=dict)
    """The address that is taken, by family; where there is none, that of the link a packet leaves by."""


def render(wanted: Masquerade) -> Content:
    """Return the chains and sets; nothing where no pod's traffic is translated."""
    families = [family for family in Family if any(prefix.family is family for prefix in wanted.pods)]
    if not families:
        return NOTHING
    hook = f"type nat hook postrouting priority {PRIORITY}; policy accept;"
    chains = {
        BASE_CHAIN: "\n".join(
            (hook, *(f"{WORDS[each]} saddr @{_name('pods', each)} goto {_chain(each)}" for each in families))
        )
    }
    sets: dict[str, SetContent] = {}
    for family in families:
        chains[_chain(family)] = "\n".join(_lines(wanted, family))
        for name, prefixes in _prefix_sets(wanted):
            sets[_name(name, family)] = prefix_set(prefixes, family)
        sets[_name("opted_out", family)] = _opted_out(wanted.opted_out, family)
    return Content(chains, sets)


def with_opted_out(content: Content, opted_out: Collection[bytes]) -> Content:
    """Return a rendered content with other pods opted out, in a moment: pods come and go, the rest stays."""
    names = {family: _name("opted_out", family) for family in Family}
    changed = {name: _opted_out(opted_out, family) for family, name in names.items() if name in content.sets}
    return Content(content.chains, {**content.sets, **changed})


def _opted_out(addresses: Collection[bytes], family: Family) -> SetContent:
    of_family = (address for address in addresses if len(address) * 8 == family.bits)
    return SetContent(SetText(f"type {TYPES[family]}"), dict.fromkeys(of_family, PLAIN))


def untranslated(wanted: Masquerade, source: bytes, destination: bytes) -> str:
    """Return why a packet keeps its source, between packed addresses of one family; "" where it is translated."""
    at, to = ip_address(source), ip_address(destination)
    if not any(prefix.holds(at) for prefix in wanted.pods):
        return "the source is no pod of this node that outgoing NAT is for"
    for name, prefixes in _prefix_sets(wanted)[1:]:
        found = max((prefix for prefix in prefixes if prefix.holds(to)), key=lambda each: each.length, default=None)
        if found is not None:
            return f"the destination is {_WHY[name]}: {found}"
    return "the pod is opted out of outgoing NAT" if source in wanted.opted_out else ""


_WHY: Final = {"cluster": "in the cluster", "excluded": "excluded", "learned": "learned over BGP"}


def _prefix_sets(wanted: Masquerade) -> tuple[tuple[str, tuple[Prefix, ...]], ...]:
    return (
        ("pods", wanted.pods),
        ("cluster", wanted.cluster),
        ("excluded", wanted.excluded),
        ("learned", wanted.learned),
    )


def _lines(wanted: Masquerade, family: Family) -> Iterable[str]:
    word = WORDS[family]
    for name in ("cluster", "excluded", "learned"):
        yield f"{word} daddr @{_name(name, family)} accept"
    yield f"{word} saddr @{_name('opted_out', family)} accept"
    yield "fib saddr type local accept"
    how = " fully-random" if wanted.fully_random else ""
    if wanted.ports is not None:
        yield from (
            f"meta l4proto {protocol} counter {_verb(wanted, family, wanted.ports)}{how}" for protocol in _WITH_PORTS
        )
    yield f"counter {_verb(wanted, family)}{how}"


def _verb(wanted: Masquerade, family: Family, ports: tuple[int, int] | None = None) -> str:
    """Return the statement that translates, without its flags."""
    address = wanted.addresses.get(family)
    range_ = f":{ports[0]}-{ports[1]}" if ports else ""
    if address is None:
        return f"masquerade to {range_}" if ports else "masquerade"
    text = str(ip_address(address))
    return f"snat {WORDS[family]} to {f'[{text}]' if family is Family.IPV6 and ports else text}{range_}"


def _chain(family: Family) -> str:
    return f"nat_out{digit(family)}"


def _name(name: str, family: Family) -> str:
    return f"nat_{name}{digit(family)}"
