"""Paths that follow from Node objects alone, told to the RIB as one more peer's words.

So they are weighed, explained and installed as all others are. A path that is no longer wanted because nodes are to
learn each other's by BGP stays until the peers have said what they have to say, or have had the time for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Final

from bgp.import_rules import ImportRules, PrefixRange
from bgp.path import Attributes, PeerKey, Source
from bgp.rib import Rib
from inet.prefix import IPAddress, Prefix
from inet.prefix_map import PrefixMap

NODE_OBJECTS: Final[PeerKey] = IPv4Address(0)
"""The key of the peer that Node objects are."""

_ALL: Final = (Prefix(bytes(4), 0), Prefix(bytes(16), 0))
_NO_MAXIMUM: Final = 1 << 30
_LOCAL_PREFERENCE: Final = 100
_SOURCE: Final = Source(NODE_OBJECTS, 0, is_internal=True, router_id=IPv4Address("255.255.255.255"))  # any beats it


class NodePathTeller:
    """Keeps the RIB told."""

    def __init__(self, rib: Rib, patience_s: float) -> None:
        self._rib = rib
        self._patience_s = patience_s
        self._told: dict[Prefix, IPAddress] = {}
        self._wanted: Mapping[Prefix, IPAddress] | None = None  # when last told
        self._kept_until: dict[Prefix, float] = {}

    def tell(self, wanted: Mapping[Prefix, IPAddress], keep: Mapping[Prefix, IPAddress], now: float) -> None:
        """Say what is so now. What is told, no longer wanted, but to `keep` stays for a while.

        `wanted` is another object whenever it holds something else.
        """
        if wanted is self._wanted and not self._kept_until:
            return  # thousands, all of them told
        self._wanted = wanted
        if not wanted and not self._told:
            return
        if NODE_OBJECTS not in self._rib.peers():
            self._rib.open(_SOURCE, _rules())
        for prefix in self._kept_until.keys() & wanted.keys():
            del self._kept_until[prefix]
        gone = [prefix for prefix in self._told.keys() - wanted.keys() if not self._is_kept(prefix, keep, now)]
        for prefix in gone:
            del self._told[prefix]
            self._kept_until.pop(prefix, None)
        if gone:
            self._rib.withdraw(NODE_OBJECTS, gone)
        changed: dict[IPAddress, list[Prefix]] = {}
        for prefix, address in wanted.items():
            told = self._told.get(prefix)
            if told is not address and told != address:  # nearly all are one object, and addresses compare slowly
                changed.setdefault(address, []).append(prefix)
        for address, prefixes in changed.items():
            self._rib.learn(NODE_OBJECTS, Attributes(next_hop=address, local_pref=_LOCAL_PREFERENCE), prefixes)
            self._told.update(dict.fromkeys(prefixes, address))

    def _is_kept(self, prefix: Prefix, keep: Mapping[Prefix, IPAddress], now: float) -> bool:
        if keep.get(prefix) != self._told[prefix]:
            return False
        return now < self._kept_until.setdefault(prefix, now + self._patience_s)

    @property
    def next_deadline(self) -> float | None:
        """When `tell` has to be called again, whatever happens."""
        return min(self._kept_until.values(), default=None)


def _rules() -> ImportRules:
    """Believe all of it: whose a pod CIDR is was settled before (`bgp.ownership`)."""
    return ImportRules(
        own_asn=0,
        own_router_id=IPv4Address(0),
        own_addresses=frozenset(),
        own_prefixes=(),
        accept=tuple(PrefixRange.within(everything) for everything in _ALL),
        owners=PrefixMap({}),
        max_prefixes=_NO_MAXIMUM,
    )
