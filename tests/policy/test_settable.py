from __future__ import annotations

import pytest

from inet.prefix import Family
from policy.cidr import pack_address
from policy.ir import MemberChange, NamedPorts, cidr_set, named_port_set, node_set, pod_set, port_set
from policy.labelindex import LabelIndex
from policy.objects import NamedPort, Namespace, Node, Pod
from policy.policies import Selection
from policy.selector import EVERYTHING, selector_of_labels
from policy.settable import SetTable

V4 = Family.IPV4
A, B = pack_address("10.0.0.1"), pack_address("10.0.0.2")
PODS = pod_set(V4, Selection("shop", None, EVERYTHING))
RACK_A = node_set(V4, selector_of_labels({"rack": "a"}))
HTTP = named_port_set(V4, NamedPorts(None, "http", 6))


@pytest.fixture
def index() -> LabelIndex:
    index = LabelIndex()
    index.put_namespace(Namespace("shop", {}))
    index.put_pod(Pod("shop", "a", {}, (A,)))
    return index


@pytest.fixture
def table(index: LabelIndex) -> SetTable:
    return SetTable(index)


def test_a_set_is_there_while_somebody_asks_for_it(table: SetTable) -> None:
    table.acquire([PODS])
    table.acquire([PODS])
    assert table.drain().added == (PODS,)
    assert set(table.members[PODS.name]) == {A}
    table.release([PODS])
    assert table.drain() == ((), {}, ())
    table.release([PODS])
    assert table.drain().removed == (PODS,)
    assert not table.members


def test_a_set_let_go_and_asked_for_again_is_not_touched(table: SetTable) -> None:
    table.acquire([PODS])
    table.drain()
    table.release([PODS])
    table.acquire([PODS])
    assert table.drain() == ((), {}, ())
    table.acquire([HTTP])
    table.release([HTTP])
    assert table.drain() == ((), {}, ())


def test_a_set_let_go_hears_no_more(table: SetTable, index: LabelIndex) -> None:
    table.acquire([PODS])
    table.drain()
    index.put_pod(Pod("shop", "b", {}, (B,)))
    table.release([PODS])
    assert table.drain() == ((), {}, (PODS,))
    index.put_pod(Pod("shop", "b", {}, (A,)))
    assert table.drain() == ((), {}, ())


def test_nodes_come_change_and_go(table: SetTable) -> None:
    table.put_node(Node("n1", {"rack": "a"}, (A,)))
    table.acquire([RACK_A])
    table.drain()
    assert set(table.members[RACK_A.name]) == {A}
    table.put_node(Node("n2", {"rack": "a"}, (B,)))
    assert table.drain().changed == {RACK_A.name: MemberChange(frozenset({B}), frozenset())}
    table.put_node(Node("n1", {"rack": "b"}, (A,)))
    assert table.drain().changed == {RACK_A.name: MemberChange(frozenset(), frozenset({A}))}
    table.put_node(Node("n2", {"rack": "a"}, (A,)))
    assert table.drain().changed == {RACK_A.name: MemberChange(frozenset({A}), frozenset({B}))}
    table.remove_node("n2")
    table.remove_node("n2")
    assert table.drain().changed == {RACK_A.name: MemberChange(frozenset(), frozenset({A}))}


def test_named_ports_of_this_nodes_pods(table: SetTable) -> None:
    table.put_local_pod(Pod("shop", "a", {}, (A,), (NamedPort("http", 6, 80),)))
    table.acquire([HTTP])
    table.drain()
    assert set(table.members[HTTP.name]) == {(A, 6, 80)}
    table.put_local_pod(Pod("shop", "a", {}, (A,), (NamedPort("http", 6, 81),)))
    assert table.drain().changed == {HTTP.name: MemberChange(frozenset({(A, 6, 81)}), frozenset({(A, 6, 80)}))}
    table.remove_local_pod("shop/a")
    assert table.drain().changed == {HTTP.name: MemberChange(frozenset(), frozenset({(A, 6, 81)}))}


def test_intervals_are_their_definition(table: SetTable) -> None:
    refs = [cidr_set(V4, ((1, 2),)), port_set(((80, 80), (443, 443)))]
    table.acquire(refs)
    table.drain()
    assert [table.members[ref.name] for ref in refs] == [((1, 2),), ((80, 80), (443, 443))]
    table.release(refs)
    assert table.drain().removed == tuple(refs)
