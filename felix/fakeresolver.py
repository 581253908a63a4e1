"""A resolver in memory: every address is on one link, unless a test says otherwise."""

from __future__ import annotations

from felix.resolver import EVERYTHING, Doubts, Resolution, Target
from felix.route import NextHop
from inet.prefix import IPAddress


class FakeResolver:
    """See `felix.resolver.Resolver`. Give `answers`, `sources` and `addresses` what the kernel would say."""

    def __init__(self, *, interface: int = 1) -> None:
        self.answers: dict[Target, Resolution] = {}
        self.sources: dict[Target, IPAddress | None] = {}
        self.addresses: set[IPAddress] = set()
        self._interface = interface  # ifindex that everything else is behind
        self._known: dict[Target, Resolution] = {}

    def resolve(self, address: IPAddress, interface: str | None = None) -> Resolution:
        """Return how an address is reached, as it was when first asked or last refreshed."""
        return self._known.setdefault((address, interface), self._look_up((address, interface)))

    async def refresh(self, doubts: Doubts = EVERYTHING) -> dict[Target, Resolution]:  # noqa: ARG002 - all is looked at
        """Look everything up again that was resolved before; return how that which changed was reached before."""
        former = {target: known for target, known in self._known.items() if self._look_up(target) != known}
        for target in former:
            self._known[target] = self._look_up(target)
        return former

    def forget(self, address: IPAddress, interface: str | None = None) -> None:
        """Look an address no more up in `refresh`."""
        self._known.pop((address, interface), None)

    def source(self, address: IPAddress, interface: str | None = None) -> IPAddress | None:
        """Return the address that packets to an address bear."""
        return self.sources.get((address, interface))

    async def own_addresses(self) -> frozenset[IPAddress]:
        """Return the addresses of this node."""
        return frozenset(self.addresses)

    def _look_up(self, target: Target) -> Resolution:
        address, _ = target
        if target in self.answers:
            return self.answers[target]
        if address in self.addresses:
            return Resolution((), is_on_link=False, reason="it is an address of this node")
        return Resolution((NextHop(address.packed, self._interface),), is_on_link=True)
