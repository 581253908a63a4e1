"""What each peer is told, kept equal to what it should be told: the Adj-RIBs-Out, and requests to peers.

What should be told is `bgp.advertisement`'s to say; here it is compared with what was told in the present session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from agent.peers import Peer
from bgp.advertisement import Advertiser
from bgp.drain import Stage
from bgp.path import Attributes
from bgp.rib import Rib
from bgp.speaker import Speaker
from inet.prefix import Prefix

ASK_AGAIN_INTERVAL_S: Final = 60.0
"""How often at most a peer is asked to say everything again."""


class Announcer:
    """Tells peers. Its user says what the node originates, whether it passes on, and when its own RIB is complete."""

    def __init__(self, speaker: Speaker, rib: Rib) -> None:
        self.own: tuple[Prefix, ...] = ()
        self.is_transit = False
        self.stage = Stage.IN_SERVICE  # of being drained
        self.is_complete = False  # every peer was heard since the start: a transit node may pass on and finish
        self._speaker = speaker
        self._rib = rib

    def advertise(self, peer: Peer) -> None:
        """Bring the Adj-RIB-Out of an established session to what it should be."""
        if peer.established is None:
            return
        wanted = self._advertiser(peer).adj_rib_out(self.own, self._rib.chosen())
        for prefix in peer.announced.keys() - wanted.keys():
            self._say(peer, prefix, None)
        for prefix, attributes in wanted.items():
            self._say(peer, prefix, attributes)

    def pass_on(self, peers: Iterable[Peer], prefixes: Collection[Prefix]) -> None:
        """Tell the peers of a transit node about changed choices."""
        if not (self.is_transit and self.is_complete):
            return
        chosen = self._rib.chosen()
        for peer in peers:
            if peer.established is None:
                continue
            advertiser = self._advertiser(peer)
            for prefix in prefixes:
                choice = chosen.get(prefix)
                self._say(peer, prefix, advertiser.learned(prefix, choice.best) if choice else None)

    def finish(self, peer: Peer) -> None:
        """Send End-of-RIB: at once, or for a transit node when its own RIB is complete (RFC 4724 section 4.1)."""
        if peer.established is None or (self.is_transit and not self.is_complete):
            return
        for family in sorted(peer.owes_end_of_rib):
            self._speaker.end_of_rib(peer.planned.session.peer, family)
        peer.owes_end_of_rib.clear()

    def ask_again(self, peer: Peer, now: float) -> None:
        """Have a peer that once exceeded its maximum say everything again, now that there is room."""
        key = peer.planned.session.peer
        entry = self._rib.peers().get(key)
        if peer.established is None or entry is None or now < peer.ask_again_at:
            return
        for family in peer.established.families:
            if entry.overflow[family] and entry.fresh[family] < entry.rules.max_prefixes:
                entry.overflow[family] = 0
                peer.ask_again_at = now + ASK_AGAIN_INTERVAL_S
                self._speaker.refresh(key, family)

    def _advertiser(self, peer: Peer) -> Advertiser:
        return Advertiser(peer.planned, passes_on=self.is_transit and self.is_complete, stage=self.stage)

    def _say(self, peer: Peer, prefix: Prefix, attributes: Attributes | None) -> None:
        if peer.established is None or prefix.family not in peer.established.families:
            return
        key = peer.planned.session.peer
        if attributes is None:
            if peer.announced.pop(prefix, None) is not None:
                self._speaker.withdraw(key, prefix)
        elif peer.announced.get(prefix) != attributes:
            peer.announced[prefix] = attributes
            self._speaker.announce(key, prefix, attributes)
