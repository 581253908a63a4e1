"""The MTU of pods that run already: both ends of their links, the host's here and the pod's in its own namespace.

An end that takes less than the other sends drops what is too large without a word, so the order matters: the pod's
end first when it is to be lowered, the host's first when it is to be raised. A pod's end that somebody has set to
less than the host's was meant to be so, and is never raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import Iterable, Sequence
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
        pairs = [_Pair(host, devices.other_end(host)) for host in pod_links]
    wrong = [pair for pair in pairs if _is_wrong(pair, mtu)]
    if not wrong:
        return Correction(0, ())
    numbers = {pair.host.peer_namespace for pair in wrong if pair.pod and _is_pod_end_wrong(pair, mtu)} - {None}
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


def _is_wrong(pair: _Pair, mtu: int) -> bool:
    return pair.host.mtu != mtu or _is_pod_end_wrong(pair, mtu)


def _is_pod_end_wrong(pair: _Pair, mtu: int) -> bool:
    if pair.pod is None:
        return False
    is_own_choice = pair.pod.mtu < min(mtu, pair.host.mtu)
    return pair.pod.mtu != mtu and not is_own_choice


async def _correct(
    netlink: NetlinkSocket, files: dict[int, int], pair: _Pair, mtu: int
) -> tuple[int, Uncorrected | None]:
    host, pod = pair
    steps: Sequence[str] = ("pod", "host") if pod is not None and pod.mtu > mtu else ("host", "pod")
    changed = 0
    for step in steps:
        try:
            if step == "host" and host.mtu != mtu:
                await _set(netlink, host.interface, mtu)
                changed += 1
            elif step == "pod" and pod is not None and _is_pod_end_wrong(pair, mtu):
                await _set_inside(files, pair, mtu)
                changed += 1
        except OSError as error:
            larger = max(host.mtu, pod.mtu if pod else 0)
            return changed, Uncorrected(host.name, larger, error.strerror or str(error))
    return changed, None


async def _set_inside(files: dict[int, int], pair: _Pair, mtu: int) -> None:
    """Set the MTU of a pod's end. Raises OSError."""
    host = pair.host
    if host.peer_namespace is None:
        with contextlib.closing(NetlinkSocket()) as netlink:  # both ends are in this namespace
            await _set(netlink, host.peer, mtu)
        return
    if host.peer_namespace not in files:
        raise OSError(0, "the pod's network namespace is not to be found (is /run/netns mounted?)")
    with contextlib.closing(open_netlink(files[host.peer_namespace])) as netlink:
        answer = netlink.ask(message(_GETLINK, 0, _IFINFOMSG.pack(0, 0, 0, host.peer, 0, 0)))
        found = parse(answer, 0, len(answer))
        if (found.peer, found.kind) != (host.interface, host.kind):
            raise OSError(0, "the pod's end has become another link")
        await _set(netlink, host.peer, mtu)


async def _set(netlink: NetlinkSocket, interface: int, mtu: int) -> None:
    body = _IFINFOMSG.pack(0, 0, 0, interface, 0, 0) + attribute(_IFLA_MTU, U32.pack(mtu))
    for failure in await netlink.write([message(NEWLINK, 0, body)]):
        raise OSError(failure.errno, failure.message)
