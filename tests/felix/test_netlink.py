from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial

import pytest

from felix import netlink, nexthops, nfnetlink, routemessages
from felix.netlink import NetlinkSocket, attribute, attributes, message, messages
from felix.routemessages import delete, put_blackhole, put_by_hops
from inet.prefix import Family, Prefix
from tests.felix.netns import Node


def test_attributes_read_back_as_they_were_packed() -> None:
    packed = attribute(1, b"abc") + attribute(0x8002, b"") + attribute(3, b"abcd")
    assert list(attributes(packed, 0, len(packed))) == [(1, b"abc"), (2, b""), (3, b"abcd")]


def test_messages_read_back_as_they_were_packed() -> None:
    data = message(24, 0x400, b"four") + message(25, 0, b"")
    assert [(m.kind, m.flags, data[m.start : m.end]) for m in messages(data)] == [(24, 0x401, b"four"), (25, 1, b"")]


@pytest.mark.parametrize("data", [b"", b"\x10", struct.pack("=IHHII", 3, 1, 1, 1, 1), bytes(16), bytes(64)])
def test_a_mangled_buffer_ends_the_reading(data: bytes) -> None:
    assert list(messages(data)) == []
    assert list(attributes(data, 0, len(data))) in ([], [(1, b"")])


async def test_work_on_many_items_gives_others_a_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    pieces = [len(piece) async for piece in netlink.in_turns(range(10), 4)]
    task.cancel()
    assert pieces == [4, 4, 2]
    assert turns == 2


def destinations(family: Family, count: int) -> list[Prefix]:
    if family is Family.IPV4:
        return [Prefix((0x0B000000 + (i << 8)).to_bytes(4), 24) for i in range(count)]
    return [Prefix((0xFD42 << 112 | i << 64).to_bytes(16), 64) for i in range(count)]


async def dumped(family: Family) -> set[Prefix]:
    rows = await netlink.dump(routemessages.dump(family), partial(routemessages.parse_own, mtus={}))
    return {destination for destination, _ in rows}


@pytest.mark.kernel
async def test_errors_in_a_bulk_write_name_their_messages_and_the_others_are_done(
    wire: NetlinkSocket, family: Family
) -> None:
    wanted = destinations(family, 1000)
    requests = [put_blackhole(prefix, is_new=True) for prefix in wanted]
    requests[700] = requests[500]  # a second time, in another chunk
    requests[255] = delete(wanted[999])  # the last of its chunk, which bears the ACK
    failures = await wire.write(requests)
    assert [(f.position, f.errno) for f in failures] == [(255, errno.ESRCH), (700, errno.EEXIST)]
    assert await dumped(family) == set(wanted) - {wanted[255], wanted[700]}


@pytest.mark.kernel
async def test_every_message_of_a_large_write_may_fail(wire: NetlinkSocket, family: Family) -> None:
    failures = await wire.write(delete(prefix) for prefix in destinations(family, 2000))
    assert [f.position for f in failures] == list(range(2000))
    assert {f.errno for f in failures} == {errno.ESRCH}


@pytest.mark.kernel
async def test_the_loop_gets_turns_during_a_large_write(wire: NetlinkSocket) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await wire.write(put_blackhole(prefix, is_new=True) for prefix in destinations(Family.IPV4, 2560))
    task.cancel()
    assert turns >= 9


class LateSocket:
    """A socket whose requests the kernel takes when it is told to, as if somebody held rtnl_lock until then."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.taken = threading.Event()

    def sendto(self, data: bytes, address: tuple[int, int]) -> int:
        assert self.taken.wait(30.0), "nobody let it go: the event loop waits with the request"
        return self._real.sendto(data, address)

    def recv(self, size: int) -> bytes:
        return self._real.recv(size)

    def close(self) -> None:
        self._real.close()


@pytest.fixture
def late(wire: NetlinkSocket) -> LateSocket:
    socket = LateSocket(wire._socket)
    wire._socket = socket  # type: ignore[assignment]  # as much of a socket as is used
    return socket


@pytest.mark.kernel
async def test_the_loop_goes_on_while_a_request_waits_for_rtnl_lock(
    wire: NetlinkSocket, late: LateSocket, family: Family
) -> None:
    (wanted,) = destinations(family, 1)
    asyncio.get_running_loop().call_soon(late.taken.set)
    assert await wire.write([put_blackhole(wanted, is_new=True)]) == []
    late.taken.clear()
    asyncio.get_running_loop().call_soon(late.taken.set)
    rows, _ = await wire.dump(routemessages.dump(family), partial(routemessages.parse_own, mtus={}))
    assert wanted in {destination for destination, _ in rows}
    late.taken.clear()
    asyncio.get_running_loop().call_soon(late.taken.set)
    assert await wire.ask_aside(message(18, 0, struct.pack("=BBHiII", 0, 0, 0, 1, 0, 0)))  # RTM_GETLINK of lo


@pytest.mark.kernel
async def test_a_request_whose_task_is_cancelled_harms_no_later_one(
    wire: NetlinkSocket, late: LateSocket, family: Family
) -> None:
    first, second = destinations(family, 2)
    given_up = asyncio.create_task(wire.write([put_blackhole(first, is_new=True)]))
    await asyncio.sleep(0)
    given_up.cancel()
    later = asyncio.create_task(wire.write([put_blackhole(second, is_new=True), delete(second)]))
    await asyncio.sleep(0)
    late.taken.set()
    assert await later == []
    assert given_up.cancelled()


@pytest.mark.kernel
async def test_two_writes_at_a_time_keep_their_errors_apart(wire: NetlinkSocket) -> None:
    there, absent = destinations(Family.IPV4, 1000), destinations(Family.IPV6, 1000)
    fine, failed = await asyncio.gather(
        wire.write(put_blackhole(prefix, is_new=True) for prefix in there),
        wire.write(delete(prefix) for prefix in absent),
    )
    assert (len(fine), len(failed)) == (0, 1000)


@pytest.mark.kernel
async def test_messages_too_large_for_one_chunk_together_are_split(wire: NetlinkSocket, node: Node) -> None:
    hops = [node.hop(Family.IPV6, 0, last) for last in range(2, 130)]
    wanted = destinations(Family.IPV6, 64)
    assert await wire.write(put_by_hops(prefix, hops, is_new=True) for prefix in wanted) == []
    assert await dumped(Family.IPV6) == set(wanted)


@pytest.mark.kernel
async def test_a_chunk_the_kernel_will_not_take_counts_as_failed(wire: NetlinkSocket) -> None:
    huge = message(routemessages.NEWROUTE, 0, bytes(4_000_000))
    (failure,) = await wire.write([huge])
    assert failure.errno == errno.EMSGSIZE
    assert await wire.write([put_blackhole(Prefix.parse("10.9.0.0/24"), is_new=True)]) == []


@pytest.mark.kernel
async def test_sequence_numbers_start_over(wire: NetlinkSocket) -> None:
    wire._sequence = 0x7FFFFFFF - 3
    first, *_ = wanted = destinations(Family.IPV4, 10)
    assert await wire.write(put_blackhole(prefix, is_new=True) for prefix in wanted) == []
    (failure,) = await wire.write([put_blackhole(first, is_new=True)])
    assert failure.errno == errno.EEXIST


@pytest.mark.kernel
async def test_errors_carry_the_words_of_the_kernel(wire: NetlinkSocket) -> None:
    (failure,) = await wire.write([nexthops.put_group(0x61400001, (0x61000001,), is_new=True)])
    assert (failure.errno, failure.message) == (errno.EINVAL, "Invalid nexthop id")


@pytest.mark.kernel
def test_a_question_that_fails_raises_the_error(wire: NetlinkSocket) -> None:
    with pytest.raises(FileNotFoundError):
        wire.ask(nexthops.get(0x61000001))


@pytest.mark.kernel
@pytest.mark.usefixtures("node")
async def test_a_dump_the_kernel_refuses_raises_the_error() -> None:
    mangled = nexthops.DUMP[:-1] + b"\x01"
    with pytest.raises(OSError, match="Invalid values in header"):
        await netlink.dump(mangled, nexthops.parse)


@pytest.mark.kernel
async def test_a_dump_overtaken_by_changes_is_taken_again(wire: NetlinkSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    await wire.write([put_blackhole(Prefix.parse("10.9.0.0/24"), is_new=True)])
    attempts = 0
    real = NetlinkSocket.dump

    async def overtaken_twice(
        self: NetlinkSocket, request: bytes, parse: Callable[[bytes, int, int], object]
    ) -> tuple[list[object], bool]:
        nonlocal attempts
        attempts += 1
        rows, _ = await real(self, request, parse)
        return rows, attempts < 3

    monkeypatch.setattr(NetlinkSocket, "dump", overtaken_twice)
    assert await dumped(Family.IPV4) == {Prefix.parse("10.9.0.0/24")}
    assert attempts == 3


@pytest.mark.kernel
@pytest.mark.usefixtures("node")
async def test_what_takes_no_rtnl_lock_is_dumped_in_a_thread_if_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[int] = set()
    request = nfnetlink.request(nfnetlink.Subsystem.NFTABLES, 1, 0, nfnetlink.NfFamily.UNSPECIFIED)  # GETTABLE
    with contextlib.closing(NetlinkSocket(nfnetlink.NETLINK_NETFILTER)) as tables:
        for name in ("_send", "_receive"):
            monkeypatch.setattr(tables, name, _noting_thread(getattr(tables, name), threads))
        await tables.dump(request, _nothing)
        assert threads == {threading.get_ident()}
        threads.clear()
        await tables.dump(request, _nothing, is_slow=True)
    assert threads
    assert threading.get_ident() not in threads


def _nothing(_data: bytes, _start: int, _end: int) -> None:
    """Make nothing of a row."""


def _noting_thread(function: Callable[..., object], threads: set[int]) -> Callable[..., object]:
    def noting(*arguments: object) -> object:
        threads.add(threading.get_ident())
        return function(*arguments)

    return noting
