from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.clusterreport import NodeReport
from agent.doctor import Level
from agent.doctor.pathmtu import Tried, gather_paths, judge_paths, others
from felix.pathmtu import PathMtu
from felix.pathmtu import Tried as Size
from tests.agent.doctor.patients import cluster, patient
from tests.felix.netns import Node

FAR = ip_address("172.16.1.12")
FINE = Tried("n2", 1500, PathMtu(FAR, 1500, [Size(576, passed=True), Size(1500, passed=True)]))
NARROW = Tried(
    "n2",
    1500,
    PathMtu(FAR, 1400, [Size(576, passed=True), Size(1500, passed=False, reason="no answer"), Size(1400, passed=True)]),
)
SILENT = Tried("n2", 1500, PathMtu(FAR, None, [Size(576, passed=False, reason="no answer")]))


def test_ways_that_take_what_their_links_do_are_counted() -> None:
    (finding,) = judge_paths([FINE, FINE])
    assert (finding.level, finding.text) == (
        Level.OK,
        "2 ways to other nodes take packets as large as their links do (IPv4)",
    )
    assert list(judge_paths([])) == []


def test_a_narrow_way_is_said_with_the_sizes_tried() -> None:
    (finding,) = judge_paths([FINE, NARROW])
    assert finding.level is Level.FAIL
    assert finding.text == (
        "packets of more than 1400 bytes do not get to n2 (172.16.1.12), where links take 1500: no answer "
        "(tried 576 ok, 1400 ok, 1500 lost)"
    )
    assert "at most 1400" in finding.advice


def test_nodes_that_do_not_answer_are_no_proof_of_anything() -> None:
    unknown, well = judge_paths([SILENT, FINE])
    assert (unknown.level, well.level) == (Level.UNKNOWN, Level.OK)


def test_each_node_of_a_large_cluster_is_tried_by_somebody() -> None:
    nodes = [NodeReport(f"n{number:03}", (), ()) for number in range(100)]
    tried = {each.name for node in nodes for each in others(cluster(*nodes, node=node.name))}
    assert tried == {node.name for node in nodes}
    last = others(cluster(*nodes, node="n099"))
    assert [each.name for each in last[:2]] == ["n000", "n001"]
    assert len(last) == 16


@pytest.mark.kernel
async def test_a_way_that_loses_large_packets_without_a_word_is_found(node: Node) -> None:
    other = NodeReport("n2", (), ("10.0.0.2", "fd00:1::2"))
    node.peer_ip("addr add 10.0.0.2/24 dev b0")
    node.peer_ip("addr add fd00:1::2/64 dev b0 nodad")
    looked_at = patient(cluster(NodeReport("n1", (), ()), other))
    assert [each.path.mtu for each in await gather_paths(looked_at)] == [1500, 1500]
    node.peer_ip("link set b0 mtu 1396")  # a veth drops what is larger than its other end takes, and a VLAN tag
    found = await gather_paths(looked_at)
    assert [(each.expected, each.path.mtu) for each in found] == [(1500, 1400), (1500, 1400)]
    assert [each.level for each in judge_paths(found)] == [Level.FAIL, Level.FAIL]
