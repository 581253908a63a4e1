"""Which news of the kernel routing has to look after, when, and what about.

A look lists the node's addresses, however many pods have links; and each pod that comes or goes makes a dozen news.
Nothing that routing goes by hangs on a pod's link: it bears the pods' gateway and leads to the pod. So what such links
do is passed over, and of a link that is new it is awaited whether it becomes one.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from felix.monitor import AddressChanged, ForeignRouteChanged, LinkChanged
from felix.resolver import Doubts, leads_on
from policy.nftskeleton import POD_INTERFACE_GROUP

SETTLING_S: Final = 0.05
"""How long news of links that no route of ours uses may gather."""

NEWCOMER_S: Final = 1.0
"""How long a new link has to become a pod's: its CNI plugins run one after the other, and CPUs may be few."""


class Attention:
    """Takes news in by `heed`, or `doubt_everything`; `take` says that it is time to look, and what is in doubt."""

    def __init__(self) -> None:
        self._doubts = Doubts(everything=True)  # nothing was looked up yet
        self._at: float | None = None
        self._newcomers: dict[int, float] = {}  # by ifindex: until when they may become pods'

    @property
    def deadline(self) -> float | None:
        """When a look is due; None: there is no reason for one."""
        times = [*self._newcomers.values(), *([] if self._at is None else [self._at])]
        return min(times, default=None)

    def doubt_everything(self, now: float) -> None:
        """Have a look taken at once, at everything."""
        self._doubts.everything = True
        self._look_at(now)

    def heed(
        self, event: LinkChanged | AddressChanged | ForeignRouteChanged, now: float, *, is_urgent: bool = False
    ) -> bool:
        """Take news; it is urgent where a route of ours uses the link, or a peer or next hop is what a route leads to.

        Returns whether a look is due earlier than it was.
        """
        before = self.deadline
        if isinstance(event, ForeignRouteChanged) and leads_on(event.destination):
            self.doubt_everything(now)
        elif is_urgent or not self._is_of_a_pods_link(event, now):
            if not isinstance(event, ForeignRouteChanged):
                self._doubts.links.add(event.interface)
            elif event.destination.is_host:
                self._doubts.addresses.add(ip_address(event.destination.packed))
            self._look_at(now if is_urgent else now + SETTLING_S)
        after = self.deadline
        return after is not None and (before is None or after < before)

    def _is_of_a_pods_link(self, event: LinkChanged | AddressChanged | ForeignRouteChanged, now: float) -> bool:
        """Whether news is of a link that is a pod's, or may still become one."""
        if event.group == POD_INTERFACE_GROUP:
            self._newcomers.pop(event.interface, None)
            return True
        if isinstance(event, LinkChanged) and event.is_new:
            self._newcomers[event.interface] = now + NEWCOMER_S
        return event.interface in self._newcomers

    def _look_at(self, due: float) -> None:
        self._at = due if self._at is None else min(self._at, due)

    def take(self, now: float) -> Doubts | None:
        """Return what is in doubt if a look is due: it is taken now."""
        strangers = {interface for interface, until in self._newcomers.items() if now >= until}
        if not strangers and (self._at is None or now < self._at):
            return None
        for interface in strangers:
            del self._newcomers[interface]
        doubts, self._doubts, self._at = self._doubts, Doubts(), None
        doubts.links |= strangers
        return doubts
