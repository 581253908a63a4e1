from __future__ import annotations

import pytest

from policy.cidr import pack_address
from policy.nftwalk import Table, Traffic, TransactionError

A, B, C = map(pack_address, ("10.0.0.1", "10.0.0.2", "192.0.2.1"))

TABLE = """\
table inet tortie {
  map from_pod4 {
    type ipv4_addr : verdict
    elements = { 10.0.0.1 comment "shop/a" : jump one, 10.0.0.2 : goto open }
  }
  set few {
    type ipv4_addr; flags interval
    comment "two"
    elements = { 192.0.2.0-192.0.2.127, 198.51.100.1 }
  }
  set named {
    type ipv4_addr . inet_proto . inet_service
    elements = { 10.0.0.2 . udp . 53 }
  }
  chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifgroup 97 goto from
  }
  chain from {
    ip saddr vmap @from_pod4
    counter drop comment "fell off"
  }
  chain open {
    accept
  }
  chain one {
    tcp flags & (fin|syn|rst|ack) != syn ct state new counter reject with tcp reset
    ip daddr @few tcp dport 80-90 counter goto open comment "one"
    ip daddr . meta l4proto . th dport @named counter accept comment "two"
    meta l4proto sctp counter accept
  }
}
"""


@pytest.fixture
def table() -> Table:
    table = Table()
    table.load(TABLE)
    return table


@pytest.mark.parametrize(
    ("packet", "verdict", "last"),
    [
        ((A, C, 6, 80), "accept", "open"),
        ((A, C, 6, 91), "drop", "from"),
        ((A, C, 17, 80), "drop", "from"),
        ((A, pack_address("192.0.2.128"), 6, 80), "drop", "from"),
        ((A, B, 17, 53), "accept", "one"),
        ((A, B, 6, 53), "drop", "from"),
        ((A, B, 132, 9), "accept", "one"),
        ((B, C, 1, None), "accept", "open"),
        ((C, A, 6, 80), "drop", "from"),
    ],
)
def test_a_packet_ends_where_the_text_sends_it(
    table: Table, packet: tuple[bytes, bytes, int, int | None], verdict: str, last: str
) -> None:
    walk = table.walk(Traffic(*packet, is_from_pod=True, is_to_pod=False))
    assert walk.verdict == verdict
    assert walk.path[-1].chain == last


def test_a_packet_that_no_rule_is_about_passes(table: Table) -> None:
    assert table.walk(Traffic(C, A, 6, 80, is_from_pod=False, is_to_pod=False)).verdict == "accept"


def test_the_middle_of_an_unknown_connection_is_reset(table: Table) -> None:
    walk = table.walk(Traffic(A, C, 6, 80, is_from_pod=True, is_to_pod=False, is_first=False))
    assert walk.verdict == "reject"


def test_what_the_node_itself_sends_goes_by_the_output_hook() -> None:
    table = Table()
    table.load(
        "table inet tortie {\n chain o {\n type filter hook output priority filter; policy accept;\n drop\n}\n}\n"
    )
    sent = Traffic(C, A, 6, 80, is_from_pod=False, is_to_pod=True, is_from_node=True)
    assert table.walk(sent).verdict == "drop"
    assert table.walk(sent._replace(is_from_node=False)).verdict == "accept"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("add element inet tortie few { 192.0.2.9 }", "overlaps"),
        ("add element inet tortie from_pod4 { 10.0.0.1 : accept }", "exists"),
        ("add element inet tortie from_pod4 { 10.0.0.9 }", "not an element"),
        ("delete element inet tortie from_pod4 { 10.0.0.9 }", "does not exist"),
        ("delete element inet tortie few { 192.0.2.0-192.0.2.1 }", "ValueError"),
        ("add element inet tortie none { 10.0.0.9 }", "none"),
        ("delete chain inet tortie open", "in use"),
        ("delete chain inet tortie one", "in use"),
        ("delete set inet tortie few", "in use"),
        ("delete set inet tortie none", "none"),
        ("table inet tortie {\n  chain x {\n    goto nowhere\n  }\n}", "no such chain"),
        ("table inet tortie {\n  chain x {\n    ip saddr @none accept\n  }\n}", "no such set"),
        ("table inet tortie {\n  set few {\n    type ipv6_addr\n  }\n}", "another type"),
        ("table inet tortie {\n  chain x {\n  }\n", "StopIteration|no end"),
        ("destroy table inet tortie", "unknown command"),
    ],
)
def test_what_the_kernel_would_refuse_changes_nothing(table: Table, text: str, complaint: str) -> None:
    fresh = Table()
    fresh.load(TABLE)
    with pytest.raises(TransactionError, match=complaint):
        table.load("add element inet tortie few { 203.0.113.1 }\n" + text)
    assert table.sets == fresh.sets
    assert table.chains == fresh.chains


def test_deletions_in_order_are_taken(table: Table) -> None:
    table.load(
        "delete element inet tortie from_pod4 { 10.0.0.1 }\ndelete chain inet tortie one\ndelete set inet tortie few\n"
    )
    assert "one" not in table.chains
    assert "few" not in table.sets


def test_a_word_it_does_not_know_is_no_match(table: Table) -> None:
    table.load("table inet tortie {\n  chain forward {\n    mark 1 accept\n  }\n}\n")
    with pytest.raises(KeyError, match="mark"):
        table.walk(Traffic(C, A, 6, 80, is_from_pod=False, is_to_pod=False))
