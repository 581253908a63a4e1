"""Checksums inside VXLAN that are left to the network card, and come out wrong: found out, and mended.

Kernels before 5.7 update the outer checksum of an encapsulated packet whose address they translate even where there is
none (mended by "netfilter: nat: never update the UDP checksum when it's 0"); drivers and hypervisors there are that
know tunnels at some ports alone. Either way pings pass, and TCP and UDP do not. It helps to have the processor compute
what is inside, which is a setting of the tunnel device.

`find_fault` tries it out. A datagram to a port where nobody listens comes back as an error (RFC 1122 section 4.1.3.1),
if it came through whole: no program at the other end is needed. Where none comes back with the offload, and one does
without, twice in turns, there is the fault.
"""

from __future__ import annotations

import array
import asyncio
import enum
import fcntl
import re
import socket
import struct
from collections.abc import Sequence
from typing import Final

from inet.prefix import Family, IPAddress, family_of

_SIOCETHTOOL: Final = 0x8946
_GET_TRANSMIT_CHECKSUM: Final = 0x16  # ETHTOOL_GTXCSUM
_SET_TRANSMIT_CHECKSUM: Final = 0x17  # ETHTOOL_STXCSUM
_VALUE: Final = struct.Struct("=II")  # ethtool_value: command, data
_REQUEST: Final = struct.Struct("@16sP16x")  # ifreq: name, address of the value
_MENDED_IN: Final = (5, 7)

_CLOSED_PORT: Final = 33434  # where traceroute begins, since nobody listens there
_TRIES: Final = 2
_PATIENCE_S: Final = 1.0


class Verdict(enum.Enum):
    """What became of an attempt to find the fault."""

    WORKS = "works"
    BROKEN = "broken"
    UNKNOWN = "not known"  # nobody answers, with the offload or without


async def find_fault(interface: str, far_ends: Sequence[IPAddress]) -> Verdict:
    """Try the way to far ends of a tunnel. Where it is BROKEN the offload is off afterwards, else as before.

    Raises OSError where the link cannot be asked.
    """
    if not has_transmit_checksum(interface):
        return Verdict.UNKNOWN
    verdict = Verdict.UNKNOWN
    try:
        for _ in range(2):  # what is lost on a busy network is not lost in this order
            set_transmit_checksum(interface, on=True)
            if await _any_answers(far_ends):
                return Verdict.WORKS
            set_transmit_checksum(interface, on=False)
            if not await _any_answers(far_ends):
                return Verdict.UNKNOWN
        verdict = Verdict.BROKEN
    finally:
        if verdict is not Verdict.BROKEN:
            set_transmit_checksum(interface, on=True)
    return verdict


async def _any_answers(far_ends: Sequence[IPAddress]) -> bool:
    for _ in range(_TRIES):
        if any(await asyncio.gather(*map(_answers, far_ends))):
            return True
    return False


async def _answers(address: IPAddress) -> bool:
    """Whether a datagram comes back as an error from a port where nobody listens."""
    family = socket.AF_INET if family_of(address) is Family.IPV4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((str(address), _CLOSED_PORT))
            probe.send(b"checksum")
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.get_running_loop().sock_recv(probe, 1)
        except ConnectionRefusedError:
            return True
        except OSError:  # TimeoutError, too
            return False
        return True


def is_checksum_broken(release: str) -> bool:
    """Return whether a kernel, by its release such as 5.4.0-90-generic, has the fault. An unreadable one has not."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) < _MENDED_IN


def set_transmit_checksum(interface: str, *, on: bool) -> None:
    """Have checksums of what leaves by a link computed by the link, or by the processor. Raises OSError."""
    _ethtool(interface, _SET_TRANSMIT_CHECKSUM, on)


def has_transmit_checksum(interface: str) -> bool:
    """Return whether checksums are left to the link. Raises OSError."""
    return bool(_ethtool(interface, _GET_TRANSMIT_CHECKSUM, 0))


def _ethtool(interface: str, command: int, data: int) -> int:
    value = array.array("B", _VALUE.pack(command, data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, _REQUEST.pack(interface.encode(), value.buffer_info()[0]))
    found: int = _VALUE.unpack(value.tobytes())[1]
    return found
