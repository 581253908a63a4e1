"""Whether another node hears what comes to it through a tunnel: tried before packets of pods depend on it.

A datagram goes to a port where nobody listens, at the address that the other node has at its end of tunnels, and that
address says so (RFC 1122 section 4.1.3.1, RFC 4443 section 3.1): no program at the other end is needed, and whatever it
says, a firewall's refusal too, it could only say if its device is there and its rules take what this node sends. While
it is tried a route to that one address leads through the tunnel, and nothing else does. The answer may come by any way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from ipaddress import ip_address
from itertools import starmap
from typing import Final, NamedTuple, Protocol

from felix import routemessages
from felix.netlink import NetlinkSocket, dump, in_turns
from felix.route import PROTOCOL, TRIAL_METRIC, NextHop
from inet.prefix import Family, Prefix

PATIENCE_S: Final = 1.0
"""How long an answer may take."""

_CLOSED_PORT: Final = 33434  # where traceroute begins, since nobody listens there
_RECEIVE_ERRORS: Final = {Family.IPV4: (socket.IPPROTO_IP, 11), Family.IPV6: (socket.IPPROTO_IPV6, 25)}
_FROM_ICMP: Final = (2, 3)  # SO_EE_ORIGIN_ICMP, _ICMP6
_ERROR: Final = struct.Struct("=IBBBBII")  # sock_extended_err; behind it stands who said so, a sockaddr
_SAID_BY: Final = {Family.IPV4: slice(20, 24), Family.IPV6: slice(24, 40)}
_ADDRESSED: Final = 2  # a send that meets the error of an earlier one is made once more


class Trial(NamedTuple):
    """What to try: a packed address at the other end, and the next hop through the tunnel."""

    far_end: bytes
    hop: NextHop


class Trials(Protocol):
    """Trials of tunnels. The real ones are `KernelTrials`, those for tests `FakeTrials`."""

    async def answered(self, trials: Iterable[Trial]) -> set[bytes]:
        """Try; return which far ends answered. With none to try, whatever earlier trials need is taken away."""

    def close(self) -> None:
        """Let go of the kernel."""


class KernelTrials:
    """Those of the network namespace that this is made in. See `Trials`."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()
        self._present: set[Prefix] | None = None  # destinations of routes; None: to be found out

    def close(self) -> None:
        """Let go of the kernel."""
        self._netlink.close()

    async def answered(self, trials: Iterable[Trial]) -> set[bytes]:
        """Try; return which far ends answered. Raises OSError where routes cannot be read."""
        hops = {Prefix(each.far_end, len(each.far_end) * 8): each.hop for each in trials}
        await self._route(hops)
        ends = {family: [to.packed for to in hops if to.family is family] for family in Family}
        asked = [_ask(family, each) for family, each in ends.items() if each]
        return set().union(*await asyncio.gather(*asked))

    async def _route(self, hops: dict[Prefix, NextHop]) -> None:
        """Have these routes and no others; each anew, since the kernel takes them with a device that was away."""
        if self._present is None:
            self._present = set()
            for family in Family:  # an agent that was killed may have left some
                self._present.update(await dump(routemessages.dump(family, protocol=PROTOCOL), _parse))
        idle = self._present - hops.keys()
        async for piece in in_turns(list(idle)):
            await self._netlink.write(map(routemessages.delete_trial, piece))
        async for rows in in_turns(hops.items()):
            await self._netlink.write(starmap(routemessages.put_trial, rows))  # one that is refused is not answered
        self._present = set(hops)


class FakeTrials:
    """Trials that those far ends answer which a test names; `tried` are those of the last call."""

    def __init__(self) -> None:
        self.answering: set[bytes] = set()
        self.tried: list[Trial] = []

    async def answered(self, trials: Iterable[Trial]) -> set[bytes]:
        """Return which far ends answered."""
        self.tried = list(trials)
        return {each.far_end for each in self.tried} & self.answering

    def close(self) -> None:
        """Let go of nothing."""


def _parse(data: bytes, start: int, end: int) -> Prefix | None:
    route = routemessages.parse(data, start, end)
    return route.destination if route.protocol == PROTOCOL and route.metric == TRIAL_METRIC else None


async def _ask(family: Family, far_ends: list[bytes]) -> set[bytes]:
    """Send each a datagram; return which of them answered, within a while."""
    answered: set[bytes] = set()
    everybody = asyncio.Event()
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as asking:

        def hear() -> None:
            answered.update(_answers(family, asking))
            if answered.issuperset(far_ends):
                everybody.set()

        asking.setsockopt(*_RECEIVE_ERRORS[family], 1)
        loop.add_reader(asking, hear)
        try:
            async for piece in in_turns(far_ends):
                for far_end in piece:
                    _send(asking, str(ip_address(far_end)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await everybody.wait()
        finally:
            loop.remove_reader(asking)
    return answered & set(far_ends)


def _send(asking: socket.socket, address: str) -> None:
    for _ in range(_ADDRESSED):
        with contextlib.suppress(OSError):
            asking.sendto(b"", (address, _CLOSED_PORT))
            return


def _answers(family: Family, asking: socket.socket) -> set[bytes]:
    """Return whose own words have come in that they do not take what they got."""
    found: set[bytes] = set()
    while True:
        try:
            _, ancillary, _, address = asking.recvmsg(1, 512, socket.MSG_ERRQUEUE)
        except OSError:  # no more
            asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            return found
        destination = socket.inet_pton(family, address[0])
        for _, _, data in ancillary:
            if len(data) < _ERROR.size or _ERROR.unpack_from(data)[1] not in _FROM_ICMP:
                continue
            if data[_SAID_BY[family]] == destination:
                found.add(destination)
