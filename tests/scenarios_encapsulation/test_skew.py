"""Nodes that hear of a change at different times: nothing is lost."""

from __future__ import annotations

import signal
import time
from typing import Any, Final

import pytest

from agent.lab.traffic import traffic
from agent.lab.wait import eventually
from tests.scenarios import nodes
from tests.scenarios_encapsulation.kernel import has_ip_in_ip
from tests.scenarios_encapsulation.network import ALWAYS, NEVER, Net

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

OTHER_VNI: Final[dict[str, Any]] = {"encapsulation": {"mode": "Always", "vni": 77}}
IPIP: Final[dict[str, Any]] = {"encapsulation": {"mode": "Always", "type": "IPIP"}}
HOW: Final = {str(NEVER): "direct", str(ALWAYS): "VXLAN", str(OTHER_VNI): "VXLAN", str(IPIP): "IPIP"}

MOVES: Final = {
    "into tunnels": (NEVER, ALWAYS, "n2"),
    "to another VNI": (ALWAYS, OTHER_VNI, "n2"),
    "out of tunnels": (OTHER_VNI, NEVER, "n2"),
    "into tunnels, the other way round": (NEVER, ALWAYS, "n1"),
    "from VXLAN to IPIP": (ALWAYS, IPIP, "n2"),
}
LATE_S: Final = 20.0
"""What is lost by going by a clock is lost at any such delay that is long enough; this one has been asked for."""


@pytest.mark.parametrize(("before", "after", "late"), MOVES.values(), ids=MOVES.keys())
async def test_a_node_that_hears_of_a_change_much_later_loses_no_packet(
    net: Net, before: dict[str, Any], after: dict[str, Any], late: str
) -> None:
    """Its agent comes to nothing meanwhile; what it has in the kernel goes on."""
    if IPIP in (before, after) and not has_ip_in_ip():
        pytest.skip("this kernel has no IP in IP (CONFIG_NET_IPIP, CONFIG_IPV6_TUNNEL): run in one that has")
    await net.configure(**before)
    await net.both_become(HOW[str(before)])
    await net.all_reach(("a1", "b1"))
    agent = nodes.agent_of(net.lab, late)
    async with traffic(net.lab, "a1", "b1") as streams:
        agent.send(signal.SIGSTOP)
        try:
            await net.configure(**after, late=[late])
            heard = time.monotonic()
            await eventually(lambda: time.monotonic() - heard > LATE_S, within_s=2 * LATE_S, what="time to pass")
        finally:
            agent.send(signal.SIGCONT)
        await net.both_become(HOW[str(after)])
    for each in streams.values():
        assert not each.lost, str(each)
