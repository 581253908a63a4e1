"""What `policy` decides, in the terms in which `felix` writes it: the whole table, or a difference."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from felix.nft import elements as kernel
from felix.nft.enforcement import Change, Content, SetContent
from felix.nft.table import SetText
from inet.prefix import Family
from policy import nft
from policy.ir import Chain, Delta, Endpoint, Members, NodeFacts, Ruleset, SetKind, SetRef
from policy.nftskeleton import ADDRESS_TYPES, CHAINS, LOCAL_CIDR_SETS, POD_SOURCES_TEXTS

_SKELETON: Final = {name: "\n".join(lines) for name, lines in CHAINS.items()}
_CLOSED: Final = frozenset(
    (*CHAINS, *LOCAL_CIDR_SETS.values(), *POD_SOURCES_TEXTS, *nft.map_names())
)  # with that alone pods get nothing
_PORT_BYTES: Final = 2


def content_of(ruleset: Ruleset) -> Content:
    """Return the whole table, as it is now: later changes of the ruleset do not show in it."""
    sets = {**_local_cidrs(ruleset.facts), **_maps(ruleset.endpoints.values())}
    sets |= {name: SetContent(SetText(text), {}) for name, text in POD_SOURCES_TEXTS.items()}
    sets |= {name: _set(ref, ruleset.members[name]) for name, ref in ruleset.sets.items()}
    chains = _SKELETON | {name: _chain(chain) for name, chain in ruleset.chains.items()}
    return Content(chains, sets, _CLOSED)


def change_of(delta: Delta) -> Change:
    """Return what turns the table of the ruleset before a delta into that of the ruleset after."""
    return Change(
        chains={chain.name: _chain(chain) for chain in delta.chains_added},
        sets={ref.name: _set(ref, delta.members_added[ref.name]) for ref in delta.sets_added},
        elements=[_element_change(each) for each in nft.element_changes(delta)],
        chains_removed=[chain.name for chain in delta.chains_removed],
        sets_removed=[ref.name for ref in delta.sets_removed],
    )


def names_in(change: Change) -> set[str]:
    """Return the chains and sets that a change is about."""
    elements = (each.set for each in change.elements)
    return {*change.chains, *change.sets, *elements, *change.chains_removed, *change.sets_removed}


def _chain(chain: Chain) -> str:
    return "\n".join(nft.chain_lines(chain))


def _set(ref: SetRef, members: Members) -> SetContent:
    text = SetText("\n".join(nft.set_lines(ref)))
    if ref.kind is SetKind.PORTS:
        packed = (kernel.Interval(_port(first), _port(last)) for first, last in ref.intervals)
        return SetContent(text, dict.fromkeys(packed, kernel.PLAIN))
    keys = nft.set_keys(ref, members)
    is_plain = ref.kind in {SetKind.PODS, SetKind.NODES}  # of which there may be tens of thousands
    return SetContent(text, dict.fromkeys(cast("Iterable[bytes]", keys) if is_plain else map(_key, keys), kernel.PLAIN))


def _port(number: int) -> bytes:
    return number.to_bytes(_PORT_BYTES)


def _local_cidrs(facts: NodeFacts) -> dict[str, SetContent]:
    found = {}
    for family, digit in ((Family.IPV4, 4), (Family.IPV6, 6)):
        ranges = map(_key, nft.block_ranges(facts.pod_cidrs, family))
        text = SetText(f"type {ADDRESS_TYPES[digit]}; flags interval")
        found[LOCAL_CIDR_SETS[digit]] = SetContent(text, dict.fromkeys(ranges, kernel.PLAIN))
    return found


def _maps(endpoints: Iterable[Endpoint]) -> dict[str, SetContent]:
    found: dict[str, dict[kernel.Key, kernel.Value]] = {name: {} for name in nft.map_names()}
    for endpoint in endpoints:
        for element in nft.endpoint_elements(endpoint):
            found[element.set][_key(element.key)] = _value(element)
    return {
        name: SetContent(SetText(f"type {ADDRESS_TYPES[int(name[-1])]} : verdict", is_map=True), values)
        for name, values in found.items()
    }


def _element_change(change: nft.ElementChange) -> kernel.ElementChange:
    return kernel.ElementChange(change.set, _key(change.key), change.is_added, _value(change))


def _value(element: nft.ElementChange) -> kernel.Value:
    if element.verdict is None:
        return kernel.PLAIN
    return kernel.Value(element.verdict.verdict, element.verdict.chain, element.comment)


def _key(key: nft.ElementKey) -> kernel.Key:
    if isinstance(key, bytes):
        return key
    if isinstance(key, nft.AddressRange):
        return kernel.Interval(key.first, key.last)
    address, protocol, port = key
    return kernel.concatenate(address, bytes([protocol]), _port(port))
