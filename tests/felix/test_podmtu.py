"""The MTU of pods that run: both ends of their links, in namespaces of their own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from tests.felix.netns import built
from tests.felix.nft.outside import INTERNET, OTHER_NODE, World, run

pytestmark = pytest.mark.kernel


@pytest.fixture
def world() -> Iterator[World]:
    """The test runs inside the node's namespace."""
    with built(World()) as world:
        yield world


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


@pytest.mark.parametrize("capability", ["-sys_admin", "+sys_admin"])
async def test_pods_are_entered_with_the_capability_that_takes_and_named_without(world: World, capability: str) -> None:
    """As the chart has it: NET_ADMIN, and SYS_ADMIN by wish."""
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv (util-linux)")
    run("ip", "link", "set", "h1", "alias", "tortie shop/web-1 0f3c sandbox/eth0")
    words = ("setpriv", f"--bounding-set=-all,+net_admin,{capability}", f"--inh-caps=-all,+net_admin,{capability}")
    done = run(*words, sys.executable, "-c", CORRECT)  # in the node's namespace, as this thread is
    expected = 1400 if capability == "+sys_admin" else 1500
    assert [ends(world, i) for i in range(3)] == [(expected, expected)] * 3
    failed = [] if expected == 1400 else ["it takes CAP_SYS_ADMIN to enter the pod's network namespace"] * 3
    told = json.loads(done)
    assert [reason for reason, _ in told] == failed
    assert ("tortie shop/web-1 0f3c sandbox/eth0" in [alias for _, alias in told]) is bool(failed)


CORRECT = """
import asyncio, json
from felix import devices
from felix.podmtu import correct
async def main():
    links = [each for each in await devices.devices() if each.group == 97]
    done = await correct(links, 1400)
    print(json.dumps([(each.reason, each.alias) for each in done.failed]))
asyncio.run(main())
"""


async def test_a_connection_lives_on_while_its_pod_is_corrected_down_and_up(world: World, family: Family) -> None:
    """And its segments are of the new size: what was too large at that moment is sent again."""
    await correct(await pod_links(), 9000)
    for link, namespace in (("u0", world.name), ("o0", world.outside)):
        run("ip", "-n", namespace, "link", "set", link, "mtu", "9000")
    ours, theirs = world.connected(family, 0, INTERNET[family])
    received = 0
    with closing(ours), closing(theirs), ThreadPoolExecutor(1) as thread:
        ours.settimeout(30)
        theirs.settimeout(30)
        sending = threading.Event()
        sending.set()

        def send() -> int:
            sent = 0
            while sending.is_set():
                sent += ours.send(bytes(1 << 16))
            ours.shutdown(socket.SHUT_WR)
            return sent

        sent = thread.submit(send)

        def receive(size: int) -> None:
            nonlocal received
            goal = received + size
            while received < goal:
                received += len(theirs.recv(1 << 20))

        try:
            for mtu in (9000, 1400, 9000):
                done = await correct(await pod_links(), mtu)
                assert done.failed == ()
                for _ in range(20):
                    receive(1 << 19)
                assert segment(ours) == min(mtu, 9000) - family_header(family)
        finally:
            sending.clear()
        while data := theirs.recv(1 << 20):
            received += len(data)
        assert received == sent.result()


def segment(connection: socket.socket) -> int:
    """Return the largest payload that a connection puts into a segment now, time stamps beside."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def family_header(family: Family) -> int:
    return {Family.IPV4: 20, Family.IPV6: 40}[family] + 20 + 12


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
