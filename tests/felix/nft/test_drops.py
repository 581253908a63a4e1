from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.nft.drops import Drop, DropLog, Drops, read_packet
from inet.prefix import Family

IPV4, IPV6 = 0x0800, 0x86DD
A, B = ip_address("10.0.0.1").packed, ip_address("10.0.0.2").packed
A6, B6 = ip_address("fd00::1").packed, ip_address("fd00::2").packed
PORTS = struct.pack("!HH", 40000, 80)

GROUP = 5
RULES = """table inet test {
  chain output {
    type filter hook output priority filter; policy accept;
    meta l4proto { tcp, udp } th dport 1000-1999 log prefix "tortie egress " group 5 drop
  }
}
"""


def ipv4(protocol: int, payload: bytes, *, fragment: int = 0, options: bytes = b"") -> bytes:
    length = 5 + len(options) // 4
    return struct.pack("!BBHHHBBH4s4s", 0x40 | length, 0, 0, 0, fragment, 64, protocol, 0, A, B) + options + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), protocol, 64, A6, B6) + payload


def extension(following: int, length: int = 8) -> bytes:
    return bytes([following, length // 8 - 1]) + bytes(length - 2)


def fragment(following: int, offset: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset << 3, 1)


@pytest.mark.parametrize(
    ("ethertype", "packet", "read"),
    [
        (IPV4, ipv4(6, PORTS), (A, B, 6, 80)),
        (IPV4, ipv4(132, PORTS, options=bytes(12)), (A, B, 132, 80)),
        (IPV4, ipv4(17, PORTS, fragment=0x2000), (A, B, 17, 80)),
        (IPV4, ipv4(17, PORTS, fragment=0x2003), (A, B, 17, None)),
        (IPV4, ipv4(1, PORTS), (A, B, 1, None)),
        (IPV4, ipv4(6, PORTS[:3]), (A, B, 6, None)),
        (IPV6, ipv6(17, PORTS), (A6, B6, 17, 80)),
        (IPV6, ipv6(58, PORTS), (A6, B6, 58, None)),
        (IPV6, ipv6(0, extension(43) + extension(60, 16) + extension(6, 24) + PORTS), (A6, B6, 6, 80)),
        (IPV6, ipv6(51, bytes([6, 4]) + bytes(22) + PORTS), (A6, B6, 6, 80)),
        (IPV6, ipv6(44, fragment(17, 0) + PORTS), (A6, B6, 17, 80)),
        (IPV6, ipv6(44, fragment(17, 185) + PORTS), (A6, B6, 17, None)),
        (IPV6, ipv6(44, fragment(60, 185) + extension(6) + PORTS), (A6, B6, 60, None)),
        (IPV4, b"", (b"", b"", 0, None)),
        (0x0806, bytes(60), (b"", b"", 0, None)),
    ],
    ids=[
        "TCP",
        "SCTP behind options",
        "first fragment",
        "later fragment",
        "ICMP",
        "cut before the port",
        "IPv6 UDP",
        "ICMPv6",
        "extension headers",
        "authentication header",
        "IPv6 first fragment",
        "IPv6 later fragment",
        "IPv6 later fragment of an extension header",
        "nothing",
        "ARP",
    ],
)
def test_addresses_and_port_are_found_behind_whatever_headers(
    ethertype: int, packet: bytes, read: tuple[bytes, bytes, int, int | None]
) -> None:
    assert read_packet(ethertype, packet) == read


@given(st.sampled_from([IPV4, IPV6]), st.binary(max_size=128))
def test_any_bytes_are_read_as_something(ethertype: int, packet: bytes) -> None:
    source, destination, _, port = read_packet(ethertype, packet)
    assert len(source) == len(destination)
    assert port is None or 0 <= port <= 0xFFFF


class Sender:
    """Sends from the node to the peer what the node's rules drop."""

    def __init__(self, family: Family) -> None:
        self.destination = "10.0.0.2" if family is Family.IPV4 else "fd00:1::2"
        self.source = "10.0.0.1" if family is Family.IPV4 else "fd00:1::1"
        self._socket = socket.socket(socket.AF_INET if family is Family.IPV4 else socket.AF_INET6, socket.SOCK_DGRAM)

    def send(self, port: int) -> None:
        with contextlib.suppress(PermissionError):
            self._socket.sendto(b"", (self.destination, port))

    def drop(self, port: int) -> Drop:
        source, destination = ip_address(self.source).packed, ip_address(self.destination).packed
        return Drop("tortie egress", source, destination, 17, port, 0)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
async def sender(family: Family, nft: Callable[..., str]) -> AsyncIterator[Sender]:
    nft(text=RULES)
    sender = Sender(family)
    yield sender
    sender.close()


@pytest.fixture
async def log(sender: Sender) -> AsyncIterator[DropLog]:  # noqa: ARG001 - inside its namespace
    log = DropLog(GROUP, receive_buffer=4096)
    yield log
    log.close()


async def gather(log: DropLog, until: Callable[[Counter[Drop], int], bool], **options: int) -> Drops:
    counts: Counter[Drop] = Counter()
    left_out = 0
    async with asyncio.timeout(30), contextlib.aclosing(log.batches(0.01, **options)) as batches:
        while not until(counts, left_out):
            batch = await anext(batches)
            counts += batch.counts
            left_out += batch.left_out
    return Drops(counts, left_out)


@pytest.mark.kernel
async def test_dropped_packets_are_counted_by_who_wanted_what(sender: Sender, log: DropLog) -> None:
    for port in (1080, 1443, 1080, 1080):
        sender.send(port)
    drops = await gather(log, lambda counts, _: counts.total() == 4)
    assert drops == Drops(Counter({sender.drop(1080): 3, sender.drop(1443): 1}), 0)


@pytest.mark.kernel
async def test_a_batch_has_only_so_many_kinds_and_counts_the_rest(sender: Sender, log: DropLog) -> None:
    for port in range(1000, 1050):
        sender.send(port)
    drops = await gather(log, lambda counts, left_out: counts.total() + left_out == 50, flows=3)
    assert drops.left_out
    assert set(drops.counts) <= {sender.drop(port) for port in range(1000, 1050)}


@pytest.mark.kernel
async def test_every_packet_is_counted_or_counted_as_left_out(sender: Sender, log: DropLog) -> None:
    sent = 20_000
    for _ in range(sent):
        sender.send(1080)

    def is_complete(counts: Counter[Drop], left_out: int) -> bool:
        nonlocal sent
        if counts.total() + left_out < sent:
            sender.send(1081)
            sent += 1
            return False
        return True

    drops = await gather(log, is_complete)
    assert drops.counts.total() + drops.left_out == sent
    assert drops.left_out > 0


@pytest.mark.kernel
async def test_a_group_has_one_listener(log: DropLog) -> None:  # noqa: ARG001 - it listens
    with pytest.raises(OSError, match=f"somebody else listens to nflog group {GROUP}"):
        DropLog(GROUP)
    DropLog(GROUP + 1).close()
