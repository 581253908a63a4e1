"""Sets of prefixes by family, as nftables takes them: disjoint."""

from __future__ import annotations

from felix.nft.elements import PLAIN, Interval
from felix.nft.familywords import digit, prefix_set
from inet.prefix import Family, Prefix, parse_address


def prefixes(*texts: str) -> tuple[Prefix, ...]:
    return tuple(map(Prefix.parse, texts))


def interval(first: str, last: str) -> Interval:
    return Interval(parse_address(first).packed, parse_address(last).packed)


MIXED = prefixes("10.0.0.0/24", "fd00::/127", "10.0.2.0/31")


def test_a_set_has_the_prefixes_of_its_family_alone() -> None:
    four, six = (prefix_set(MIXED, family) for family in Family)
    assert four.elements == dict.fromkeys([interval("10.0.0.0", "10.0.0.255"), interval("10.0.2.0", "10.0.2.1")], PLAIN)
    assert six.elements == {interval("fd00::", "fd00::1"): PLAIN}
    assert (four.definition.text, six.definition.text) == (
        "type ipv4_addr; flags interval",
        "type ipv6_addr; flags interval",
    )


def test_what_overlaps_or_touches_becomes_one() -> None:
    found = prefix_set(prefixes("10.0.0.0/24", "10.0.1.0/24", "10.0.0.128/25", "0.0.0.0/32"), Family.IPV4)
    assert found.elements.keys() == {interval("10.0.0.0", "10.0.1.255"), interval("0.0.0.0", "0.0.0.0")}


def test_everything_is_one_interval() -> None:
    found = prefix_set(prefixes("::/0", "fd00::/8"), Family.IPV6)
    assert found.elements.keys() == {interval("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}


def test_the_same_prefixes_are_the_same_set() -> None:
    assert prefix_set(MIXED, Family.IPV4) is prefix_set(tuple(MIXED), Family.IPV4)


def test_names_of_each_family_end_with_its_number(family: Family) -> None:
    assert digit(family) == (4 if family is Family.IPV4 else 6)
