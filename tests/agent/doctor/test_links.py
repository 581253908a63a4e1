from __future__ import annotations

import pytest

from agent.clusterreport import NodeReport
from agent.doctor import Level, LookError
from agent.doctor.links import (
    Duplicates,
    LinkMtu,
    Mtus,
    gather_duplicates,
    gather_mtus,
    judge_duplicates,
    judge_mtus,
)
from agent.lab.wait import eventually
from tests.agent.doctor.patients import N2, cluster, patient
from tests.felix.netns import Node

ETH0, POD = LinkMtu("eth0", 1500), LinkMtu("veth1", 1500)


def test_pods_that_send_what_the_way_out_takes_are_fine() -> None:
    assert [each.level for each in judge_mtus(Mtus((ETH0,), (POD,), 0))] == [Level.OK]
    small = LinkMtu("veth1", 1430)
    assert [each.level for each in judge_mtus(Mtus((ETH0,), (small,), 70))] == [Level.OK]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (Mtus((ETH0,), (LinkMtu("veth1", 9000), POD), 0), "1 links of pods are larger than the way out: veth1 9000"),
        (Mtus((ETH0,), (POD,), 70), "eth0 1500, less 70 for a tunnel; what is larger than 1430"),
        (Mtus((ETH0, LinkMtu("eth1", 9000)), (), 0), "links to other nodes differ: eth0 1500, eth1 9000"),
        (Mtus((), (POD,), 0), "no link leads to other nodes"),
    ],
    ids=["jumbo pods", "tunnel", "uneven", "none"],
)
def test_packets_that_do_not_fit_are_said(facts: Mtus, text: str) -> None:
    (finding,) = judge_mtus(facts)
    assert finding.level is Level.WARN
    assert text in finding.text
    assert finding.advice


def test_an_address_of_two_machines_is_said_with_the_other_ones_mac() -> None:
    assert [each.level for each in judge_duplicates(Duplicates((), (), 1))] == [Level.OK]
    answered, failed = judge_duplicates(
        Duplicates(("fd00::1 on eth0",), (("10.0.0.1", "eth0", "02:00:00:00:00:09"),), 1)
    )
    assert answered.text == "10.0.0.1 on eth0 is answered for by 02:00:00:00:00:09 too: another machine has it"
    assert failed.text.startswith("fd00::1 on eth0 is not used: another machine had it first")
    assert {answered.level, failed.level} == {Level.FAIL}


@pytest.mark.parametrize(("in_container", "level"), [(False, Level.UNKNOWN), (True, Level.OUTSIDE)])
def test_what_could_not_be_asked_is_not_passed(*, in_container: bool, level: Level) -> None:
    (finding,) = judge_duplicates(Duplicates((), (), 0, "ARP probes need CAP_NET_RAW", in_container))
    assert (finding.level, "was not asked" in finding.text) == (level, True)


async def test_without_knowing_our_addresses_nobody_is_asked() -> None:
    with pytest.raises(LookError, match="nodes are not known"):
        await gather_duplicates(patient())


@pytest.mark.kernel
class TestKernel:
    async def test_links_are_those_on_the_way_to_other_nodes(self, node: Node) -> None:
        node.ip("link set a1 mtu 1400")
        node.ip("link set a0 group 97")
        other = NodeReport("n2", (), ("10.0.1.2", "fd00:2::2"))
        facts = await gather_mtus(patient(cluster(NodeReport("n1", (), ()), other, tunnels=("IPIP",))))
        assert facts == Mtus((LinkMtu("a1", 1400),), (LinkMtu("a0", 1500),), 40)

    async def test_an_address_that_another_machine_answers_for_is_found(self, node: Node) -> None:
        own = NodeReport("n1", (), ("10.0.0.1", "fd00:1::1"))
        quiet = await gather_duplicates(patient(cluster(own, N2)))
        assert quiet == Duplicates((), (), 1)
        node.peer_ip("addr add 10.0.0.1/24 dev b0")
        facts = await gather_duplicates(patient(cluster(own, N2)))
        ((address, link, mac),) = facts.answered
        assert (address, link) == ("10.0.0.1", "a0")
        assert mac in node.peer_ip("link show b0")

    async def test_an_address_that_the_kernel_gave_up_is_found(self, node: Node) -> None:
        node.peer_ip("addr add fd00:1::77/64 dev b0 nodad")
        node.write_sysctl("ipv6/conf/a0/accept_dad", "1")
        node.ip("addr add fd00:1::77/64 dev a0")
        own = NodeReport("n1", (), ("fd00:1::77",))
        facts = await eventually(
            lambda: gather_duplicates(patient(cluster(own, N2))), lambda facts: facts.failed, within_s=30
        )
        assert facts.failed == ("fd00:1::77 on a0",)
