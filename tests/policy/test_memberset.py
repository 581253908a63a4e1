from __future__ import annotations

from policy.cidr import pack_address
from policy.memberset import MemberSet
from policy.objects import NamedPort

V4, OTHER = pack_address("10.0.0.1"), pack_address("10.0.0.2")
V6 = pack_address("fd00::1")


def test_it_takes_the_addresses_of_its_family_alone() -> None:
    four, six = MemberSet(4, set()), MemberSet(16, set())
    for each in (four, six):
        each.add((V4, V6))
    assert set(four.counts) == {V4}
    assert set(six.counts) == {V6}


def test_a_drain_gives_what_is_left_of_the_changes() -> None:
    members = MemberSet(4, set())
    members.add((V4,))
    members.add((V4,))
    members.add((OTHER,))
    members.remove((OTHER,))
    assert members.drain() == ({V4}, set())
    members.remove((V4,))
    assert members.drain() == (set(), set())
    members.remove((V4,))
    members.add((OTHER,))
    assert members.drain() == ({OTHER}, {V4})
    assert members.drain() == (set(), set())


def test_it_reports_once_that_something_changed() -> None:
    dirty: set[MemberSet] = set()
    members = MemberSet(4, dirty)
    members.add((V6,))
    assert not dirty
    members.add((V4, OTHER))
    assert dirty == {members}
    members.drain()
    assert not dirty


def test_a_port_name_without_protocol_means_all_of_them() -> None:
    ports = (NamedPort("dns", 6, 53), NamedPort("dns", 17, 53), NamedPort("http", 6, 80))
    of_tcp, of_any = MemberSet(4, set(), "dns", 6), MemberSet(4, set(), "dns")
    for each in (of_tcp, of_any):
        each.add((V4,), ports)
    assert set(of_tcp.counts) == {(V4, 6, 53)}
    assert set(of_any.counts) == {(V4, 6, 53), (V4, 17, 53)}
