"""Which neighbours and forwarding entries a device gets, and when: on a kernel of two dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, cast

import pytest

from felix import farends
from felix.farends import FarEnd, FarEnds
from felix.netlink import Failure, NetlinkSocket
from inet.prefix import Family

AT = 7  # ifindex


class Request(NamedTuple):
    verb: str
    kind: str
    interface: int
    key: bytes
    value: bytes = b""


class Kernel:
    """Rows of one link, and every request in order."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[bytes, bytes]] = {"neighbour": {}, "forwarding": {}}
        self.written: list[Request] = []
        self.refuses: set[bytes] = set()
        self.is_readable = True

    async def write(self, requests: Iterable[Request]) -> list[Failure]:
        failures = []
        for position, each in enumerate(requests):
            self.written.append(each)
            if each.key in self.refuses:
                failures.append(Failure(position, 12, "no memory"))
            elif each.verb == "put":
                self.rows[each.kind][each.key] = each.value
            else:
                del self.rows[each.kind][each.key]
        return failures

    async def dump(self, kind: str, _parse: object) -> list[tuple[int, bytes, bytes]]:
        if not self.is_readable:
            raise OSError(16, "busy")
        return [(AT, key, value) for key, value in self.rows[kind].items()] + [(AT + 1, b"another", b"link's")]

    def take_written(self) -> list[tuple[str, str, bytes]]:
        taken, self.written = [(each.verb, each.kind, each.key) for each in self.written], []
        return taken


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    for kind, plural in (("neighbour", "neighbours"), ("forwarding", "forwarding")):
        for verb in ("put", "drop"):
            monkeypatch.setattr(farends.messages, f"{verb}_{kind}", partial(Request, verb, kind))
        asked: Callable[..., Any] = partial(lambda kind, *_: kind, kind)
        monkeypatch.setattr(farends.messages, f"dump_{plural}", asked)
    monkeypatch.setattr(farends, "dump", made.dump)
    return made


@pytest.fixture
def far_ends(kernel: Kernel, family: Family) -> FarEnds:
    return FarEnds(cast("NetlinkSocket", kernel), family)


def end(family: Family, number: int, *, mac: int | None = None, at: int | None = None) -> FarEnd:
    size = family.bits // 8
    gateway, address = (bytes([*[0] * (size - 1), each]) for each in (number, 100 + (at or number)))
    return FarEnd(gateway, bytes([2, 0, 0, 0, 0, mac or number]), address)


async def test_what_is_wanted_is_written_once(kernel: Kernel, far_ends: FarEnds, family: Family) -> None:
    ends = [end(family, number) for number in (1, 2)]
    far_ends.want(ends)
    await far_ends.sync(AT)
    assert kernel.rows["neighbour"] == {each.gateway: each.mac for each in ends}
    assert kernel.rows["forwarding"] == {each.mac: each.address for each in ends}
    kernel.take_written()
    far_ends.want(ends)
    await far_ends.sync(AT)
    assert kernel.take_written() == []


async def test_what_an_agent_before_it_left_is_kept_where_wanted_and_dropped_where_not(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    kept, left = end(family, 1), end(family, 2)
    kernel.rows["neighbour"] = {each.gateway: each.mac for each in (kept, left)}
    kernel.rows["forwarding"] = {each.mac: each.address for each in (kept, left)}
    far_ends.want([kept])
    await far_ends.sync(AT)
    assert kernel.take_written() == [("drop", "neighbour", left.gateway), ("drop", "forwarding", left.mac)]


async def test_a_node_that_moves_is_one_entry_written_in_place(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    far_ends.want([end(family, 1), end(family, 2)])
    await far_ends.sync(AT)
    kernel.take_written()
    moved = end(family, 1, at=9)
    far_ends.want([moved, end(family, 2)])
    await far_ends.sync(AT)
    assert kernel.take_written() == [("put", "forwarding", moved.mac)]
    assert kernel.rows["forwarding"][moved.mac] == moved.address


async def test_an_entry_goes_with_the_last_gateway_of_its_hardware_address(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    one, other = end(family, 1, at=1), end(family, 2, mac=1, at=1)
    far_ends.want([one, other])
    await far_ends.sync(AT)
    far_ends.want([other])
    await far_ends.sync(AT)
    assert kernel.rows == {"neighbour": {other.gateway: other.mac}, "forwarding": {other.mac: other.address}}
    far_ends.want([])
    await far_ends.sync(AT)
    assert kernel.rows == {"neighbour": {}, "forwarding": {}}


async def test_what_is_refused_is_written_again_and_nothing_else(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    ends = [end(family, number) for number in (1, 2, 3)]
    kernel.refuses = {ends[1].gateway, ends[2].mac}
    far_ends.want(ends)
    await far_ends.sync(AT)
    kernel.take_written()
    kernel.refuses = set()
    await far_ends.sync(AT)
    assert kernel.take_written() == [("put", "neighbour", ends[1].gateway), ("put", "forwarding", ends[2].mac)]


async def test_a_kernel_that_cannot_be_read_is_written_all_the_same_and_read_the_next_time(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    stranger = end(family, 9)
    kernel.rows["neighbour"][stranger.gateway] = stranger.mac
    kernel.is_readable = False
    far_ends.want([end(family, 1)])
    await far_ends.sync(AT)
    assert end(family, 1).gateway in kernel.rows["neighbour"]
    kernel.is_readable = True
    await far_ends.sync(AT)
    assert stranger.gateway not in kernel.rows["neighbour"]


async def test_what_the_kernel_forgot_is_found_out_where_that_is_doubted(
    kernel: Kernel, far_ends: FarEnds, family: Family
) -> None:
    far_ends.want([end(family, 1)])
    await far_ends.sync(AT)
    kernel.rows["forwarding"].clear()
    await far_ends.sync(AT)
    assert kernel.rows["forwarding"] == {}, "nobody has said that it may have"
    far_ends.doubt()
    await far_ends.sync(AT)
    assert kernel.rows["forwarding"] == {end(family, 1).mac: end(family, 1).address}


async def test_a_new_outer_source_has_each_entry_made_anew(kernel: Kernel, far_ends: FarEnds, family: Family) -> None:
    far_ends.want([end(family, 1), end(family, 2)])
    await far_ends.sync(AT)
    kernel.take_written()
    await far_ends.renew(AT)
    macs = [end(family, number).mac for number in (1, 2)]
    assert kernel.take_written() == [(verb, "forwarding", mac) for mac in macs for verb in ("drop", "put")]
