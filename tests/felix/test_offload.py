"""Checksums in VXLAN over a network card that spoils them: two namespaces, the card in between is this program."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import selectors
import struct
import subprocess
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from felix.offload import Verdict, find_fault, has_transmit_checksum, set_transmit_checksum
from inet.prefix import Family, IPAddress
from tests.felix.netns import WHY_NOT, entered

pytestmark = pytest.mark.kernel

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, TUN_F_CSUM = 0x2, 0x1000, 0x4000, 0x1
VNET = struct.Struct("=BBHHHH")  # virtio_net_hdr: flags, GSO type, header length, GSO size, checksum's start, offset
NEEDS_CHECKSUM = 1
OUTER_UDP = {14 + 20, 14 + 40}
NUMBERS = itertools.count()


class Cards:
    """Two nodes, each with a card that is left checksums to compute.

    `spoils` has the first one's forget those inside tunnels, `is_cut` nothing arrive.
    """

    def __init__(self) -> None:
        self.spoils = False
        self.is_cut = False
        number = next(NUMBERS)
        self.nodes = [f"tfelix{os.getpid()}c{number}x{end}" for end in (1, 2)]
        self._files: list[int] = []
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._carry)

    def build(self) -> None:
        for end, node in enumerate(self.nodes, 1):
            run("ip", "netns", "add", node)
            with entered(node):
                file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
                self._files.append(file)
                fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH14x", b"eth0", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
                fcntl.ioctl(file, TUNSETOFFLOAD, TUN_F_CSUM)
            other, way = 3 - end, "dev vx onlink via"
            for words in (
                "link set lo up",
                "link set eth0 up",
                f"addr add 172.16.0.{end}/24 dev eth0",
                f"addr add fd16::{end}/64 dev eth0 nodad",
                "link add vx type vxlan external dstport 4789",
                f"link set vx address 02:00:00:00:00:0{end} mtu 1400 up",
                f"addr add 10.42.{end}.0/32 dev vx",
                f"addr add fd42:0:0:{end}::/128 dev vx nodad",
                f"neigh add 172.16.0.{other} lladdr 02:00:00:00:00:0{other} dev vx nud permanent",
                f"neigh add fe80::{other} lladdr 02:00:00:00:00:0{other} dev vx nud permanent",
                f"route add 10.42.{other}.0/24 encap ip id 4096 dst 172.16.0.{other} csum {way} 172.16.0.{other}",
                f"-6 route add fd42:0:0:{other}::/64 encap ip6 id 4096 dst fd16::{other} csum {way} fe80::{other}",
            ):
                run("ip", "-n", node, *words.split())
        self._thread.start()

    def destroy(self) -> None:
        os.close(self._stopped)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._stop)
        for file in self._files:
            os.close(file)
        for node in self.nodes:
            subprocess.run(["ip", "netns", "del", node], capture_output=True, check=False)

    def _carry(self) -> None:
        with selectors.DefaultSelector() as selector:
            for file in (self._stop, *self._files):
                selector.register(file, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == self._stop:
                        return
                    with contextlib.suppress(BlockingIOError):
                        frame = bytearray(os.read(key.fd, 65536))
                        if not self.is_cut:
                            (other,) = set(self._files) - {key.fd}
                            os.write(other, self._finish(frame, spoils=self.spoils and key.fd == self._files[0]))

    @staticmethod
    def _finish(frame: bytearray, *, spoils: bool) -> bytes:
        flags, _, _, _, start, offset = VNET.unpack_from(frame)
        data = frame[VNET.size :]
        if flags & NEEDS_CHECKSUM and not (spoils and start not in OUTER_UDP):
            words = data[start:] + bytes(len(data[start:]) % 2)
            total = sum(struct.unpack(f"!{len(words) // 2}H", words))
            while total >> 16:
                total = (total & 0xFFFF) + (total >> 16)
            struct.pack_into("!H", data, start + offset, (total ^ 0xFFFF) or 0xFFFF)
        return bytes(VNET.size) + bytes(data)


def run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"


@pytest.fixture
def cards() -> Iterator[Cards]:
    """The test runs inside the first node."""
    if WHY_NOT or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip(WHY_NOT or "needs /dev/net/tun")
    cards = Cards()
    try:
        cards.build()
        with entered(cards.nodes[0]):
            yield cards
    finally:
        cards.destroy()


@pytest.fixture
def far(family: Family) -> IPAddress:
    return ip_address("10.42.2.0" if family is Family.IPV4 else "fd42:0:0:2::")


async def test_a_card_that_does_what_is_left_to_it_is_left_to_do_it(cards: Cards, far: IPAddress) -> None:
    assert await find_fault("vx", [far]) is Verdict.WORKS
    assert has_transmit_checksum("vx")
    assert cards.spoils is False


async def test_where_the_card_spoils_what_is_in_tunnels_the_processor_does_it(cards: Cards, far: IPAddress) -> None:
    cards.spoils = True
    assert not await reaches(far, within_s=2), "what everybody sees: pings pass, connections do not"
    assert await pings(far)
    assert await find_fault("vx", [far]) is Verdict.BROKEN
    assert not has_transmit_checksum("vx")
    assert await reaches(far)


async def test_where_nobody_answers_nothing_is_known_and_nothing_changed(cards: Cards, far: IPAddress) -> None:
    cards.is_cut = True
    assert await find_fault("vx", [far]) is Verdict.UNKNOWN
    assert has_transmit_checksum("vx")


async def test_where_the_processor_does_it_already_there_is_nothing_to_find(cards: Cards, far: IPAddress) -> None:
    cards.spoils = True
    set_transmit_checksum("vx", on=False)
    assert await find_fault("vx", [far]) is Verdict.UNKNOWN
    assert not has_transmit_checksum("vx")


async def test_a_link_that_is_not_there_is_an_error(far: IPAddress) -> None:
    with pytest.raises(OSError, match="No such device"):
        await find_fault("nowhere0", [far])


async def reaches(far: IPAddress, within_s: float = 30) -> bool:
    """Whether a connection is refused, for that is an answer."""
    try:
        async with asyncio.timeout(within_s):
            await asyncio.open_connection(str(far), 9)
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return True


async def pings(far: IPAddress) -> bool:
    process = await asyncio.create_subprocess_exec(
        "ping", "-c1", "-W5", str(far), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait() == 0
