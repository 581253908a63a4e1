from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from agent.cni.attachments import Attachment, Slot
from agent.cni.conflist import FILE_NAME, VERSIONS_FILE
from agent.cni.leases import GRACE_S
from agent.cni.links import FakePodLinks
from agent.cni.node import NO_RUNTIME, CniOptions, NodeCni, NodeFacts
from agent.cni.podnetwork import PodNetwork
from agent.enforcement import NodePolicy
from agent.lab.wait import eventually
from agent.report import CniReport
from inet.prefix import Prefix


class Stage:
    """A node's CNI side on a directory, with facts to turn."""

    def __init__(self, directory: Path) -> None:
        self.conf, self.state, self.run = (directory / name for name in ("net.d", "networks", "run"))
        for each in (self.conf, self.state / "tortie", self.run):
            each.mkdir(parents=True)
        self.cidrs = [Prefix.parse("10.42.0.0/24"), Prefix.parse("fd42::/64")]
        self.mtu: int | None = 1450
        self.synced = True
        self.coming_up: set[str] = set()
        self.time = 1000.0
        self.links = FakePodLinks()
        self.policy = NodePolicy("n1", None)
        self.iptables = False
        facts = NodeFacts(
            lambda: self.cidrs,
            lambda: self.mtu,
            lambda: self.synced,
            lambda: self.coming_up,
            lambda: self.iptables,
        )
        options = CniOptions(self.conf, self.state)
        network = PodNetwork(self.policy, self.links)
        self.cni = NodeCni(options, self.run, network, self.links, facts, now=lambda: self.time)

    @property
    def file(self) -> Path:
        return self.conf / FILE_NAME

    def subnets(self) -> list[str]:
        if not self.file.exists():
            return []
        (ptp,) = (each for each in json.loads(self.file.read_text())["plugins"] if each["type"] == "ptp")
        ranges = ptp["ipam"]["ranges"]
        return [each["subnet"] for family in ranges for each in family]

    def lease(self, address: str, container: str) -> Path:
        path = self.state / "tortie" / address
        path.write_text(f"{container}\r\neth0")
        return path

    async def written(self, *subnets: str) -> None:
        self.cni.wake()
        await eventually(self.subnets, lambda found: found == list(subnets), within_s=20, what="the conflist")


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[None]:
    task = asyncio.create_task(stage.cni.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_conflist_comes_when_pods_can_and_stays_when_the_agent_goes(stage: Stage) -> None:
    stage.synced = False
    async with running(stage):
        await asyncio.sleep(0)
        assert stage.cni.report().hindrance == "the objects have not been read yet"
        assert not stage.file.exists()
        stage.synced = True
        await stage.written("10.42.0.0/24", "fd42::/64")
    assert stage.file.exists()


async def test_the_conflist_follows_pod_cidrs_and_mtu(stage: Stage) -> None:
    async with running(stage):
        await stage.written("10.42.0.0/24", "fd42::/64")
        stage.cidrs = [Prefix.parse("10.43.0.0/24")]
        await stage.written("10.43.0.0/24")
        stage.mtu = 8950
        stage.cni.wake()
        await eventually(stage.file.read_text, lambda text: '"mtu": 8950' in text, within_s=20, what="the new MTU")


async def test_a_runtime_with_a_conflist_of_its_own_waits_for_objects_alone(stage: Stage) -> None:
    facts = NodeFacts(list, lambda: None, lambda: stage.synced, set, lambda: False)
    cni = NodeCni(NO_RUNTIME, stage.run, PodNetwork(stage.policy, stage.links), stage.links, facts)
    assert cni.hindrance() == ""
    stage.synced = False
    assert cni.hindrance() == "the objects have not been read yet"


async def test_a_node_without_pod_cidrs_waits_and_says_so(stage: Stage) -> None:
    stage.cidrs = []
    assert "no podCIDRs" in stage.cni.report().hindrance
    async with running(stage):
        stage.cidrs = [Prefix.parse("fd42::/64")]
        await stage.written("fd42::/64")
        stage.cidrs = []
        stage.cni.wake()
        await asyncio.sleep(0)
    assert stage.subnets() == ["fd42::/64"]


async def test_an_mtu_that_is_not_known_yet_is_waited_for(stage: Stage) -> None:
    stage.mtu = None
    assert stage.cni.report().hindrance == "the MTU of pods is not known yet"


async def test_a_fresh_node_takes_pods_when_its_peers_have_told_it_the_way(stage: Stage) -> None:
    stage.coming_up = {"172.16.1.12"}
    async with running(stage):
        await asyncio.sleep(0)
        assert "sessions are coming up" in stage.cni.report().hindrance
        assert not stage.file.exists()
        stage.coming_up = set()  # of which nobody tells
        await eventually(stage.file.exists, within_s=20, what="the conflist")


async def test_a_node_that_has_taken_pods_before_waits_for_no_peer(stage: Stage) -> None:
    async with running(stage):
        await stage.written("10.42.0.0/24", "fd42::/64")
    stage.coming_up = {"172.16.1.12"}
    stage.cidrs = [Prefix.parse("10.43.0.0/24")]
    assert stage.cni.report().hindrance == ""
    async with running(stage):
        await stage.written("10.43.0.0/24")


async def test_portmap_need_not_look_for_the_iptables_that_the_kubelet_found(stage: Stage) -> None:
    async with running(stage):
        await stage.written("10.42.0.0/24", "fd42::/64")
        assert "backend" not in stage.file.read_text()
        stage.iptables = True  # the kubelet was later than the agent
        stage.cni.wake()
        await eventually(stage.file.read_text, lambda text: '"backend": "iptables"' in text, within_s=20, what="it")


async def test_a_conflist_that_somebody_deleted_is_written_again(stage: Stage) -> None:
    async with running(stage):
        await stage.written("10.42.0.0/24", "fd42::/64")
        stage.file.unlink()
        await stage.written("10.42.0.0/24", "fd42::/64")


async def test_a_directory_that_is_not_there_is_said_and_tried_again(stage: Stage) -> None:
    stage.conf.rmdir()
    async with running(stage):
        await eventually(lambda: "No such file" in stage.cni.report().hindrance, within_s=20, what="the complaint")
        stage.conf.mkdir()
        await stage.written("10.42.0.0/24", "fd42::/64")


async def test_versions_that_the_plugins_speak_are_those_found_at_their_installation(stage: Stage) -> None:
    (stage.run / VERSIONS_FILE).write_text("0.4.0 1.0.0 1.1.0\n")
    async with running(stage):
        await stage.written("10.42.0.0/24", "fd42::/64")
    assert json.loads(stage.file.read_text())["cniVersions"] == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize("address", ["10.42.0.5", "fd42::5"])
async def test_an_address_of_a_sandbox_that_is_gone_is_freed_and_counted(stage: Stage, address: str) -> None:
    leaked = stage.lease(address, "gone")
    wired = stage.lease("10.42.0.6", "c6")
    told = stage.lease("10.42.0.7", "c7")
    stage.links.wire("v6", ip_address("10.42.0.6").packed)
    stage.policy.attach(Attachment(Slot("c7", "eth0"), "x/b", "", (ip_address("10.42.0.7").packed,), 99))
    await stage.cni.free_leaked()
    stage.time += GRACE_S
    await stage.cni.free_leaked()
    assert (leaked.exists(), wired.exists(), told.exists()) == (False, True, True)
    assert stage.cni.leaked == 1


async def test_an_add_under_way_keeps_its_address(stage: Stage) -> None:
    lease = stage.lease("10.42.0.5", "c5")
    await stage.cni.free_leaked()
    stage.time += GRACE_S - 1
    await stage.cni.free_leaked()
    stage.links.wire("v5", ip_address("10.42.0.5").packed)
    stage.time += GRACE_S
    await stage.cni.free_leaked()
    assert lease.exists()


async def test_where_no_runtime_is_to_be_served_nothing_is_written_or_said(stage: Stage) -> None:
    facts = NodeFacts(list, lambda: 0, lambda: False, set, lambda: False)
    alone = NodeCni(CniOptions(), stage.run, stage.cni.network, stage.links, facts)
    assert alone.report() == CniReport()
