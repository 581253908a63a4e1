from __future__ import annotations

import pytest

from agent.doctor import Finding, Level
from agent.doctor.kernel import (
    Clock,
    Features,
    Fill,
    SettingFact,
    gather_clock,
    gather_features,
    gather_fill,
    gather_settings,
    has_device_kind,
    judge_clock,
    judge_features,
    judge_fill,
    judge_settings,
)
from tests.agent.doctor.patients import cluster, patient
from tests.felix.netns import Node

FINE = Features((), has_nexthop_objects=True, tunnels=())


def found(findings: object) -> list[tuple[Level, str]]:
    return [(each.level, each.text) for each in findings if isinstance(each, Finding)]


def test_a_kernel_with_everything_is_fine() -> None:
    assert [each.level for each in judge_features(FINE)] == [Level.OK]


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        (FINE._replace(nft=("TCP resets (CONFIG_NFT_REJECT_INET)",)), Level.FAIL, "missing: TCP resets"),
        (FINE._replace(has_nexthop_objects=False), Level.WARN, "no nexthop objects"),
        (FINE._replace(tunnels=(("IPIP", "ip6tnl"),)), Level.FAIL, "wants IPIP and the kernel has no ip6tnl devices"),
    ],
    ids=["nft", "nexthops", "tunnel"],
)
def test_what_a_kernel_lacks_is_named_with_what_to_do(facts: Features, level: Level, text: str) -> None:
    (finding,) = judge_features(facts)
    assert finding.level is level
    assert text in finding.text
    assert finding.advice


def test_a_tunnel_module_is_named_as_modprobe_knows_it() -> None:
    (finding,) = judge_features(FINE._replace(tunnels=(("IPIP", "ip6tnl"),)))
    assert finding.advice.startswith("load the module ip6_tunnel,")


def test_settings_of_many_links_are_one_finding() -> None:
    facts = [
        SettingFact("net.ipv4.conf.all.rp_filter", "2", "1", is_least=False),
        SettingFact("net.ipv4.conf.eth0.rp_filter", "2", "1", is_least=False),
        SettingFact("net.ipv4.conf.eth1.rp_filter", "2", "2", is_least=False),
        SettingFact("net.ipv4.ip_forward", "1", "0", is_least=False),
        SettingFact("net.ipv4.neigh.default.gc_thresh3", "4096", "8192", is_least=True),
        SettingFact("net.ipv6.neigh.default.gc_thresh3", "4096", "1024", is_least=True),
    ]
    assert found(judge_settings(facts)) == [
        (Level.WARN, "net.ipv4.conf.*.rp_filter is 1, and should be 2 (all, eth0)"),
        (Level.FAIL, "net.ipv4.ip_forward is 0, and should be 1"),
        (Level.WARN, "net.ipv6.neigh.default.gc_thresh3 is 1024, and should be at least 4096"),
    ]


def test_settings_as_they_should_be_are_counted() -> None:
    facts = [SettingFact("net.ipv4.ip_forward", "1", "1", is_least=False)]
    assert found(judge_settings(facts)) == [(Level.OK, "1 kernel settings are as they should be")]


@pytest.mark.parametrize(("entries", "level"), [(10, Level.OK), (75, Level.WARN), (95, Level.FAIL), (100, Level.FAIL)])
def test_a_table_that_fills_up_is_said_before_it_is_full(entries: int, level: Level) -> None:
    (finding,) = judge_fill([Fill("connections", entries, 100, "raise it")])
    assert finding.level is level
    assert f"{entries} of 100" in finding.text


def test_a_clock_that_nobody_keeps_is_said() -> None:
    assert [each.level for each in judge_clock(Clock(is_synchronized=True, largest_error_s=0.01))] == [Level.OK]
    assert [each.level for each in judge_clock(Clock(is_synchronized=False, largest_error_s=16))] == [Level.WARN]


@pytest.mark.kernel
class TestKernel:
    async def test_this_kernel_is_asked_for_what_policy_needs(self, node: Node) -> None:  # noqa: ARG002 - inside it
        facts = await gather_features(patient(cluster(tunnels=("VXLAN",))))
        assert facts == FINE, "the tests of policy run here"

    def test_kinds_of_devices_are_told_apart_and_none_is_made(self, node: Node) -> None:
        before = node.ip("link show")
        assert has_device_kind("veth")
        assert not has_device_kind("no-such-kind")
        assert node.ip("link show") == before

    async def test_settings_are_those_of_the_kernel(self, node: Node) -> None:
        for name, value in (("a0", "0"), ("a1", "1")):
            node.write_sysctl(f"ipv4/conf/{name}/ignore_routes_with_linkdown", value)
        facts = {each.name: each for each in await gather_settings(patient(cluster()))}
        assert facts["net.ipv4.conf.a0.ignore_routes_with_linkdown"].found == "0"
        assert facts["net.ipv4.conf.a1.ignore_routes_with_linkdown"].found == "1"
        assert facts["net.ipv6.conf.all.forwarding"].wanted == "1"

    async def test_tables_and_clock_are_read(self, node: Node) -> None:  # noqa: ARG002 - inside its namespace
        fills = await gather_fill(patient())
        assert all(each.most > 0 and 0 <= each.entries <= each.most for each in fills)
        clock = await gather_clock(patient())
        assert clock.largest_error_s >= 0
