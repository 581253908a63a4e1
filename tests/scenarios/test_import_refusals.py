"""Routers that say what they should not: none of it is used, and `tortie routes available` says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

import pytest

from agent.lab.kernelroutes import kernel_routes
from agent.lab.lab import Lab
from agent.lab.topology import Announcement
from agent.lab.wait import eventually
from agent.report import AvailableRoute, FamilyCounts, PeerReport
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.scenes import DAEMONS, ROUTERS
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(ROUTERS)]
every_daemon = pytest.mark.parametrize("daemon", DAEMONS)


class Lie(NamedTuple):
    """An announcement for each family, and what is said of it. `{us}` is the node's address."""

    prefixes: tuple[str, str]
    reason: str
    as_path: tuple[int, ...] = ()
    next_hop_is_ours: bool = False


LIES: Final = (
    Lie(("10.42.0.0/24", "fd42::/64"), "belongs to this node"),
    Lie(("10.42.0.128/25", "fd42::8000:0:0:0/65"), "belongs to this node"),
    Lie(("0.0.0.0/0", "::/0"), "is a default route, which import.accept does not name"),
    Lie(("203.0.113.0/24", "fd99::/64"), "is outside the cluster's pod and service CIDRs and import.accept"),
    Lie(("198.18.100.0/24", "2001:db8:100::/48"), "has our own AS 65000 in its AS path", as_path=(65000,)),
    Lie(("198.18.101.0/24", "2001:db8:101::/48"), "has this node as its next hop, {us}", next_hop_is_ours=True),
)


def is_over(prefix: str, echo: Sequence[AvailableRoute], found: Sequence[AvailableRoute]) -> bool:
    """Whether only that is left of a lie which the router has from us: as before, or passed back since."""
    is_passed_back = prefix in LIES[0].prefixes and all(path.as_path[1:] == [65000] for path in found)
    return list(found) == list(echo) or is_passed_back


@every_daemon
async def test_what_a_router_must_not_say_is_refused_with_the_reason(net: Lab, family: Family, daemon: str) -> None:
    router, us = f"ext-{daemon}", net.address("n1", family, towards=f"ext-{daemon}")
    peer = str(net.address(router, family))
    before = await nodes.peers(net, "n1")
    # BIRD says its own next hop whatever it is told.
    lies = {
        lie.prefixes[list(Family).index(family)]: lie for lie in LIES if not (lie.next_hop_is_ours and daemon == "bird")
    }
    # Some routers pass back to us what they have from us.
    echoes = {prefix: await heard_from(net, peer, prefix) for prefix in lies}
    for prefix, lie in lies.items():
        hop = us if lie.next_hop_is_ours else None
        await net.announce(
            router, Announcement.model_validate({"prefix": prefix, "asPath": lie.as_path, "nextHop": hop})
        )

    for prefix, lie in lies.items():
        what = f"{prefix} from {router} refused, since it {lie.reason.format(us=us)}"
        found = await eventually(
            partial(heard_from, net, peer, prefix), partial(says, lie.reason.format(us=us)), what=what
        )
        assert not any(path.used for path in found)
    shown = await nodes.tortie(net, "n1", "routes", "available")
    assert all(f"refused: {prefix} {lie.reason.format(us=us)}" in shown for prefix, lie in lies.items())
    assert "refused (tortie routes available)" in await nodes.tortie(net, "n1", "peers")
    assert not lies.keys() & {it.prefix for it in await nodes.own_routes(net, "n1") if it.ways}
    assert {it.peer: it.since for it in (await nodes.peers(net, "n1")).values()} == {
        it.peer: it.since for it in before.values()
    }

    for prefix in lies:
        await net.withdraw(router, prefix)
        await eventually(partial(heard_from, net, peer, prefix), partial(is_over, prefix, echoes[prefix]))


async def heard_from(lab: Lab, peer: str, prefix: str) -> list[AvailableRoute]:
    """Return the paths of a prefix from one peer."""
    return [path for path in await nodes.available(lab, "n1", prefix) if path.peer == peer]


def says(reason: str, paths: Sequence[AvailableRoute]) -> bool:
    """Whether a path, the only one, is refused for this reason."""
    return [reason in path.note for path in paths] == [True]


@pytest.mark.parametrize("daemon", DAEMONS[:2])
async def test_prefixes_beyond_the_maximum_are_counted_and_left_out(
    net: Lab, apply: Apply, family: Family, daemon: str
) -> None:
    router, maximum = f"ext-{daemon}", 3
    extra = [f"198.18.{n}.0/24" if family is Family.IPV4 else f"2001:db8:{n}::/48" for n in range(110, 115)]
    name, peer = f"{router}-{family.label.lower()}", str(net.address(router, family))
    before = await nodes.peers(net, "n1")

    apply(net, f"{name}.yaml", ROUTERS.variant(name, shutdown={}))
    await eventually(partial(nodes.peers, net, "n1"), lambda now: now[peer].state == "Idle")
    for prefix in extra:
        await net.announce(router, prefix)
    apply(net, f"{name}.yaml", ROUTERS.variant(name, **{"import": {"maxPrefixes": maximum}}))

    def counts(reports: Mapping[str, PeerReport]) -> FamilyCounts:
        return next(it for it in reports[peer].families if it.family == family.label)

    own = 1
    after = await eventually(
        partial(nodes.peers, net, "n1"), lambda now: counts(now).discarded >= len(extra) + own - maximum
    )
    assert counts(after).received == maximum
    assert "beyond the maximum" in await nodes.tortie(net, "n1", "peers")
    routes = await kernel_routes(net, "n1")
    assert len([route for route in routes if peer in {way.gateway for way in route.ways}]) <= maximum
    untouched = before.keys() - {peer}
    assert {it: after[it].since for it in untouched} == {it: before[it].since for it in untouched}
    for prefix in extra:
        await net.withdraw(router, prefix)
