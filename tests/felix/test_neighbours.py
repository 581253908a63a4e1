from __future__ import annotations

import errno
from ipaddress import ip_address

import pytest

from felix import neighbours
from felix.netlink import NetlinkSocket
from inet.prefix import Family
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

STATES = ["incomplete", "reachable", "stale", "probe", "failed", "noarp", "permanent"]  # delay is over too soon


def silent(family: Family) -> bytes:
    """Return an address on a0 that nobody has."""
    return ip_address("10.0.0.99" if family is Family.IPV4 else "fd00:1::99").packed


@pytest.mark.parametrize("state", STATES)
def test_a_neighbour_is_in_the_state_that_ip_names(wire: NetlinkSocket, node: Node, family: Family, state: str) -> None:
    address = silent(family)
    hardware = "" if state in {"incomplete", "failed"} else "lladdr 02:00:00:00:00:09"
    timers = "ipv4" if family is Family.IPV4 else "ipv6"
    for name in ("delay_first_probe_time", "base_reachable_time"):  # no state passes into the next by itself
        node.write_sysctl(f"{timers}/neigh/a0/{name}", "3600")
    node.write_sysctl(f"{timers}/neigh/a0/retrans_time_ms", "3600000")
    node.ip(f"neigh replace {ip_address(address)} {hardware} dev a0 nud {state}")
    (row,) = node.ip_json(f"neigh show {ip_address(address)} dev a0 nud all")
    assert row["state"] == [state.upper()]
    assert neighbours.state(wire, address, node.interface(0)) == state


@pytest.mark.parametrize(("number", "name"), [(0x08, "delay"), (0x00, "")])
def test_passing_states_are_named_too(
    wire: NetlinkSocket, monkeypatch: pytest.MonkeyPatch, family: Family, number: int, name: str
) -> None:
    # struct ndmsg: family, pads, ifindex, state, flags, type
    answer = bytes([family, 0, 0, 0]) + (7).to_bytes(4, "little") + number.to_bytes(2, "little") + bytes(2)
    monkeypatch.setattr(wire, "ask", lambda _: answer)
    assert neighbours.state(wire, silent(family), 7) == name


def test_nobody_has_spoken_with_it(wire: NetlinkSocket, node: Node, family: Family) -> None:
    assert neighbours.state(wire, silent(family), node.interface(0)) == ""


def test_a_neighbour_is_asked_for_on_its_own_link(wire: NetlinkSocket, node: Node, family: Family) -> None:
    node.ip(f"neigh replace {ip_address(silent(family))} lladdr 02:00:00:00:00:09 dev a1 nud permanent")
    assert neighbours.state(wire, silent(family), node.interface(0)) == ""
    assert neighbours.state(wire, silent(family), node.interface(1)) == "permanent"


def test_a_link_that_is_not_there_is_an_error(wire: NetlinkSocket, family: Family) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        neighbours.state(wire, silent(family), 4711)
    assert caught.value.errno == errno.ENODEV
