"""How the kernel would forward the packets of one flow: the route they match, and the way among equals they take.

Asked by RTM_GETROUTE with all that the kernel's choice depends on: addresses, the link that packets come in by,
protocol and ports. Which of several equal ways a flow takes is a hash that the kernel computes for us; by
`fib_multipath_hash_policy` it may depend on what nobody has told (a source port, an IPv6 flow label), and then all
that can be said is how many ways there are.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Final, NamedTuple

from felix import neighbours, routemessages
from felix.netlink import NetlinkSocket
from felix.resolver import members_of
from felix.route import NextHop
from felix.routemessages import KernelRoute
from inet.prefix import Family, Prefix

_HASH_POLICY: Final = {
    Family.IPV4: Path("/proc/sys/net/ipv4/fib_multipath_hash_policy"),
    Family.IPV6: Path("/proc/sys/net/ipv6/fib_multipath_hash_policy"),
}
_FORWARDING6: Final = Path("/proc/sys/net/ipv6/conf/all/forwarding")
_BY_ADDRESSES, _BY_PORTS = 0, 1
_LOCAL: Final = 2  # RTN_LOCAL

_KINDS: Final = {1: "unicast", 2: "local", 3: "broadcast", 5: "multicast", 6: "blackhole", 7: "unreachable"} | {
    8: "prohibit",
    9: "throw",
}
_REASONS: Final = {
    errno.EINVAL: "a blackhole route drops it",
    errno.EHOSTUNREACH: "an unreachable route rejects it",
    errno.EACCES: "a prohibit route rejects it",
    errno.ENETUNREACH: "there is no route",
}
_BAD_SOURCE: Final = "its source is not to be believed on the link it comes in by (rp_filter): packets are dropped"
_NO_FORWARDING: Final = "nothing is forwarded from the link it comes in by (sysctl net.ipv{}.conf.*.forwarding)"
_OF_ARRIVALS: Final = {
    errno.EINVAL: _BAD_SOURCE,
    errno.EXDEV: _BAD_SOURCE,
    errno.EHOSTUNREACH: _NO_FORWARDING.format(4),
}


class Flow(NamedTuple):
    """Packets that are alike. Addresses are packed; `interface` is 0 where this node itself sends."""

    destination: bytes
    source: bytes = b""
    interface: int = 0  # ifindex of the link they come in by
    protocol: int = 0
    source_port: int = 0
    port: int = 0


class FlowRoute(NamedTuple):
    """The kernel's answer. `error` says in words why a packet goes nowhere; then the rest may be empty."""

    kind: str = ""  # unicast, local, blackhole, ...
    prefix: Prefix | None = None  # of the route that matches
    table: int = 0
    protocol: int = 0
    metric: int = 0
    ways: tuple[NextHop, ...] = ()  # of the route: more than one share the load
    taken: NextHop | None = None  # which of them this flow takes; None: it depends on what was not given
    mtu: int = 0  # that the route itself sets; 0: the device's counts
    error: str = ""


class FlowLookup:
    """The kernel of the network namespace that this is made in."""

    def __init__(self) -> None:
        self._netlink = NetlinkSocket()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def route(self, flow: Flow) -> FlowRoute:
        """Return how packets of a flow leave. What fails is said in the answer."""
        try:
            matched = self._ask(flow, fib_match=True)
        except OSError as error:
            return FlowRoute(error=self._reason(flow, error))
        ways = members_of(self._netlink, matched.group) if matched.group else matched.hops
        answer = FlowRoute(
            kind=_KINDS.get(matched.kind, str(matched.kind)),
            prefix=matched.destination,
            table=matched.table,
            protocol=matched.protocol,
            metric=matched.metric,
            ways=ways,
            mtu=matched.mtu,
        )
        try:
            path = self._ask(flow, fib_match=False)
        except OSError as error:
            return answer._replace(error=self._reason(flow, error))
        if matched.kind == _LOCAL:
            return answer
        if not ways:
            return answer._replace(error="every way of the route is over a link that is down")
        if flow.interface and len(flow.destination) == 16 and _reads(_FORWARDING6) == 0:
            return answer._replace(error=_NO_FORWARDING.format(6))  # which an IPv6 lookup does not look at
        taken = path.hops[0] if path.hops and (len(ways) == 1 or _is_told(flow)) else None
        return answer._replace(taken=_same(taken, ways) if taken else None)

    def neighbour(self, hop: NextHop, destination: bytes) -> str:
        """Return what the kernel knows of the machine that packets are handed to: reachable, failed, ...; or nothing.

        For a hop without gateway that is the destination itself. Raises OSError.
        """
        return neighbours.state(self._netlink, hop.gateway or destination, hop.interface)

    def _reason(self, flow: Flow, error: OSError) -> str:
        """Return why a lookup failed. Of a packet that came in, it may be about its source or its link too."""
        if flow.interface and error.errno in _OF_ARRIVALS:
            with contextlib.suppress(OSError):
                self._ask(flow._replace(interface=0, source=b""), fib_match=False)
                return _OF_ARRIVALS[error.errno or 0]
        return _REASONS.get(error.errno or 0, error.strerror or str(error))

    def _ask(self, flow: Flow, *, fib_match: bool) -> KernelRoute:
        data = self._netlink.ask(
            routemessages.lookup(
                flow.destination,
                fib_match=fib_match,
                source=flow.source,
                arriving=flow.interface,
                flow=(flow.protocol, flow.source_port, flow.port),
            )
        )
        return routemessages.parse(data, 0, len(data))


def _is_told(flow: Flow) -> bool:
    """Whether everything is given that the kernel chooses by among equal ways."""
    family = Family.IPV4 if len(flow.destination) == 4 else Family.IPV6
    policy = _reads(_HASH_POLICY[family])
    if policy == _BY_ADDRESSES:
        # IPv6 hashes the flow label too, which every connection has one of its own of.
        return family is Family.IPV4 and bool(flow.source)
    return policy == _BY_PORTS and bool(flow.source and flow.protocol and flow.source_port and flow.port)


def _reads(sysctl: Path) -> int | None:
    try:
        return int(sysctl.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _same(taken: NextHop, ways: tuple[NextHop, ...]) -> NextHop:
    """Return the way of the route that a packet's path is, which the kernel may word in another way."""
    equal = [way for way in ways if (way.gateway, way.interface) == (taken.gateway, taken.interface)]
    return equal[0] if equal else taken
