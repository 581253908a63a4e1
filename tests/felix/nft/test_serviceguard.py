"""What refuses service addresses that nobody translates. Beside kube-proxy, with packets: test_beside_kube_proxy.py."""

from __future__ import annotations

import pytest

from felix.nft.elements import Interval
from felix.nft.enforcement import Content
from felix.nft.serviceguard import render
from inet.prefix import Family, Prefix

CIDRS = {Family.IPV4: Prefix.parse("10.43.0.0/16"), Family.IPV6: Prefix.parse("fd43::/112")}
WORDS = {Family.IPV4: ("ip", "service_cidr4"), Family.IPV6: ("ip6", "service_cidr6")}


def test_without_service_cidrs_there_is_nothing_in_the_table() -> None:
    assert render(()) == Content({}, {})


@pytest.mark.parametrize(
    "families", [[Family.IPV4], [Family.IPV6], list(Family)], ids=lambda them: "+".join(each.label for each in them)
)
def test_a_family_is_refused_where_it_has_services_and_only_there(families: list[Family]) -> None:
    content = render(tuple(CIDRS[each] for each in families))
    (text,) = content.chains.values()
    for family, (word, name) in WORDS.items():
        refusal = f"{word} daddr @{name} counter reject with icmpx host-unreachable"
        assert (refusal in text.splitlines()) is (family in families)
        assert (name in content.sets) is (family in families)


def test_each_set_has_its_own_family_s_addresses(family: Family) -> None:
    content = render(tuple(CIDRS.values()))
    cidr = CIDRS[family]
    last = bytes(a | b for a, b in zip(cidr.packed, _host_bits(cidr), strict=True))
    (key,) = content.sets[WORDS[family][1]].elements
    assert isinstance(key, Interval)
    assert (key.first, key.last) == (cidr.packed, last)


def _host_bits(cidr: Prefix) -> bytes:
    size = cidr.family.bits // 8
    return ((1 << cidr.family.bits - cidr.length) - 1).to_bytes(size, "big")


def test_it_comes_behind_kube_proxy_and_established_connections_pass() -> None:
    (text,) = render(tuple(CIDRS.values())).chains.values()
    hook, established, *_ = text.splitlines()
    assert hook == "type filter hook forward priority 10; policy accept;"
    assert established == "ct state established,related accept"
