from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.clusterreport import ClusterReport, NodeReport
from agent.cni import conflist
from agent.doctor import Level, LookError
from agent.doctor.health import (
    AgentFacts,
    Pool,
    gather_agent,
    gather_cluster,
    gather_pools,
    judge_addresses,
    judge_agent,
    judge_pod_cidrs,
    judge_pools,
)
from agent.report import CniReport, ConditionReport, NetworkReport, StatusReport, TunnelReport
from inet.prefix import Prefix
from tests.agent.doctor.patients import N1, N2, STATUS, cluster, patient

READY = ConditionReport("Ready", "True", "InSync", "4 of 4 sessions established")


def status(**changes: Any) -> StatusReport:
    said: dict[str, Any] = {
        "ready": True,
        "sessions_established": 4,
        "sessions_configured": 4,
        "routes_refused": 0,
        "routes_pending": 0,
        "conditions": [READY],
        "problems": [],
    }
    return msgspec.structs.replace(STATUS, **(said | changes))


def test_an_agent_that_is_well_is_fine() -> None:
    assert {each.level for each in judge_agent(AgentFacts(status(), ""))} == {Level.OK}


@pytest.mark.parametrize(
    ("changes", "level", "text"),
    [
        (
            {"ready": False, "conditions": [ConditionReport("Ready", "False", "NoSession", "no session")]},
            Level.FAIL,
            "not ready: NoSession: no session",
        ),
        (
            {"conditions": [READY, ConditionReport("MassDeleteHeldBack", "True", "TooManyAtOnce", "9 of 10")]},
            Level.WARN,
            "MassDeleteHeldBack: 9 of 10",
        ),
        ({"problems": ["BGPPeer tor-1: spec.peerASN: 0 is not an AS number"]}, Level.WARN, "BGPPeer tor-1"),
        ({"sessions_established": 3}, Level.WARN, "1 of 4 sessions are down"),
        ({"routes_refused": 2}, Level.FAIL, "the kernel refuses 2 routes"),
        ({"routes_pending": 2}, Level.WARN, "2 routes are still to be written"),
        (
            {"tunnels": TunnelReport(problems=["tortie-ipip cannot be made: the kernel has no IP in IP"])},
            Level.FAIL,
            "tortie-ipip cannot be made",
        ),
        (
            {"network": NetworkReport(mtu_uncorrected=[f"veth{number}" for number in range(6)])},
            Level.WARN,
            "an old MTU: veth0, veth1, veth2, veth3, veth4 and 1 more",
        ),
        ({"version": "0.0.1"}, Level.WARN, "the agent is of version 0.0.1"),
        ({"policy": msgspec.structs.replace(STATUS.policy, unlinked=3)}, Level.FAIL, "no link leads to 3 addresses"),
    ],
    ids=["not ready", "condition", "problem", "session", "refused", "pending", "tunnel", "MTU", "version", "unlinked"],
)
def test_what_the_agent_complains_about_is_repeated(changes: dict[str, Any], level: Level, text: str) -> None:
    amiss = [each for each in judge_agent(AgentFacts(status(**changes), "")) if each.level is not Level.OK]
    assert [each.level for each in amiss] == [level]
    assert text in amiss[0].text


async def test_an_agent_that_is_not_there_is_a_failure_and_one_behind_a_closed_door_is_not_known() -> None:
    assert [each.level for each in judge_agent(await gather_agent(patient()))] == [Level.FAIL]
    closed = await gather_agent(patient(no_agent="the agent at /x does not answer: Permission denied"))
    assert [each.level for each in judge_agent(closed)] == [Level.UNKNOWN]


def test_pod_cidrs_that_are_each_a_nodes_own_are_fine() -> None:
    (finding,) = judge_pod_cidrs(cluster(pod_cidrs=("10.42.0.0/16", "fd42::/48"), service_cidrs=("10.43.0.0/16",)))
    assert (finding.level, finding.text) == (Level.OK, "2 nodes have pod CIDRs, each its own")


def bare(name: str) -> NodeReport:
    return NodeReport(name, (), ("172.16.1.99",))


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        (cluster(bare("n1"), N2), Level.FAIL, "without a pod CIDR: n1"),
        (cluster(N1, bare("n2")), Level.WARN, "without a pod CIDR: n2"),
        (
            cluster(N1, *(bare(f"m{i}") for i in range(7))),
            Level.WARN,
            "without a pod CIDR: m0, m1, m2, m3, m4 and 2 more",
        ),
        (cluster(N2), Level.FAIL, "there is no Node object n1"),
        (
            cluster(N1, NodeReport("n2", ("10.42.1.128/25",), ())),
            Level.FAIL,
            "10.42.1.128/25 of Node n2 overlaps 10.42.1.0/24 of Node n1",
        ),
        (
            cluster(N1, NodeReport("n2", ("fd42:0:0:1:8000::/65",), ())),
            Level.FAIL,
            "fd42:0:0:1:8000::/65 of Node n2 overlaps fd42:0:0:1::/64 of Node n1",
        ),
        (cluster(N1, NodeReport("n2", ("10.42.1.0/24",), ())), Level.FAIL, "10.42.1.0/24 of Node n2 overlaps"),
        (
            cluster(pod_cidrs=("10.42.1.0/24", "fd42::/48")),
            Level.FAIL,
            "Node n2: pod CIDR 10.42.2.0/24 is outside NetworkConfiguration spec.podCIDRs (10.42.1.0/24, fd42::/48)",
        ),
        (
            cluster(service_cidrs=("10.42.2.0/23",)),
            Level.FAIL,
            "Node n2: pod CIDR 10.42.2.0/24 overlaps the service addresses 10.42.2.0/23",
        ),
    ],
    ids=["own", "other's", "many", "no node", "inside", "inside v6", "same", "outside", "services"],
)
def test_pod_cidrs_that_cannot_work_are_named(facts: ClusterReport, level: Level, text: str) -> None:
    (finding,) = judge_pod_cidrs(facts)
    assert finding.level is level
    assert text in finding.text
    assert finding.advice


def test_a_wide_pod_cidr_is_compared_with_all_that_it_covers() -> None:
    wide = NodeReport("n0", ("10.42.0.0/16",), ())
    texts = [each.text for each in judge_pod_cidrs(cluster(wide, N1, N2))]
    assert len(texts) == 2
    assert all("overlaps 10.42.0.0/16 of Node n0" in text for text in texts)


def test_addresses_that_are_each_a_nodes_own_are_fine() -> None:
    (finding,) = judge_addresses(cluster())
    assert finding.level is Level.OK


@pytest.mark.parametrize(
    ("facts", "level", "text"),
    [
        (
            cluster(N1, NodeReport("n2", (), ("172.16.1.11",))),
            Level.FAIL,
            "172.16.1.11 is an InternalIP of the Nodes n1",
        ),
        (
            cluster(N1, NodeReport("n2", (), ("fd42:0:0:1::5",))),
            Level.FAIL,
            "fd42:0:0:1::5 of Node n2 is inside the pod CIDR fd42:0:0:1::/64 of Node n1",
        ),
        (cluster(N1, NodeReport("n2", (), ())), Level.WARN, "Node n2 has no InternalIP"),
    ],
    ids=["shared", "a pod's", "none"],
)
def test_addresses_of_nodes_that_cannot_work_are_named(facts: ClusterReport, level: Level, text: str) -> None:
    (finding,) = judge_addresses(facts)
    assert finding.level is level
    assert text in finding.text


async def test_without_nodes_nothing_is_claimed_of_them() -> None:
    with pytest.raises(LookError, match="nodes are not known"):
        await gather_cluster(patient())


async def test_addresses_that_pods_have_are_counted_by_pod_cidr_where_the_configuration_says(tmp_path: Path) -> None:
    facts = cluster(NodeReport("n1", ("10.42.1.0/29", "fd42:0:0:1::/125"), ()), N2)
    assert await gather_pools(patient(facts, tmp_path)) == [], "no agent, or one that serves no runtime"
    book = tmp_path / "data/networks/tortie"
    book.mkdir(parents=True)
    for name in ("10.42.1.2", "10.42.1.3", "10.42.9.9", "fd42:0:0:1::2", "lock", "last_reserved_ip.0"):
        (book / name).write_text("a\neth0")
    cidrs = [Prefix.parse("10.42.1.0/29")]
    said = conflist.render(cidrs, mtu=1500, socket=Path("/s"), data_dir=Path("/data/networks"), timeout_s=10.0)
    (tmp_path / "10-tortie.conflist").write_bytes(said)
    serving = status(cni=CniReport(conflist="/10-tortie.conflist", pods=3))
    found = await gather_pools(patient(facts, tmp_path, status=serving))
    assert found == [Pool("10.42.1.0/29", 2, 5), Pool("fd42:0:0:1::/125", 1, 6)]
    (tmp_path / "10-tortie.conflist").write_text("{}")
    with pytest.raises(LookError, match="not as the agent writes it"):
        await gather_pools(patient(facts, tmp_path, status=serving))


@pytest.mark.parametrize(("taken", "level"), [(200, Level.OK), (228, Level.WARN), (253, Level.FAIL)])
def test_a_pod_cidr_is_said_to_run_out_before_it_has(taken: int, level: Level) -> None:
    (finding,) = judge_pools([Pool("10.42.1.0/24", taken, 253)])
    assert finding.level is level
    assert finding.text.startswith(f"pods have {taken} of the 253 addresses of 10.42.1.0/24")
    assert bool(finding.advice) == (level is not Level.OK)
