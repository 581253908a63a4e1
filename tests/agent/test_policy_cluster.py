from __future__ import annotations

from pathlib import Path

import pytest

from agent.datastore.directory import read_directory
from agent.policy_cluster import PolicyCluster, QuestionError, UnknownEndError, parse_port, policies_of
from inet.prefix import Family
from policy.cidr import address_text
from policy.explain import combine
from tests.agent.policy_world import manifest

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"


@pytest.fixture(scope="module")
def cluster() -> PolicyCluster:
    return PolicyCluster(read_directory(EXAMPLES)[0])


@pytest.mark.parametrize(
    ("text", "read"), [("5432/TCP", (5432, 6)), ("53/udp", (53, 17)), ("80", (80, 6)), ("9/SCTP", (9, 132))]
)
def test_ports(text: str, read: tuple[int, int]) -> None:
    assert parse_port(text) == read


@pytest.mark.parametrize("text", ["", "TCP", "0/TCP", "65536", "80/ICMP", "-1/TCP", "80/TCP/x"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(QuestionError, match="is not PORT/PROTOCOL"):
        parse_port(text)


def test_ends_are_found_by_every_name(cluster: PolicyCluster) -> None:
    pod = cluster.place("shop/db")
    address = pod.address(Family.IPV4)
    assert address is not None
    text = ".".join(map(str, address))
    assert cluster.place("db") == pod
    assert cluster.place(text).node == cluster.place(f"ip:{text}").node == pod.node
    assert cluster.place(f"node:{pod.node}") == cluster.place(pod.node)
    assert cluster.place("192.0.2.77").node == ""


def test_an_end_may_be_addresses_of_both_families_and_brackets_are_none_of_it(cluster: PolicyCluster) -> None:
    db = cluster.place("shop/db")
    v4, v6 = (address_text(db.address(family) or b"") for family in Family)
    assert cluster.place(f"{v4},{v6}") == cluster.place(f"ip:{v4},[{v6}]")
    assert {*cluster.place(f"{v4},{v6}").addresses} == {*db.addresses}
    assert cluster.place(f"[{v6}]").node == db.node


@pytest.mark.parametrize(("whole", "node"), [(None, "n2"), ({"n2"}, "n2"), ({"n1"}, "")])
def test_a_pod_address_that_no_pod_has_is_of_its_node_where_all_pods_of_that_are_known(
    whole: set[str] | None, node: str
) -> None:
    cluster = PolicyCluster(read_directory(EXAMPLES)[0], whole)
    assert cluster.place("10.42.1.77").node == cluster.place("fd42:0:0:1::77").node == node


@pytest.mark.parametrize("text", ["shop/ghost", "ghost", "10.0.0.1,ghost", "[10.0.0.1", ""])
def test_who_is_not_known_here_may_be_elsewhere(cluster: PolicyCluster, text: str) -> None:
    with pytest.raises(UnknownEndError):
        cluster.place(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("shop/ghost", "there is no pod shop/ghost"),
        ("ghost", "there is no pod or node ghost, and it is no address"),
        ("node:ghost", "there is no Node ghost: "),
        ("x/twin", ""),
    ],
)
def test_ends_that_are_not_there_are_named(cluster: PolicyCluster, text: str, complaint: str) -> None:
    with pytest.raises(QuestionError, match=f"^{complaint}"):
        cluster.place(text)


def pod(name: str, space: str = "x", phase: str = "Running", node: str = "n1", ip: str = "10.0.0.9") -> object:
    status = {"phase": phase, "podIPs": [{"ip": ip}] if ip else []}
    return manifest("Pod", name, space, spec={"nodeName": node} if node else {}, status=status)


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        (pod("p", phase="Succeeded"), "pod x/p has completed"),
        (pod("p", node=""), "pod x/p is on no node yet"),
        (pod("p", ip=""), "pod x/p has no address yet"),
    ],
)
def test_a_pod_that_sends_nothing_is_no_end(item: object, complaint: str) -> None:
    with pytest.raises(QuestionError, match=complaint):
        PolicyCluster([item]).place("x/p")


def test_one_name_of_several_pods_is_asked_back() -> None:
    with pytest.raises(QuestionError, match=r"p may be any of x/p, y/p: give its namespace"):
        PolicyCluster([pod("p"), pod("p", "y")]).place("p")


def test_each_node_is_asked_and_only_those_that_have_a_part(cluster: PolicyCluster) -> None:
    story = combine(cluster.explain(cluster.place("shop/front"), cluster.place("shop/db"), 5432, 6))
    assert story.verdict == "deny"
    assert {tier.direction for tier in story.tiers} == {"egress", "ingress"}
    assert not story.reasons


def test_two_ends_without_a_family_in_common_have_no_story(cluster: PolicyCluster) -> None:
    with pytest.raises(QuestionError, match="no IPv6 address of one family"):
        cluster.explain(cluster.place("192.0.2.1"), cluster.place("shop/db"), 80, 6, Family.IPV6)


def test_policies_are_picked_out_of_all_objects() -> None:
    objects = read_directory(EXAMPLES)[0]
    assert 0 < len(list(policies_of(objects))) < len(objects)
