"""The MTU of pods that run: both ends of their links, in namespaces of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from felix import devices
from felix.devices import Device
from felix.namespaces import open_namespaces
from felix.podmtu import correct
from felix.uplinks import Uplink, named, routed
from inet.prefix import Family
from tests.felix.netns import WHY_NOT, entered
from tests.felix.nft.outside import INTERNET, OTHER_NODE, World, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def world() -> Iterator[World]:
    """The test runs inside the node's namespace."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    world = World()
    try:
        world.build()
        with entered(world.name):
            yield world
    finally:
        world.destroy()


async def pod_links() -> list[Device]:
    return [each for each in await devices.devices() if each.group == 97]


def ends(world: World, i: int) -> tuple[int, int]:
    """Return the MTU at the host and in the pod, as ip says."""
    found = []
    for namespace, link in ((world.name, f"h{i}"), (world.pods[i], "eth0")):
        (row,) = json.loads(run("ip", "-n", namespace, "-j", "link", "show", link))
        found.append(row["mtu"])
    return found[0], found[1]


def wait_until_inside(process: int, namespace: str) -> None:
    inside, deadline = Path("/run/netns", namespace).stat().st_ino, time.monotonic() + 20
    while Path(f"/proc/{process}/ns/net").stat().st_ino != inside:
        assert time.monotonic() < deadline


async def test_both_ends_of_every_pods_link_get_the_mtu_and_nothing_else_does(world: World) -> None:
    done = await correct(await pod_links(), 1400)
    assert (done.changed, done.failed) == (6, ())
    assert [ends(world, i) for i in range(3)] == [(1400, 1400)] * 3
    assert {each.mtu for each in await devices.devices() if each.name in {"u0", "u1"}} == {1500}
    assert (await correct(await pod_links(), 1400)).changed == 0, "what is right is left alone"


async def test_it_is_raised_as_it_is_lowered(world: World) -> None:
    for mtu in (9000, 1500):
        await correct(await pod_links(), mtu)
        assert [ends(world, i) for i in range(3)] == [(mtu, mtu)] * 3


async def test_what_somebody_set_lower_inside_a_pod_stays_as_long_as_it_fits(world: World) -> None:
    run("ip", "-n", world.pods[0], "link", "set", "eth0", "mtu", "1420")
    await correct(await pod_links(), 9000)
    assert ends(world, 0) == (1500, 1420), "a larger one at the host would lose what the pod does not take"
    assert ends(world, 1) == (9000, 9000)
    await correct(await pod_links(), 1400)
    assert ends(world, 0) == (1400, 1400)


async def test_what_was_made_larger_inside_a_pod_is_corrected(world: World) -> None:
    run("ip", "-n", world.pods[0], "link", "set", "eth0", "mtu", "9000")
    assert (await correct(await pod_links(), 1500)).changed == 1
    assert ends(world, 0) == (1500, 1500)


async def test_a_renamed_link_in_a_pod_is_found_by_what_it_is_connected_to(world: World) -> None:
    for command in ("eth0 down", "eth0 name other0", "other0 up"):
        run("ip", "-n", world.pods[0], "link", "set", *command.split())
    run("ip", "-n", world.pods[0], "link", "add", "eth0", "type", "veth", "peer", "decoy")
    assert not (await correct(await pod_links(), 1400)).failed
    (row,) = json.loads(run("ip", "-n", world.pods[0], "-j", "link", "show", "other0"))
    (decoy,) = json.loads(run("ip", "-n", world.pods[0], "-j", "link", "show", "eth0"))
    assert (row["mtu"], decoy["mtu"]) == (1400, 1500)


async def test_a_namespace_that_has_no_name_is_found_by_a_process_in_it(world: World) -> None:
    command = ["ip", "netns", "exec", world.pods[0], "sleep", "60"]
    with subprocess.Popen(command) as process:  # noqa: ASYNC220 - nothing else runs here
        try:
            wait_until_inside(process.pid, world.pods[0])
            run("ip", "netns", "del", world.pods[0])
            done = await correct(await pod_links(), 1400)
            assert done.failed == ()
            (row,) = [each for each in await devices.devices() if each.name == "h0"]
            with closing(devices.Devices()) as asked:
                far = asked.other_end(row)
            assert far is not None
            assert far.mtu == 1400
        finally:
            process.kill()


async def test_a_pod_that_nobody_can_enter_is_said_and_the_others_are_corrected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = await pod_links()
    missing = {each.peer_namespace for each in links if each.name == "h1"}

    def without(numbers: list[int]) -> tuple[dict[int, int], set[int]]:
        return open_namespaces([number for number in numbers if number not in missing])

    monkeypatch.setattr("felix.podmtu.open_namespaces", without)
    done = await correct(links, 1400)
    (failure,) = done.failed
    assert failure.link == "h1"
    assert failure.mtu == 1500
    assert "/run/netns" in failure.reason
    assert ends(world, 1) == (1500, 1500), "the host's end alone would cut the pod's larger packets off"
    assert ends(world, 2) == (1400, 1400)
    (failure,) = (await correct(await pod_links(), 9000)).failed
    assert failure.link == "h1"
    assert ends(world, 1) == (1500, 1500), "the host's end alone would send what the pod does not take"
    assert ends(world, 2) == (9000, 9000)


@pytest.mark.usefixtures("world")
async def test_uplinks_are_those_on_the_way_to_the_other_nodes(family: Family) -> None:
    every = await devices.devices()
    gateway = "172.16.3.254" if family is Family.IPV4 else "fd16:3::254"
    run("ip", "route", "add", f"{OTHER_NODE[family]}/{family.bits}", "via", gateway, "dev", "u1")
    assert [each.name for each in routed(every, [packed(OTHER_NODE[family])])] == ["u1"]
    assert [each.name for each in routed(every, [])] == ["u0"], "the default way"
    run("ip", "link", "set", "u1", "mtu", "9000")
    every = await devices.devices()
    assert routed(every, [packed(OTHER_NODE[family])])[0].mtu == 9000
    way = ["via", gateway, "dev", "u1", "mtu", "1450"]
    run("ip", "route", "replace", f"{OTHER_NODE[family]}/{family.bits}", *way)
    assert routed(every, [packed(OTHER_NODE[family])])[0].mtu == 1450, "the route says less"
    assert routed(every, [packed(INTERNET[family])])[0].name == "u0"


@pytest.mark.usefixtures("world")
async def test_less_that_a_router_has_advertised_for_ipv6_counts() -> None:
    put("ipv6/conf/u0/mtu", "1420")
    every = await devices.devices()
    assert [(each.name, each.mtu) for each in named(every, ["u*"])] == [("u0", 1420), ("u1", 1500)]
    assert [(each.name, each.mtu) for each in routed(every, [])] == [("u0", 1420)]


def put(path: str, value: str) -> None:
    Path("/proc/sys/net", path).write_text(value, encoding="ascii")


@pytest.mark.usefixtures("world")
async def test_uplinks_can_be_told_by_their_names() -> None:
    found = named(await devices.devices(), ["u*"])
    assert [(each.name, each.mtu) for each in found] == [("u0", 1500), ("u1", 1500)]
    assert isinstance(found[0], Uplink)


def packed(text: str) -> bytes:
    return ip_address(text).packed
