"""What texts make of chains and sets. That a kernel makes the same of them: test_kerneltable.py."""

from __future__ import annotations

import pytest

from felix.nft.table import DYNAMIC, INTERVAL, MAP, TIMEOUT, SetText
from felix.nft.texts import chain_header, header_of, set_header, shape_of


@pytest.mark.parametrize(
    ("priority", "number"),
    [
        ("raw", -300),
        ("-310", -310),
        ("filter", 0),
        ("srcnat + 10", 110),
        ("dstnat - 5", -105),
        ("0", 0),
        ("mangle", -150),
    ],
)
def test_a_priority_is_a_name_a_number_or_both(priority: str, number: int) -> None:
    text = f"type filter hook forward priority {priority}; policy accept;\ncounter drop"
    assert header_of(text) == chain_header("filter", 2, number, 1, "")


@pytest.mark.parametrize(("policy", "number"), [("", 1), (" policy drop;", 0), (" policy accept;", 1)])
def test_a_base_chain_without_a_policy_accepts(policy: str, number: int) -> None:
    assert header_of(f"type nat hook postrouting priority srcnat;{policy}") == chain_header("nat", 4, 100, number, "")


def test_a_chain_without_a_hook_differs_by_its_comment_alone() -> None:
    assert header_of('comment "x/a"\ncounter drop') == chain_header("", 0, 0, 0, "x/a")
    assert header_of('ip saddr @a counter drop comment "of a rule"') == chain_header("", 0, 0, 0, "")


def test_a_set_is_known_by_the_type_of_its_keys() -> None:
    shape = shape_of(SetText("type ipv4_addr; flags interval"))
    assert (shape.flags, shape.header) == (INTERVAL, set_header(7, 0, 0, ""))


def test_a_concatenation_has_six_bits_for_each_field() -> None:
    shape = shape_of(SetText('type ipv6_addr . inet_proto . inet_service;\ncomment "named port"'))
    assert (shape.flags, shape.header) == (0, set_header((8 << 12) | (12 << 6) | 13, 0, 0, "named port"))


def test_a_map_has_verdicts() -> None:
    shape = shape_of(SetText("type ipv4_addr : verdict", is_map=True))
    assert (shape.flags, shape.header) == (MAP, set_header(7, 0xFFFFFF00, 0, ""))


def test_elements_that_rules_add_live_for_a_time() -> None:
    shape = shape_of(SetText("type iface_index . ipv4_addr; flags dynamic,timeout; timeout 10s; size 65535"))
    assert (shape.flags, shape.header) == (DYNAMIC | TIMEOUT, set_header(20 << 6 | 7, 0, 10_000, ""))
    assert shape.is_dynamic
