"""The MTU of pods that run already: both ends of their links, the host's here and the pod's in its own namespace.

An end that takes less than the other sends drops what is too large without a word, so the order matters: the pod's
end first when it is to be lowered, the host's first when it is to be raised, and where the pod's end cannot be changed
the host's stays, too. A pod's end that somebody has set to less than the host's was meant to be so: neither is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from felix.devices import Device, Devices, parse
from felix.links import NEWLINK
from felix.namespaces import open_namespaces, open_netlink
from felix.netlink import U32, NetlinkSocket, attribute, message

_GETLINK: Final = 18
_IFINFOMSG: Final = struct.Struct("=BBHiII")  # family, pad, type, index, flags, change
_IFLA_MTU: Final = 4


class Uncorrected(NamedTuple):
    """A pod's link that is not as it should be, and why."""

    link: str
    mtu: int  # of the end with the larger one
    reason: str
    alias: str = ""  # of the host's end


class Correction(NamedTuple):
    """What was done to pods' links."""

    changed: int  # ends that have another MTU now
    failed: tuple[Uncorrected, ...]


class _Pair(NamedTuple):
    host: Device
    pod: Device | None  # None: its namespace has no number here, or it is gone


async def correct(pod_links: Iterable[Device], mtu: int) -> Correction:
    """Give the links of running pods an MTU. `pod_links` are the hosts' ends. What fails is a value."""
    with contextlib.closing(Devices()) as devices:
        # To ask for a link takes rtnl_lock, once for each pod.
        pairs = await asyncio.to_thread(lambda: [_Pair(host, devices.other_end(host)) for host in pod_links])
    wrong = [pair for pair in pairs if pair.pod and (pair.host.mtu, pair.pod.mtu) != _wanted(pair, pair.pod, mtu)]
    if not wrong:
        return Correction(0, ())
    numbers = {pair.host.peer_namespace for pair in wrong} - {None}
    files, _ = await asyncio.to_thread(open_namespaces, [number for number in numbers if number is not None])
    try:
        with contextlib.closing(NetlinkSocket()) as netlink:
            outcomes = [await _correct(netlink, files, pair, mtu) for pair in wrong]
    finally:
        for file in files.values():
            os.close(file)
    return Correction(
        sum(changed for changed, _ in outcomes), tuple(failure for _, failure in outcomes if failure is not None)
    )


def _wanted(pair: _Pair, pod: Device, mtu: int) -> tuple[int, int]:
    """Return the MTU that the host's end and the pod's should have."""
    if pod.mtu < min(mtu, pair.host.mtu):  # somebody's own choice; a larger one at the host would lose packets
        return min(mtu, pair.host.mtu), pod.mtu
    return mtu, mtu


async def _correct(
    netlink: NetlinkSocket, files: dict[int, int], pair: _Pair, mtu: int
) -> tuple[int, Uncorrected | None]:
    """Change one pair, or nothing of it; return how many ends were changed, or why it could not be."""
    host, pod = pair
    if pod is None:
        return 0, None
    at_host, in_pod = _wanted(pair, pod, mtu)
    try:
        if at_host > host.mtu:
            await _set(netlink, host.interface, at_host)
        if in_pod != pod.mtu:
            await _set_inside(files, pair, in_pod)
        if at_host < host.mtu:
            await _set(netlink, host.interface, at_host)
    except OSError as error:
        if at_host > host.mtu:
            with contextlib.suppress(OSError):
                await _set(netlink, host.interface, host.mtu)
        return 0, Uncorrected(host.name, max(host.mtu, pod.mtu), error.strerror or str(error), host.alias)
    return (at_host != host.mtu) + (in_pod != pod.mtu), None


async def _set_inside(files: dict[int, int], pair: _Pair, mtu: int) -> None:
    """Set the MTU of a pod's end. Raises OSError."""
    host = pair.host
    if host.peer_namespace is None:
        with contextlib.closing(NetlinkSocket()) as netlink:  # both ends are in this namespace
            await _set(netlink, host.peer, mtu)
        return
    if host.peer_namespace not in files:
        raise OSError(0, "the pod's network namespace is not to be found (is /run/netns mounted?)")
    try:
        inside = open_netlink(files[host.peer_namespace])
    except PermissionError as error:
        raise OSError(error.errno, "it takes CAP_SYS_ADMIN to enter the pod's network namespace") from error
    with contextlib.closing(inside) as netlink:
        answer = netlink.ask(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, host.peer, 0, 0)))
        found = parse(answer, 0, len(answer))
        if (found.peer, found.kind) != (host.interface, host.kind):
            raise OSError(0, "the pod's end has become another link")
        await _set(netlink, host.peer, mtu)


async def _set(netlink: NetlinkSocket, interface: int, mtu: int) -> None:
    body = _IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attribute(_IFLA_MTU, U32.pack(mtu))
    for failure in await netlink.write([message(NEWLINK, 0, body)]):
        raise OSError(failure.errno, failure.message)
