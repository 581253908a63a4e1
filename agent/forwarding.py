"""From chosen paths to kernel routes: BGP next hops become kernel next hops, choices become routes.

Also the fast way out: when a peer or a next hop dies, whole sets of next hops move at once (prefix-independent
convergence), and the per-prefix decisions follow and find nothing left to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.fib import Fib
from felix.resolver import Resolution, Resolver

from bgp.decision import Choice
from bgp.path import NextHopKey, Path
from bgp.rib import Failover, Rib
from felix.route import NextHop, blackhole, unicast
from inet.prefix import Prefix


class Forwarding:
    """Holds the resolutions in force, and tells the FIB what the RIB wants."""

    def __init__(self, fib: Fib, resolver: Resolver) -> None:
        self._fib = fib
        self._resolver = resolver
        self._resolved: dict[NextHopKey, Resolution] = {}
        self._own: set[Prefix] = set()

    async def resolve(self, keys: Iterable[NextHopKey]) -> dict[NextHopKey, int | None]:
        """Ask the kernel how to reach next hops; returns what changed as interior costs, None for unreachable."""
        costs: dict[NextHopKey, int | None] = {}
        for key in keys:
            resolution = await self._resolver.resolve(key.address, key.interface)
            if self._resolved.get(key) != resolution:
                self._resolved[key] = resolution
                costs[key] = _cost(resolution)
        return costs

    def why_unreachable(self, key: NextHopKey) -> str:
        """Return the kernel's reason, or "" where the next hop is reachable or was never asked about."""
        resolution = self._resolved.get(key)
        return resolution.reason if resolution is not None else ""

    def hops(self, paths: Iterable[Path]) -> tuple[NextHop, ...]:
        """Return the kernel next hops of paths, sorted and without repetition."""
        hops: set[NextHop] = set()
        for key in {path.next_hop for path in paths}:
            if (resolution := self._resolved.get(key)) is not None:
                hops.update(resolution.next_hops)
        return tuple(sorted(hops))

    def install(self, changed: Mapping[Prefix, Choice | None]) -> None:
        """Want the routes of new choices; prefixes with equal choices share the work."""
        hops_of: dict[int, tuple[NextHop, ...]] = {}
        for prefix, choice in changed.items():
            if choice is None:
                self._fib.remove(prefix)
                continue
            hops = hops_of.get(id(choice))
            if hops is None:
                hops = hops_of[id(choice)] = self.hops(choice.multipath)
            if hops:
                self._fib.set(unicast(prefix, hops))
            else:
                self._fib.remove(prefix)

    async def fail_over(self, failovers: Iterable[Failover]) -> None:
        """Leave the paths that died, wherever equals of theirs live on."""
        await self._move([(self.hops(each.before.multipath), self.hops(each.after)) for each in failovers])

    async def follow_kernel(self, rib: Rib) -> None:
        """Resolve every next hop again; move what moves as a whole, then tell the RIB what else changed."""
        keys = rib.next_hops()
        for key in self._resolved.keys() - keys:
            del self._resolved[key]
        in_use = [each.before for each in rib.failover(lambda _: False)]
        before = [self.hops(choice.multipath) for choice in in_use]
        costs = await self.resolve(keys)
        if not costs:
            return
        after = [self.hops(choice.multipath) for choice in in_use]
        await self._move(list(zip(before, after, strict=True)))
        rib.set_reachability(costs)
        touched = {id(choice) for choice in in_use if any(path.next_hop in costs for path in choice.multipath)}
        self.install({prefix: choice for prefix, choice in rib.chosen().items() if id(choice) in touched})

    async def _move(self, moves: Iterable[tuple[tuple[NextHop, ...], tuple[NextHop, ...]]]) -> None:
        """Edit each set of next hops in place if *every* prefix on it ends up on the same other set."""
        outcomes: dict[tuple[NextHop, ...], set[tuple[NextHop, ...]]] = {}
        for before, after in moves:
            outcomes.setdefault(before, set()).add(after)
        for before, afters in outcomes.items():
            if len(afters) == 1 and (after := afters.pop()) and before and after != before:
                await self._fib.move(before, after)

    def set_own(self, prefixes: Iterable[Prefix]) -> None:
        """Drop what goes to our own pod CIDRs and to none of our pods (never a blackhole for a single address)."""
        wanted = {prefix for prefix in prefixes if not prefix.is_host}
        for prefix in self._own - wanted:
            self._fib.remove(prefix)
        for prefix in wanted - self._own:
            self._fib.set(blackhole(prefix))
        self._own = wanted


def _cost(resolution: Resolution) -> int | None:
    if not resolution.next_hops:
        return None
    return 0 if resolution.on_link else 1
