from __future__ import annotations

import contextlib

import pytest

from felix.devices import Devices, devices
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel


async def test_devices_are_told_with_kind_mtu_and_state(node: Node) -> None:
    node.ip("link set a0 mtu 1400")
    node.ip("link set a0 alias tortie-test")
    found = {device.name: device for device in await devices()}
    assert found["lo"].is_loopback
    a0 = found["a0"]
    assert (a0.interface, a0.kind, a0.mtu, a0.is_up, a0.has_carrier, a0.alias) == (
        10,
        "veth",
        1400,
        True,
        True,
        "tortie-test",
    )
    assert (a0.peer, len(a0.address)) == (20, 6)


async def test_the_far_end_of_a_pair_is_seen_in_its_namespace(node: Node) -> None:
    node.peer_ip("link set b0 mtu 1300")
    with contextlib.closing(Devices()) as asked:
        far = asked.other_end(asked.get(node.interface(0)))
        assert far is not None
        assert (far.name, far.mtu) == ("b0", 1300)


async def test_a_device_without_another_end_has_none(node: Node) -> None:
    node.ip("link add bridge0 type bridge")
    with contextlib.closing(Devices()) as asked:
        found = {device.name: device for device in await devices()}
        assert asked.other_end(found["bridge0"]) is None
        with pytest.raises(OSError, match="No such device"):
            asked.get(4711)
