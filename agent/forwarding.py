"""From chosen paths to kernel routes: BGP next hops become kernel next hops, choices become routes.

Also the fast way out: when a peer or a next hop dies, whole sets of next hops move at once (prefix-independent
convergence), and the per-prefix decisions follow and find nothing left to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent.carrier import Carrier
from bgp.decision import Choice
from bgp.path import NextHopKey, Path
from bgp.peering import Complaint
from bgp.rib import Failover, Rib
from felix.fib import Fib
from felix.resolver import EVERYTHING, Doubts, Resolution, Target
from felix.route import NextHop, blackhole, unicast
from inet.prefix import Prefix

_NONE: Final[Mapping[Target, Resolution]] = {}

NOT_RESILIENT: Final = Complaint(
    kind="BGPConfiguration",
    name="default",
    field="spec.resilientMultipath",
    reason="this kernel has no resilient nexthop groups, which came with Linux 5.13",
    consequence="Flows may change their path when another one comes.",
)


class Forwarding:
    """Tells the FIB what the RIB wants, by the resolutions in force."""

    def __init__(self, fib: Fib, resolver: Carrier) -> None:
        self._fib = fib
        self._resolver = resolver
        self._watched: set[NextHopKey] = set()
        self._own: set[Prefix] = set()

    def resolve(self, keys: Iterable[NextHopKey]) -> dict[NextHopKey, int | None]:
        """Return the interior cost of next hops, None for an unreachable one, and watch them from now on."""
        costs: dict[NextHopKey, int | None] = {}
        for key in keys:
            self._watched.add(key)
            costs[key] = _cost(self._resolver.resolve(*key))
        return costs

    def why_unreachable(self, key: NextHopKey) -> str:
        """Return the kernel's reason, "" where the next hop is reachable."""
        return self._resolver.resolve(*key).reason

    def hops(self, paths: Iterable[Path], former: Mapping[Target, Resolution] = _NONE) -> tuple[NextHop, ...]:
        """Return the kernel next hops of paths, sorted and without repetition; by `former` resolutions where given."""
        hops: set[NextHop] = set()
        for key in {path.next_hop for path in paths}:
            hops.update((former.get(key) or self._resolver.resolve(*key)).next_hops)
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

    async def follow_kernel(self, rib: Rib, doubts: Doubts = EVERYTHING) -> None:
        """Resolve next hops in doubt again; move what moves as a whole, then tell the RIB what else changed."""
        if doubts.everything:
            self._forget_all_but(rib.next_hops())
        changed = await self._resolver.refresh(doubts)
        if not changed:
            return
        in_use = [each.before for each in rib.failover(lambda _: False)]
        before = [self.hops(choice.multipath, changed) for choice in in_use]
        after = [self.hops(choice.multipath) for choice in in_use]
        await self._move(list(zip(before, after, strict=True)))
        costs = self.resolve(key for key in self._watched if key in changed)
        rib.set_reachability(costs)
        touched = {id(choice) for choice in in_use if any(path.next_hop in costs for path in choice.multipath)}
        self.install({prefix: choice for prefix, choice in rib.chosen().items() if id(choice) in touched})

    def follow_carrier(self, rib: Rib) -> None:
        """Move what the carrier carries in another way: destinations one by one, since each has a tunnel of its own."""
        changed = self._resolver.recarry()
        if not changed:
            return
        costs = self.resolve(key for key in map(NextHopKey._make, changed) if key in self._watched)
        rib.set_reachability(costs)
        touched = {
            prefix: choice
            for prefix, choice in rib.chosen().items()
            if any(path.next_hop in costs for path in choice.multipath)
        }
        self.install(touched)

    def _forget_all_but(self, keys: set[NextHopKey]) -> None:
        for key in self._watched - keys:
            self._resolver.forget(*key)
        self._watched &= keys

    async def _move(self, moves: Iterable[tuple[tuple[NextHop, ...], tuple[NextHop, ...]]]) -> None:
        """Edit each set of next hops in place if *every* prefix on it ends up on the same other set."""
        outcomes: dict[tuple[NextHop, ...], set[tuple[NextHop, ...]]] = {}
        for before, after in moves:
            outcomes.setdefault(before, set()).add(after)
        for before, afters in outcomes.items():
            if len(afters) == 1 and (after := afters.pop()) and before and after != before:
                await self._fib.move(before, after)

    async def choose_resilient(self, *, wanted: bool) -> bool:
        """Have flows stay on their next hops when others come; return False where the kernel has no such thing."""
        return await self._fib.choose_resilient(wanted=wanted)

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
    if resolution.tunnel_cost:
        return resolution.tunnel_cost
    return 0 if resolution.is_on_link else 1
