from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.cni.attachments import Slot
from agent.cni.links import FakePodLinks
from agent.cni.podnetwork import NOT_AVAILABLE, PodNetwork, RefusalError, Wired
from agent.cni.server import serve_cni
from agent.enforcement import NodePolicy


class Network(PodNetwork):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(NodePolicy("n1", None), FakePodLinks())
        self.told: list[Any] = []
        self.refusal: RefusalError | None = None
        self.reason = ""

    async def add(self, wired: Wired, limit_s: float) -> None:
        if self.refusal:
            raise self.refusal
        self.told.append((wired, limit_s))

    async def check(self, wired: Wired) -> None:
        self.told.append(wired)

    def delete(self, slot: Slot) -> None:
        self.told.append(slot)

    def keep(self, valid: Any, network: str) -> None:
        self.told.append((network, valid))

    def hindrance(self) -> str:
        return self.reason


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
async def socket(network: Network, tmp_path: Path) -> AsyncIterator[Path]:
    async with serve_cni(network, tmp_path / "cni.sock", network.hindrance):
        yield tmp_path / "cni.sock"


POD = {
    "containerID": "c1",
    "ifName": "eth0",
    "netns": "/run/netns/x",
    "namespace": "shop",
    "name": "front",
    "uid": "u1",
    "addresses": ["10.42.0.5", "fd42::5"],
    "hostInterface": "veth1",
    "timeoutSeconds": 3,
}
WIRED = Wired(Slot("c1", "eth0"), "shop/front", "u1", (bytes([10, 42, 0, 5]), b"\xfdB" + bytes(13) + b"\x05"), "veth1")


async def post(socket: Path, what: str, body: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
        session.post(f"http://agent/v1/cni/{what}", json=body) as response,
    ):
        return response.status, await response.json()


def test_the_socket_is_its_owners_alone(socket: Path) -> None:
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_what_the_plugin_says_arrives(socket: Path, network: Network) -> None:
    slot = {"containerID": "c1", "ifName": "eth0"}
    assert await post(socket, "add", POD) == (200, {})
    assert await post(socket, "check", POD) == (200, {})
    assert await post(socket, "del", slot) == (200, {})
    assert await post(socket, "gc", {"attachments": [slot]}) == (200, {})
    assert await post(socket, "gc", {"attachments": [], "network": "other"}) == (200, {})
    assert network.told == [(WIRED, 3.0), WIRED, WIRED.slot, ("tortie", {WIRED.slot}), ("other", set())]


async def test_a_refusal_is_passed_on_with_its_code(socket: Path, network: Network) -> None:
    network.refusal = RefusalError("pod shop/front is not known here yet", 11)
    assert await post(socket, "add", POD) == (503, {"error": "pod shop/front is not known here yet", "code": 11})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"addresses": ["10.42.0"]}, "10.42.0"),
        ({"addresses": []}, "addresses"),
        ({"name": ""}, "name"),
        ({"hostInterface": 5}, "hostInterface"),
        ({"timeoutSeconds": -1}, "timeoutSeconds"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_the_field(
    socket: Path, network: Network, change: dict[str, Any], said: str
) -> None:
    status, body = await post(socket, "add", POD | change)
    assert (status, body["code"]) == (400, 6)
    assert said in body["error"]
    assert network.told == []


async def test_nobody_waits_longer_than_two_minutes(socket: Path, network: Network) -> None:
    await post(socket, "add", POD | {"timeoutSeconds": 1e9})
    assert network.told == [(WIRED, 120.0)]


async def test_status_says_why_no_pod_can_be_taken(socket: Path, network: Network) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
        async with session.get("http://agent/v1/cni/status") as response:
            assert response.status == 200
        network.reason = "not written yet"
        async with session.get("http://agent/v1/cni/status") as response:
            assert (response.status, await response.json()) == (
                503,
                {"error": "not written yet", "code": NOT_AVAILABLE},
            )


async def test_the_socket_goes_with_its_server(tmp_path: Path, network: Network) -> None:
    async with serve_cni(network, tmp_path / "cni.sock", network.hindrance):
        pass
    assert not (tmp_path / "cni.sock").exists()
