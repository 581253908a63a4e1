"""What happens to routes in a namespace, as the kernel tells it, with times.

`Arrivals` counts destinations as they appear and costs next to nothing. `Recorder` keeps everything that is told,
looks at the nexthop objects every half millisecond besides (the kernel says nothing when it takes a dead hop out of
a group), and works out afterwards when the last route had left a next hop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from bench.load import LENGTHS
from bench.measure import BenchError
from felix import netlink, nexthops, routemessages
from felix.namespaces import entered
from felix.nexthops import KernelGroup
from felix.route import NextHop
from felix.routemessages import NEWROUTE, KernelRoute
from inet.prefix import Family, Prefix

_GROUPS: Final = {Family.IPV4: 0x40, Family.IPV6: 0x400}  # RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
_BUFFER_BYTES: Final = 256 << 20
_PAUSE_S: Final = 0.001
_LOOK_S: Final = 0.0005
_NLM_F_APPEND: Final = 0x800
_ADDRESS_AT: Final = 40  # in a route's notification: header 16, rtmsg 12, RTA_TABLE 8, head of RTA_DST 4
_ATTRIBUTE_KIND_AT: Final = 38
_LENGTH_AT: Final = 17
_PROTOCOL_AT: Final = 21
_RTA_DST: Final = 1
_RTPROT_KERNEL: Final = 2


def _listen(namespace: str, groups: int) -> socket.socket:
    with entered(namespace):
        listening = netlink.open_socket(_BUFFER_BYTES)
    listening.bind((0, groups))
    return listening


class Arrivals:
    """Counts the load's destinations that come into the kernel. A context manager; start it before the load."""

    def __init__(self, namespace: str, family: Family, count: int) -> None:
        """Wait for `count` different ones of a family."""
        self._socket = _listen(namespace, _GROUPS[family])
        self._size = family.bits // 8
        self._length = LENGTHS[family]
        self._count = count
        self._seen: set[bytes] = set()
        self._complete_at = 0
        self._first_at = 0
        self._complete = threading.Event()
        self._stop = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def wait(self, within_s: float) -> tuple[int, int]:
        """Return when the first and the last came (monotonic nanoseconds). Raises BenchError when they do not."""
        self._complete.wait(within_s)
        if self._error is not None:
            raise BenchError(f"notifications were lost: {self._error}")
        if not self._complete.is_set():
            raise BenchError(f"{len(self._seen)} of {self._count} routes within {within_s:g} s")
        return self._first_at, self._complete_at

    def _run(self) -> None:
        try:
            while not self._stop.is_set() and not self._complete.is_set():
                time.sleep(_PAUSE_S)
                self._drain()
        except OSError as error:
            self._error = error
            self._complete.set()

    def _drain(self) -> None:
        receive, seen, length, end = self._socket.recv, self._seen, self._length, _ADDRESS_AT + self._size
        try:
            while True:
                data = receive(8192)
                # One notification a datagram, its attributes in a fixed order (fib_dump_info, rt6_fill_node).
                is_of_load = data[_LENGTH_AT] == length and data[_PROTOCOL_AT] != _RTPROT_KERNEL
                if data[4] == NEWROUTE and is_of_load and data[_ATTRIBUTE_KIND_AT] == _RTA_DST:
                    seen.add(data[_ADDRESS_AT:end])
        except BlockingIOError:
            pass
        if seen and not self._first_at:
            self._first_at = time.monotonic_ns()
        if len(seen) >= self._count and not self._complete.is_set():
            self._complete_at = time.monotonic_ns()
            self._complete.set()


@dataclass(frozen=True, slots=True)
class Failover:
    """How routes left a dead next hop. Times in monotonic nanoseconds."""

    done_at: int  # when the last one had
    route_events: int
    missing_most: int  # routes that were gone altogether at one time


class Recorder:
    """Records what becomes of the routes of one family. A context manager around the failure."""

    def __init__(self, namespace: str, family: Family) -> None:
        self._family = family
        self._socket = _listen(namespace, _GROUPS[family])
        with entered(namespace):
            self._ask = netlink.open_socket(1 << 20)
            self._routes = asyncio.run(netlink.dump(routemessages.dump(family), routemessages.parse))
        self._told: list[tuple[int, bytes]] = []
        self._looks: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._look()

    def using(self, interfaces: set[int], wanted: Iterable[Prefix]) -> int:
        """Return how many of the wanted routes used exactly these interfaces before."""
        among = set(wanted)
        groups = {number: {hop.interface for hop in hops} for number, hops in _hops_by_id(self._looks[0][1]).items()}
        used = (
            groups.get(route.group, set()) if route.group else {hop.interface for hop in route.hops}
            for route in self._routes
            if route.destination in among
        )
        return sum(1 for each in used if each == interfaces)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()
        self._ask.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                while data := self._socket.recv(65536):
                    self._told.append((time.monotonic_ns(), data))
            except BlockingIOError:
                pass
            self._look()
            time.sleep(_LOOK_S)

    def _look(self) -> None:
        request = bytearray(nexthops.DUMP)
        struct.pack_into("=H", request, 6, netlink.Flag.REQUEST | netlink.Flag.DUMP)
        self._ask.setblocking(True)  # noqa: FBT003 - the parameter has no name
        self._ask.sendto(request, (0, 0))
        data = b""
        while True:
            piece = self._ask.recv(65536)
            data += piece
            if any(each.kind in {netlink.DONE, netlink.ERROR} for each in netlink.messages(piece)):
                break
        if not self._looks or self._looks[-1][1] != data:
            self._looks.append((time.monotonic_ns(), data))

    def judge(self, wanted: Iterable[Prefix], dead: int) -> Failover:
        """Return when the last of the wanted routes used other interfaces than `dead`, and some at all.

        Raises BenchError if that is not so in the end.
        """
        state = _State(set(wanted), self._routes, dead)
        events = [(at, False, data) for at, data in self._looks] + [(at, True, data) for at, data in self._told]
        events.sort(key=lambda event: event[0])
        done_at, route_events, missing_most = 0, 0, 0
        was_bad = True
        for at, is_notification, data in events:
            if is_notification:
                route_events += state.take(data)
            else:
                state.look(data)
            bad = state.bad
            if was_bad and not bad:
                done_at = at
            was_bad = bool(bad)
            missing_most = max(missing_most, state.missing)
        if was_bad:
            raise BenchError(f"{state.bad} routes still use the dead next hop, or none")
        return Failover(done_at, route_events, missing_most)


def _hops_by_id(data: bytes) -> dict[int, list[NextHop]]:
    """Return the next hops behind each nexthop object of a dump: a single one's own, and a group's."""
    hops: dict[int, list[NextHop]] = {}
    groups: list[KernelGroup] = []
    for each in netlink.messages(data):
        if each.kind in {netlink.DONE, netlink.ERROR}:
            continue
        found = nexthops.parse(data, each.start, each.end)
        if isinstance(found, KernelGroup):
            groups.append(found)
        else:
            hops[found.id] = [found.hop]
    return hops | {group.id: [hop for member in group.members for hop in hops.get(member, [])] for group in groups}


class _State:
    """Which of the wanted routes are well: counts that every event keeps up to date."""

    def __init__(self, wanted: set[Prefix], routes: Iterable[KernelRoute], dead: int) -> None:
        self._dead = dead
        self._wanted = wanted
        self._of: dict[Prefix, int | frozenset[tuple[bytes, int]]] = {}
        self._good: dict[int, bool] = {}  # group id -> whether it lacks the dead one and is not empty
        self._by_group: Counter[int] = Counter()
        self._bad_inline = 0
        for route in routes:
            if route.destination in wanted:
                self._set(route.destination, route.group or frozenset(hop[:2] for hop in route.hops))

    @property
    def missing(self) -> int:
        return len(self._wanted) - len(self._of)

    @property
    def bad(self) -> int:
        by_group = sum(count for group, count in self._by_group.items() if not self._good.get(group))
        return self.missing + self._bad_inline + by_group

    def look(self, data: bytes) -> None:
        self._good = {
            number: bool(hops) and all(hop.interface != self._dead for hop in hops)
            for number, hops in _hops_by_id(data).items()
        }

    def take(self, data: bytes) -> int:
        count = 0
        for each in netlink.messages(data):
            route = routemessages.parse(data, each.start, each.end)
            if route.destination not in self._wanted or route.flags & routemessages.CLONED:
                continue
            count += 1
            hops = frozenset(hop[:2] for hop in route.hops)
            before = self._of.get(route.destination, frozenset())
            before_hops = before if isinstance(before, frozenset) else frozenset()
            if each.kind == NEWROUTE:
                joined = before_hops | hops if each.flags & _NLM_F_APPEND else hops
                self._set(route.destination, route.group or joined)
            else:
                left = before_hops - hops
                self._set(route.destination, left if left and not route.group else None)
        return count

    def _set(self, destination: Prefix, now: int | frozenset[tuple[bytes, int]] | None) -> None:
        before = self._of.pop(destination, None)
        if isinstance(before, int):
            self._by_group[before] -= 1
        elif before is not None:
            self._bad_inline -= self._is_bad(before)
        if now is None:
            return
        self._of[destination] = now
        if isinstance(now, int):
            self._by_group[now] += 1
        else:
            self._bad_inline += self._is_bad(now)

    def _is_bad(self, hops: frozenset[tuple[bytes, int]]) -> bool:
        return not hops or any(interface == self._dead for _, interface in hops)
