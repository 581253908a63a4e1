"""What a node believes from a peer (RFC 8212: nothing without a rule).

The rules of one session: prefixes inside the cluster's own ranges or the allow-list, never our own pod CIDRs,
never a default route unless asked for, never a path through ourselves; and from another node only what its
Node object owns. Each refusal is what people read after the prefix ("10.42.1.0/24 belongs to Node n4, not n7");
None means accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from bgp.path import Attributes, Path, Source
from inet.prefix import IPAddress, Prefix
from inet.prefix_map import PrefixMap

DEFAULT_LOCAL_PREFERENCE: Final = 100
GRACEFUL_SHUTDOWN: Final = (65535, 0)
"""Community that asks for local preference 0 (RFC 8326 section 4)."""


@dataclass(frozen=True, slots=True)
class PrefixRange:
    """Prefixes inside `prefix` whose length is from `min_length` to `max_length`."""

    prefix: Prefix
    min_length: int
    max_length: int

    @classmethod
    def within(cls, prefix: Prefix) -> PrefixRange:
        """Return the range of everything inside a prefix, itself included."""
        return cls(prefix, prefix.length, prefix.family.bits)

    def matches(self, prefix: Prefix) -> bool:
        """Whether the prefix is one of the range."""
        return self.min_length <= prefix.length <= self.max_length and self.prefix.contains(prefix)


@dataclass(frozen=True, slots=True)
class ImportRules:
    """One session's rules. Equal rules judge equally: a change of rules is a change of value."""

    own_asn: int
    own_router_id: IPv4Address
    own_addresses: frozenset[IPAddress]
    own_prefixes: tuple[Prefix, ...]  # never accepted, nor anything inside them
    accept: tuple[PrefixRange, ...]  # the cluster's ranges, or a node's own, and the allow-list
    owners: PrefixMap[str] = field(hash=False)  # pod CIDR -> the node whose Node object has it
    accepts_pod_cidrs: bool = False  # whatever `owners` has is inside the cluster: no podCIDRs are configured
    peer_node: str | None = None  # the node on the other side, if it speaks only for itself
    allow_own_asn: int = 0  # how often our AS may stand in a path anyway
    max_prefixes: int = 10000  # received, for each family

    def local_preference(self, source: Source, attributes: Attributes) -> int:
        """Return the degree of preference of a path (RFC 4271 sections 5.1.5 and 9.1.1, RFC 8326 section 4)."""
        if GRACEFUL_SHUTDOWN in attributes.communities:
            return 0
        if source.is_internal and attributes.local_pref is not None:
            return attributes.local_pref
        return DEFAULT_LOCAL_PREFERENCE

    def refuse_path(self, path: Path) -> str | None:
        """Judge what does not depend on the prefix (RFC 4271 sections 5.1.3 and 9.1.2, RFC 4456 section 8)."""
        attributes = path.attributes
        if attributes.next_hop in self.own_addresses:
            return f"has this node as its next hop, {attributes.next_hop}"
        if attributes.originator_id == self.own_router_id:
            return f"has this node as its originator, {attributes.originator_id}"
        if attributes.as_path.count(self.own_asn) > max(self.allow_own_asn, 1):
            return f"has our own AS {self.own_asn} in its AS path {attributes.as_path}"
        return None

    def has_own_asn(self, path: Path) -> bool:
        """Whether our own AS stands in the path more often than the session allows outright."""
        return path.attributes.as_path.count(self.own_asn) > self.allow_own_asn

    def refuse_prefix(self, prefix: Prefix, *, own_asn_in_path: bool) -> str | None:
        """Judge one prefix of a path that `refuse_path` let pass."""
        if any(own.contains(prefix) for own in self.own_prefixes):
            return "belongs to this node"
        if not self._is_inside(prefix):
            return self._why_outside(prefix)
        if own_asn_in_path and self.owners.covering(prefix) is None:
            # Nodes of one rack share an AS and hear of each other through their router: that, and no more.
            return f"has our own AS {self.own_asn} in its AS path, and no other Node owns it"
        return None

    def _is_inside(self, prefix: Prefix) -> bool:
        if any(accepted.matches(prefix) for accepted in self.accept):
            return True
        return self.accepts_pod_cidrs and self.owners.covering(prefix) is not None

    def _why_outside(self, prefix: Prefix) -> str:
        if prefix.is_default:
            return "is a default route, which import.accept does not name"
        if self.peer_node is not None:
            owner = self.owners.covering(prefix)
            return (
                f"belongs to Node {owner}, not {self.peer_node}"
                if owner
                else f"is no pod CIDR of Node {self.peer_node}"
            )
        return "is outside the cluster's pod and service CIDRs and import.accept"


def ranges_within(prefixes: Iterable[Prefix]) -> tuple[PrefixRange, ...]:
    """Return the ranges of everything inside any of the prefixes, a default route never among them."""
    return tuple(PrefixRange.within(prefix) for prefix in prefixes if not prefix.is_default)
