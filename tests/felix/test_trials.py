"""Whether the other end of a tunnel answers, with two kernels."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from socket import if_nametoindex

import pytest

from felix.route import NextHop
from felix.trials import KernelTrials, Trial
from inet.prefix import Family
from tests.felix.netns import _run, built

pytestmark = pytest.mark.kernel

NUMBERS = itertools.count()
TRIES = 20
FAR = {Family.IPV4: "10.42.2.0", Family.IPV6: "fd42:0:0:2::"}
DEVICE = {Family.IPV4: "vx4", Family.IPV6: "vx6"}
GATEWAY = {Family.IPV4: "172.16.0.2", Family.IPV6: "fe80::2"}


class Pair:
    """Two nodes that reach each other's pods directly; both have devices for VXLAN, one of each family."""

    def __init__(self) -> None:
        number = next(NUMBERS)
        self.nodes = [f"tfelix{os.getpid()}t{number}x{end}" for end in (1, 2)]
        self.name = self.nodes[0]

    def build(self) -> None:
        for node in self.nodes:
            _run("ip", "netns", "add", node)
        self.ip(self.name, f"link add eth0 type veth peer name eth0 netns {self.nodes[1]}")
        for end, node in enumerate(self.nodes, 1):
            other = 3 - end
            for words in (
                "link set lo up",
                "link set eth0 up",
                f"addr add 172.16.0.{end}/24 dev eth0",
                f"addr add fd16::{end}/64 dev eth0 nodad",
                f"link add vx4 type vxlan id 4096 dstport 4789 local 172.16.0.{end} remote 172.16.0.{other}",
                f"link add vx6 type vxlan id 4096 dstport 4789 local fd16::{end} remote fd16::{other}",
                f"link set vx4 address 02:00:00:00:00:0{end} up",
                f"link set vx6 address 02:00:00:00:00:0{end} up",
                f"addr add 10.42.{end}.0/32 dev vx4",
                f"addr add fd42:0:0:{end}::/128 dev vx6 nodad",
                f"neigh add 172.16.0.{other} lladdr 02:00:00:00:00:0{other} dev vx4 nud permanent",
                f"neigh add fe80::{other} lladdr 02:00:00:00:00:0{other} dev vx6 nud permanent",
                f"route add 10.42.{other}.0/24 via 172.16.0.{other}",
                f"-6 route add fd42:0:0:{other}::/64 via fd16::{other}",
            ):
                self.ip(node, words)

    def destroy(self) -> None:
        for node in self.nodes:
            subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)

    def ip(self, node: str, words: str) -> str:
        return _run("ip", "-n", node, *words.split())

    def trial_routes(self) -> str:
        return "".join(self.ip(self.name, f"{family} route show metric 9702 proto 97") for family in ("-4", "-6"))


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The test runs inside the first node."""
    with built(Pair()) as pair:
        yield pair


@pytest.fixture
def trials(pair: Pair) -> Iterator[KernelTrials]:  # noqa: ARG001 - inside its namespace
    trials = KernelTrials()
    yield trials
    trials.close()


def trial(family: Family) -> Trial:
    hop = NextHop(ip_address(GATEWAY[family]).packed, if_nametoindex(DEVICE[family]), onlink=True)
    return Trial(ip_address(FAR[family]).packed, hop)


async def answered(trials: KernelTrials, *wanted: Trial) -> bool:
    """Whether all of them answer: on a busy machine not the first time, perhaps."""
    for _ in range(TRIES):
        if await trials.answered(wanted) == {each.far_end for each in wanted}:
            return True
    return False


def received(pair: Pair, family: Family) -> int:
    return int(pair.ip(pair.nodes[1], f"-s link show {DEVICE[family]}").split("RX:")[1].splitlines()[1].split()[1])


async def test_an_end_that_has_its_device_answers_and_nothing_is_left_of_the_trial(
    pair: Pair, trials: KernelTrials, family: Family
) -> None:
    before = received(pair, family)
    assert await answered(trials, trial(family))
    assert received(pair, family) > before, "it came through the tunnel"
    assert FAR[family].rstrip(":") in pair.trial_routes()
    assert await trials.answered([]) == set()
    assert pair.trial_routes() == ""


async def test_an_end_without_a_device_does_not_answer_though_it_is_reached_otherwise(
    pair: Pair, trials: KernelTrials, family: Family
) -> None:
    pair.ip(pair.nodes[1], f"link del {DEVICE[family]}")
    pair.ip(pair.nodes[1], f"addr add {FAR[family]}/{family.bits} dev lo")
    assert await trials.answered([trial(family)]) == set()


async def test_a_router_s_word_that_there_is_no_way_is_no_answer(
    pair: Pair, trials: KernelTrials, family: Family
) -> None:
    pair.ip(pair.nodes[1], f"addr del {FAR[family]}/{family.bits} dev {DEVICE[family]}")
    pair.ip(pair.nodes[1], f"route add unreachable {FAR[family]}/{family.bits}")
    assert await trials.answered([trial(family)]) == set()


async def test_what_refuses_at_the_other_end_is_an_answer(pair: Pair, trials: KernelTrials, family: Family) -> None:
    table = "table inet wall { chain input { type filter hook input priority 0; iifname vx* reject; }; }"
    _run("ip", "netns", "exec", pair.nodes[1], "nft", table)
    assert await answered(trials, trial(family))


async def test_both_families_are_tried_at_a_time(pair: Pair, trials: KernelTrials) -> None:
    both = [trial(family) for family in Family]
    assert await answered(trials, *both)
    pair.ip(pair.nodes[1], f"addr del {FAR[Family.IPV4]}/32 dev vx4")
    assert trial(Family.IPV4).far_end not in await trials.answered(both)


async def test_what_a_killed_agent_left_is_taken_away(pair: Pair, trials: KernelTrials, family: Family) -> None:
    await trials.answered([trial(family)])
    again = KernelTrials()
    assert pair.trial_routes() != ""
    await again.answered([])
    assert pair.trial_routes() == ""
    again.close()


async def test_a_route_that_went_with_its_device_is_back_the_next_time(
    pair: Pair, trials: KernelTrials, family: Family
) -> None:
    assert await answered(trials, trial(family))
    device = DEVICE[family]
    pair.ip(pair.name, f"link set {device} down")
    pair.ip(pair.name, f"link set {device} up")
    if family is Family.IPV6:
        pair.ip(pair.name, f"addr replace fd42:0:0:1::/128 dev {device} nodad")
    pair.ip(pair.name, f"neigh replace {GATEWAY[family]} lladdr 02:00:00:00:00:02 dev {device} nud permanent")
    assert pair.trial_routes() == ""
    assert await answered(trials, trial(family))
