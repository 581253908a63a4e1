from __future__ import annotations

from ipaddress import ip_address

from agent.attention import NEWCOMER_S, SETTLING_S, Attention
from felix.monitor import AddressChanged, ForeignRouteChanged, LinkChanged
from felix.resolver import Doubts
from inet.prefix import Prefix
from policy.nftskeleton import POD_INTERFACE_GROUP

NEW = LinkChanged(7, "veth7", is_up=True, is_new=True)
MARKED = LinkChanged(7, "veth7", is_up=True, group=POD_INTERFACE_GROUP)
POD = Prefix.parse("10.42.0.7/32")
NETWORK = Prefix.parse("10.99.0.0/16")
LINK_LOCAL = Prefix.parse("fe80::/64")


def looked() -> Attention:
    """Return attention after the first look, at everything."""
    attention = Attention()
    attention.doubt_everything(0.0)
    assert attention.take(0.0) == Doubts(everything=True)
    return attention


def taken(attention: Attention, now: float) -> bool:
    return attention.take(now) is not None


def test_without_news_nothing_is_looked_after() -> None:
    attention = looked()
    assert attention.deadline is None
    assert not taken(attention, 1000.0)


def test_a_link_that_changed_is_looked_after_in_a_moment_and_once() -> None:
    attention = looked()
    assert attention.heed(LinkChanged(3, "eth1", is_up=False), 10.0)
    assert not attention.heed(AddressChanged(3), 10.01), "a look is due as it is"
    assert attention.deadline == 10.0 + SETTLING_S
    assert not taken(attention, 10.0)
    assert taken(attention, 10.0 + SETTLING_S)
    assert attention.deadline is None


def test_a_new_link_that_becomes_a_pods_is_never_looked_after() -> None:
    attention = looked()
    assert attention.heed(NEW, 10.0)
    assert not attention.heed(LinkChanged(7, "veth7", is_up=True), 10.2)
    attention.heed(AddressChanged(7), 10.2)
    attention.heed(ForeignRouteChanged(POD, 7), 10.3)
    attention.heed(ForeignRouteChanged(LINK_LOCAL, 7), 10.3)
    assert attention.deadline == 10.0 + NEWCOMER_S
    assert not attention.heed(MARKED, 10.5)
    assert attention.deadline is None


def test_a_new_link_that_does_not_become_a_pods_is_looked_after_all_the_same() -> None:
    attention = looked()
    attention.heed(NEW, 10.0)
    assert not taken(attention, 10.0 + SETTLING_S)
    assert taken(attention, 10.0 + NEWCOMER_S)
    assert attention.deadline is None


def test_what_a_pods_link_does_is_passed_over_until_it_is_gone() -> None:
    attention = looked()
    for event in (
        AddressChanged(7, POD_INTERFACE_GROUP),
        ForeignRouteChanged(POD, 7, POD_INTERFACE_GROUP),
        ForeignRouteChanged(LINK_LOCAL, 7, POD_INTERFACE_GROUP),
        LinkChanged(7, "veth7", is_up=False, group=POD_INTERFACE_GROUP),
    ):
        assert not attention.heed(event, 10.0)
    assert attention.deadline is None


def test_a_route_to_a_network_is_looked_after_at_once_whichever_way_it_leads() -> None:
    for group in (0, POD_INTERFACE_GROUP):
        attention = looked()
        assert attention.heed(ForeignRouteChanged(NETWORK, 7, group), 10.0)
        assert taken(attention, 10.0)


def test_what_is_in_doubt_is_said_once() -> None:
    attention = looked()
    attention.heed(NEW, 10.0)
    attention.heed(LinkChanged(3, "eth1", is_up=True), 10.9, is_urgent=True)
    attention.heed(ForeignRouteChanged(POD), 10.9, is_urgent=True)
    assert attention.take(10.9) == Doubts(links={3}, addresses={ip_address("10.42.0.7")})
    assert attention.take(11.0) == Doubts(links={7})
    attention.heed(ForeignRouteChanged(NETWORK), 12.0)
    assert attention.take(12.0) == Doubts(everything=True)


def test_a_pods_link_that_a_route_of_ours_uses_is_looked_after_at_once() -> None:
    attention = looked()
    assert attention.heed(MARKED, 10.0, is_urgent=True)
    assert attention.take(10.0) == Doubts(links={7})


def test_what_is_urgent_does_not_wait_for_newcomers() -> None:
    attention = looked()
    attention.heed(NEW, 10.0)
    attention.doubt_everything(10.0)
    assert taken(attention, 10.0)
    assert attention.deadline == 10.0 + NEWCOMER_S
