"""From paths to next hops; what becomes of them on the whole loop is in test_routing.py."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest

from agent.forwarding import Forwarding
from bgp.decision import Choice
from bgp.path import Attributes, Path, Source
from bgp.rib import Failover, Rib
from felix.fakeresolver import FakeResolver
from felix.faketable import FakeRouteTable
from felix.fib import Fib
from felix.resolver import Resolution
from felix.route import NextHop, unicast
from inet.prefix import Family, IPAddress, Prefix, parse_address

P = Prefix.parse("10.42.7.0/24")


def host(number: int) -> IPAddress:
    return parse_address(f"192.168.0.{number}")


def hop(number: int) -> NextHop:
    return NextHop(host(number).packed, 1)


def path(number: int) -> Path:
    source = Source(host(number), 65100, is_internal=False, router_id=IPv4Address(number))
    return Path(source, Attributes(next_hop=host(number)), 100)


def choice(paths: Sequence[Path]) -> Choice:
    return Choice(paths[0], tuple(paths), "", {})


class Moves(Fib):
    """Notes moves."""

    def __init__(self) -> None:
        super().__init__(FakeRouteTable())
        self.moves: list[tuple[tuple[NextHop, ...], tuple[NextHop, ...]]] = []

    async def move(self, old: tuple[NextHop, ...], new: tuple[NextHop, ...]) -> None:
        self.moves.append((old, new))


@pytest.fixture
def fib() -> Moves:
    return Moves()


@pytest.fixture
def resolver() -> FakeResolver:
    return FakeResolver()


@pytest.fixture
def forwarding(fib: Moves, resolver: FakeResolver) -> Forwarding:
    return Forwarding(fib, resolver)


def test_two_paths_over_one_next_hop_are_one_way(forwarding: Forwarding) -> None:
    assert forwarding.hops([path(2), path(1), path(2)]) == (hop(1), hop(2))


def test_a_next_hop_on_the_link_costs_less_than_one_behind_a_router(
    forwarding: Forwarding, resolver: FakeResolver
) -> None:
    resolver.answers[host(2), None] = Resolution((hop(9),), is_on_link=False)
    resolver.answers[host(3), None] = Resolution((), is_on_link=False, reason="no")
    keys = [path(number).next_hop for number in (1, 2, 3)]
    assert list(forwarding.resolve(keys).values()) == [0, 1, None]


async def test_a_set_is_moved_only_if_all_that_is_on_it_goes_the_same_way(forwarding: Forwarding, fib: Moves) -> None:
    one, two, three = path(1), path(2), path(3)
    again = path(1)  # the same next hop by another word
    await forwarding.fail_over(
        [
            Failover(choice([one, two]), (two,)),
            Failover(choice([again, two]), (again, two)),
            Failover(choice([one, three]), (three,)),
            Failover(choice([three]), (three,)),
        ]
    )
    assert fib.moves == [((hop(1), hop(3)), (hop(3),))]


async def test_a_set_of_which_nothing_is_left_is_not_moved(forwarding: Forwarding, fib: Moves) -> None:
    await forwarding.fail_over([Failover(choice([path(1)]), ())])
    assert fib.moves == []


async def test_another_gateway_moves_the_set_and_is_wanted_for_its_prefixes(
    forwarding: Forwarding, fib: Moves, resolver: FakeResolver
) -> None:
    rib = Rib()
    only = path(1)
    forwarding.resolve([only.next_hop])
    rib._chosen[P] = choice([only])
    rib.next_hops = lambda: {only.next_hop}
    forwarding.install({P: choice([only])})
    resolver.answers[host(1), None] = Resolution((hop(9),), is_on_link=False)
    await forwarding.follow_kernel(rib)
    assert fib.moves == [((hop(1),), (hop(9),))]
    assert fib._routes.desired[P].wanted == unicast(P, [hop(9)]).next_hops


@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
async def test_own_prefixes_are_dropped_below_the_pods_but_never_a_single_address(family: Family) -> None:
    table = FakeRouteTable()
    fib = Fib(table)
    forwarding = Forwarding(fib, FakeResolver())
    cidr = Prefix.parse("10.42.0.0/24" if family is Family.IPV4 else "fd42::/64")
    forwarding.set_own([cidr, Prefix(cidr.packed, family.bits)])
    await fib.apply()
    assert table.routes.keys() == {cidr}
    forwarding.set_own([])
    await fib.apply()
    assert table.routes == {}
