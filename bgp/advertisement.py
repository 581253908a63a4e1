"""What a node tells each peer: the Adj-RIB-Out (RFC 4271 sections 5.1 and 9.1.3) as a pure function.

A node announces what it originates (its pod CIDRs) to everybody. It passes on what it learned only where it is
made a transit node, and then by the rules of old: never back to where it came from, never from one internal
peer to another (RFC 4271 section 9.2), never against NO_EXPORT or NO_ADVERTISE (RFC 1997).

A node that is being drained says of everything that it is the last choice (RFC 8326 section 4): by the community to
everybody, by local preference 0 inside the AS too. A drained one says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from bgp.config import NextHopMode
from bgp.decision import Choice
from bgp.drain import Stage
from bgp.import_rules import DEFAULT_LOCAL_PREFERENCE, GRACEFUL_SHUTDOWN
from bgp.path import AsPath, Attributes, Origin, Path
from bgp.peering import PlannedSession
from inet.prefix import IPAddress, Prefix

NO_EXPORT: Final = (65535, 65281)
NO_ADVERTISE: Final = (65535, 65282)
_STAY_INSIDE: Final = {NO_EXPORT, (65535, 65283)}  # NO_EXPORT_SUBCONFED is the same without confederations


@dataclass(frozen=True, slots=True)
class Advertiser:
    """Says what one session is sent."""

    planned: PlannedSession
    passes_on: bool  # this node is a transit node
    stage: Stage = Stage.IN_SERVICE  # of this node

    def own(self, prefix: Prefix) -> Attributes | None:
        """Return how a prefix of our own is announced; None where the session cannot carry its family."""
        session = self.planned.session
        next_hop = self.planned.next_hops.get(prefix.family)
        if next_hop is None or prefix.family not in session.families or self.stage is Stage.DRAINED:
            return None
        if session.is_internal:
            return self._staged(Attributes(next_hop, origin=Origin.IGP, local_pref=DEFAULT_LOCAL_PREFERENCE))
        return self._staged(Attributes(next_hop, origin=Origin.IGP, as_path=AsPath((session.local_asn,))))

    def learned(self, prefix: Prefix, best: Path) -> Attributes | None:
        """Return how a learned path is passed on; None where it is not."""
        session, attributes = self.planned.session, best.attributes
        if not self.passes_on or prefix.family not in session.families or best.source.peer == session.peer:
            return None
        if NO_ADVERTISE in attributes.communities or self.stage is Stage.DRAINED:
            return None
        if session.is_internal:
            passed_on = None if best.source.is_internal else self._inwards(prefix, best)
        elif _STAY_INSIDE.isdisjoint(attributes.communities):
            passed_on = self._outwards(prefix, attributes)
        else:
            passed_on = None
        return self._staged(passed_on) if passed_on is not None else None

    def adj_rib_out(self, own: Iterable[Prefix], chosen: Mapping[Prefix, Choice]) -> dict[Prefix, Attributes]:
        """Return everything the session is sent."""
        announced: dict[Prefix, Attributes] = {}
        if self.passes_on:
            for prefix, choice in chosen.items():
                if (attributes := self.learned(prefix, choice.best)) is not None:
                    announced[prefix] = attributes
        for prefix in own:
            if (attributes := self.own(prefix)) is not None:
                announced[prefix] = attributes
        return announced

    def _staged(self, attributes: Attributes) -> Attributes:
        """Return the attributes as the stage has them: while the node is draining, as the last choice."""
        if self.stage is not Stage.DRAINING:
            return attributes
        communities = dict.fromkeys((*attributes.communities, GRACEFUL_SHUTDOWN))
        local_pref = 0 if self.planned.session.is_internal else None
        return replace(attributes, communities=tuple(communities), local_pref=local_pref)

    def _inwards(self, prefix: Prefix, best: Path) -> Attributes | None:
        """Over iBGP a path keeps its next hop and AS path (RFC 4271 sections 5.1.2 and 5.1.3)."""
        is_kept = self.planned.next_hop_mode is not NextHopMode.SELF
        next_hop = self._next_hop(prefix, best.attributes, is_kept=is_kept)
        if next_hop is None:
            return None
        return replace(best.attributes, next_hop=next_hop, next_hop_interface=None, local_pref=best.local_pref)

    def _outwards(self, prefix: Prefix, attributes: Attributes) -> Attributes | None:
        """Over eBGP our AS is prepended; LOCAL_PREF and a neighbour's MED stay behind (sections 5.1.4, 5.1.5)."""
        is_kept = self.planned.next_hop_mode is NextHopMode.UNCHANGED
        next_hop = self._next_hop(prefix, attributes, is_kept=is_kept)
        if next_hop is None:
            return None
        return replace(
            attributes,
            next_hop=next_hop,
            next_hop_interface=None,
            as_path=attributes.as_path.prepend(self.planned.session.local_asn),
            local_pref=None,
            med=None,
            originator_id=None,
            cluster_list=(),
        )

    def _next_hop(self, prefix: Prefix, attributes: Attributes, *, is_kept: bool) -> IPAddress | None:
        """Return the next hop as learned or ourselves; beyond its link a link-local one is of no use (RFC 2545)."""
        if is_kept and not attributes.next_hop.is_link_local:
            return attributes.next_hop
        return self.planned.next_hops.get(prefix.family)
