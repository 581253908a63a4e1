from __future__ import annotations

import asyncio
import errno
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest

from felix import netlink, nexthops, routemessages
from felix.netlink import NetlinkSocket, messages
from felix.nexthops import GROUP_IDS, HOP_IDS
from felix.route import METRIC, PROTOCOL, Kind, NextHop
from felix.routemessages import KernelRoute, put_blackhole, put_by_group, put_by_hops
from felix.routetable import BLACKHOLE, UNKNOWN
from inet.prefix import Family, Prefix
from tests.felix.netns import Node
from tests.felix.routes import prefix

DESTINATION = {family: prefix(family, 1) for family in Family}
DEFAULT = {Family.IPV4: Prefix.parse("0.0.0.0/0"), Family.IPV6: Prefix.parse("::/0")}
VERSION = {Family.IPV4: "-4", Family.IPV6: "-6"}
FAR = {Family.IPV4: ip_address("192.0.2.7"), Family.IPV6: ip_address("2001:db8::7")}

OURS = "0a400000 fe610001 00000000 14000100 fd420000 00000001 00000000 00000000 08000600 e4250000"


def packed(text: str) -> bytes:
    return bytes.fromhex(text)


def parsed(data: bytes) -> KernelRoute:
    return routemessages.parse(b"xyz" + data, 3, 3 + len(data))


class TestWire:
    """Numbers are those of linux/rtnetlink.h, written out."""

    def test_a_route_by_group_is_one_message(self) -> None:
        (header,) = messages(data := put_by_group(DESTINATION[Family.IPV6], 0x61800001, is_new=True))
        assert (header.kind, header.flags) == (24, 0x601)  # RTM_NEWROUTE; REQUEST, CREATE, EXCL
        assert data[header.start : header.end] == packed(
            "0a400000 fe610001 00000000"  # struct rtmsg: AF_INET6 /64, table 254, protocol 97, RTN_UNICAST
            "14000100 fd420000 00000001 00000000 00000000"  # RTA_DST
            "08000600 e4250000 08001e00 01008061"  # RTA_PRIORITY 9700, RTA_NH_ID
        )
        (header,) = messages(put_by_group(DESTINATION[Family.IPV6], 0x61800001, is_new=False))
        assert header.flags == 0x101  # REQUEST, REPLACE: never made by a change

    def test_an_ipv4_route_by_group_is_twelve_bytes_shorter(self) -> None:
        (header,) = messages(data := put_by_group(DESTINATION[Family.IPV4], 0x61400001, is_new=True))
        assert data[header.start : header.end] == packed(
            "02180000 fe610001 00000000 08000100 0a2a0100 08000600 e4250000 08001e00 01004061"
        )

    def test_several_hops_stand_in_the_route(self) -> None:
        hops = [NextHop(packed("0a000002"), 7), NextHop(packed("0a000003"), 8, onlink=True), NextHop(b"", 9)]
        (header,) = messages(data := put_by_hops(DESTINATION[Family.IPV4], hops, is_new=True))
        assert data[header.start : header.end] == packed(
            "02180000 fe610001 00000000 08000100 0a2a0100 08000600 e4250000 2c000900"  # RTA_MULTIPATH
            "10000000 07000000 08000500 0a000002"  # struct rtnexthop, RTA_GATEWAY
            "10000400 08000000 08000500 0a000003"  # RTNH_F_ONLINK
            "08000000 09000000"
        )

    def test_a_gateway_of_the_other_family_is_a_via(self) -> None:
        hop = NextHop(ip_address("fe80::1").packed, 7, onlink=True)
        (header,) = messages(data := put_by_hops(DESTINATION[Family.IPV4], [hop], is_new=False))
        assert header.flags == 0x101
        assert data[header.start : header.end] == packed(
            "02180000 fe610001 04000000 08000100 0a2a0100 08000600 e4250000 08000400 07000000"  # RTA_OIF
            "16001200 0a00 fe800000 00000000 00000000 00000001 0000"  # RTA_VIA: AF_INET6, address; padding
        )

    def test_a_deletion_names_protocol_and_metric(self) -> None:
        (header,) = messages(data := routemessages.delete(DESTINATION[Family.IPV4]))
        assert (header.kind, header.flags) == (25, 1)
        assert data[header.start : header.end] == packed(
            "02180000 fe61ff00 00000000 08000100 0a2a0100 08000600 e4250000"  # scope and type: whatever
        )

    def test_a_dump_is_of_the_main_table(self, family: Family) -> None:
        (header,) = messages(data := routemessages.dump(family, protocol=97))
        assert (header.kind, header.flags) == (26, 1)
        assert data[header.start : header.end] == bytes([family]) + packed("000000 fe610000 00000000 08000f00 fe000000")
        assert routemessages.dump(family) == routemessages.dump(family, protocol=0)  # of all

    def test_a_lookup_says_all_that_is_known_of_the_flow(self) -> None:
        request = routemessages.lookup(
            packed("0a000001"), 7, fib_match=True, source=packed("0a000009"), arriving=8, flow=(17, 1024, 53)
        )
        (header,) = messages(request)
        assert request[header.start : header.end] == packed(
            "02202000 00000000 00200000 08000100 0a000001 08000200 0a000009 08000400 07000000 08000300 08000000"
            "05001b00 11000000 06001c00 0400 0000 06001d00 0035 0000"  # RTA_IP_PROTO; ports in network byte order
        )

    def test_a_lookup_leaves_out_what_is_not_known(self) -> None:
        (header,) = messages(data := routemessages.lookup(packed("0a000001"), fib_match=False, flow=(17, 0, 53)))
        assert data[header.start : header.end] == packed(
            "02200000 00000000 00000000 08000100 0a000001 05001b00 11000000 06001d00 0035 0000"
        )
        without_protocol = routemessages.lookup(packed("0a000001"), fib_match=False, flow=(0, 1, 53))
        assert without_protocol == routemessages.lookup(packed("0a000001"), fib_match=False)

    @pytest.mark.parametrize(("flag", "is_alive"), [(0x01, False), (0x10, False), (0x20, True), (0x04, True)])
    def test_hops_that_are_dead_or_have_no_carrier_are_left_out(self, flag: int, is_alive: bool) -> None:
        hop = NextHop(packed("0a000003"), 8, onlink=flag == 0x04)
        first = packed("10000000 07000000 08000500 0a000002")
        second = packed("1000") + bytes([flag, 0]) + packed("08000000 08000500 0a000003")
        body = packed("02180000 fe610001 00000000 08000100 0a2a0100")
        several = body + packed("24000900") + second + first
        assert parsed(several).hops == (NextHop(packed("0a000002"), 7),) + (hop,) * is_alive
        alone = body[:8] + bytes([flag]) + body[9:] + packed("08000400 08000000 08000500 0a000003")
        assert parsed(alone).hops == (hop,) * is_alive

    def test_hops_are_sorted_and_those_of_a_mangled_list_left_out(self) -> None:
        body = packed("02180000 fe610001 00000000 08000100 0a2a0100")
        two = packed("10000000 07000000 08000500 0a000003 10000000 07000000 08000500 0a000002")
        sorted_hops = tuple(NextHop(packed(text), 7) for text in ("0a000002", "0a000003"))
        assert parsed(body + packed("24000900") + two).hops == sorted_hops
        mangled = two + packed("04000000 07000000")
        assert parsed(body + packed("2c000900") + mangled).hops == sorted_hops

    def test_what_a_route_does_not_say_has_its_default(self, family: Family) -> None:
        route = parsed(bytes([family]) + packed("000000 fe040001 00020000"))
        assert route == KernelRoute(DEFAULT[family], 254, 4, 1, 0x200, 0, 0, (), b"", 0)

    def test_all_that_a_route_says_is_read(self) -> None:
        route = parsed(
            packed("02180000 00040001 00000000 08000100 0a2a0100")
            + packed("08000f00 e8030000 08000600 64000000 08001e00 05000000 08000700 0a000001")  # table 1000
            + packed("14000880 08000100 01000000 08000200 78050000")  # RTA_METRICS: lock, MTU 1400
        )
        assert route == KernelRoute(DESTINATION[Family.IPV4], 1000, 4, 1, 0, 100, 5, (), packed("0a000001"), 1400)

    def test_our_route_is_told_with_its_group(self) -> None:
        data = packed(OURS + "08001e00 01008061")
        assert routemessages.parse_own(b"xyz" + data, 3, 3 + len(data), {}) == (DESTINATION[Family.IPV6], 0x61800001)

    def test_its_mtu_is_told_where_it_has_one(self) -> None:
        mtus: dict[Prefix, int] = {}
        data = packed(OURS + "08001e00 01008061" + "0c000800 08000200 78050000")
        assert routemessages.parse_own(data, 0, len(data), mtus) == (DESTINATION[Family.IPV6], 0x61800001)
        assert mtus == {DESTINATION[Family.IPV6]: 1400}

    def test_our_route_of_another_shape_is_unknown(self) -> None:
        data = packed(OURS + "08000400 07000000")
        assert routemessages.parse_own(data, 0, len(data), {}) == (DESTINATION[Family.IPV6], UNKNOWN)

    @pytest.mark.parametrize(
        ("offset", "value"),
        [(3, "10"), (4, "fd"), (5, "04"), (36, "e5")],
        ids=["TOS", "table", "protocol", "metric"],
    )
    def test_a_route_that_differs_in_anything_is_not_ours(self, offset: int, value: str) -> None:
        data = bytearray(packed(OURS))
        assert routemessages.parse_own(bytes(data), 0, len(data), {}) is not None
        data[offset : offset + 1] = packed(value)
        assert routemessages.parse_own(bytes(data), 0, len(data), {}) is None

    def test_a_default_route_bears_no_destination(self, family: Family) -> None:
        data = bytes([family]) + packed("000000 fe610006 00000000 08000600 e4250000")
        assert routemessages.parse_own(data, 0, len(data), {}) == (DEFAULT[family], BLACKHOLE)


@pytest.mark.kernel
class TestKernel:
    @staticmethod
    async def write(wire: NetlinkSocket, *requests: bytes) -> None:
        assert await wire.write(requests) == []

    @staticmethod
    async def group(wire: NetlinkSocket, node: Node, family: Family) -> int:
        """Create a group over both links."""
        number = GROUP_IDS[family].start
        hops = [nexthops.put_hop(HOP_IDS.start + i, family, node.hop(family, i), is_new=True) for i in range(2)]
        members = tuple(HOP_IDS.start + i for i in range(2))
        assert await wire.write([*hops, nexthops.put_group(number, members, is_new=True)]) == []
        return number

    @staticmethod
    def shown(node: Node, destination: Prefix, table: str = "main") -> list[dict[str, Any]]:
        where = "default" if destination.is_default else str(destination)
        return node.ip_json(f"{VERSION[destination.family]} route show {where} table {table}")

    @staticmethod
    async def dumped(family: Family, protocol: int = 0) -> list[KernelRoute]:
        return await netlink.dump(routemessages.dump(family, protocol=protocol), routemessages.parse)

    @classmethod
    async def hops(cls, destination: Prefix) -> tuple[NextHop, ...]:
        (route,) = [each for each in await cls.dumped(destination.family) if each.destination == destination]
        return route.hops

    async def test_a_route_by_group_is_what_ip_shows(self, wire: NetlinkSocket, node: Node, family: Family) -> None:
        number = await self.group(wire, node, family)
        for destination in (DESTINATION[family], DEFAULT[family]):
            await self.write(wire, put_by_group(destination, number, is_new=True))
            (shown,) = self.shown(node, destination)
            assert (shown["nhid"], shown["protocol"], shown["metric"]) == (number, "97", METRIC)
        own = await netlink.dump(
            routemessages.dump(family, protocol=PROTOCOL), partial(routemessages.parse_own, mtus={})
        )
        assert dict(own) == {DESTINATION[family]: number, DEFAULT[family]: number}

    async def test_a_route_with_its_hops_inside_is_what_ip_shows(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        hops = [node.hop(family, 0), node.hop(family, 1)]
        await self.write(wire, put_by_hops(DESTINATION[family], hops, is_new=True))
        (shown,) = self.shown(node, DESTINATION[family])
        assert [(each["gateway"], each["dev"], each["weight"]) for each in shown["nexthops"]] == [
            (str(ip_address(hop.gateway)), f"a{i}", 1) for i, hop in enumerate(hops)
        ]
        (route,) = await self.dumped(family, PROTOCOL)
        assert route == KernelRoute(DESTINATION[family], 254, 97, Kind.UNICAST, 0, METRIC, 0, tuple(hops), b"")

    @pytest.mark.parametrize("shape", ["gateway", "onlink", "link"])
    async def test_a_single_hop_of_any_shape_reads_back(
        self, wire: NetlinkSocket, node: Node, family: Family, shape: str
    ) -> None:
        hop = {
            "gateway": node.hop(family, 0),
            "onlink": NextHop(FAR[family].packed, node.interface(0), onlink=True),
            "link": NextHop(b"", node.interface(0)),
        }[shape]
        await self.write(wire, put_by_hops(DESTINATION[family], [hop], is_new=True))
        (route,) = await self.dumped(family, PROTOCOL)
        assert route.hops == (hop,)

    async def test_ipv4_goes_through_an_ipv6_gateway(self, wire: NetlinkSocket, node: Node) -> None:
        destination = DESTINATION[Family.IPV4]
        both = [node.hop(Family.IPV4, 1), node.hop(Family.IPV6, 0)]
        for hops, is_new in ((both[1:], True), (both, False)):
            await self.write(wire, put_by_hops(destination, hops, is_new=is_new))
            (route,) = await self.dumped(Family.IPV4, PROTOCOL)
            assert route.hops == tuple(sorted(hops))
        vias = [hop["via"] for hop in self.shown(node, destination)[0]["nexthops"] if "via" in hop]
        assert vias == [{"family": "inet6", "host": "fd00:1::2"}]

    async def test_a_route_becomes_a_blackhole_and_a_route_again(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        destination, number = DESTINATION[family], await self.group(wire, node, family)
        for request, kind in (
            (put_by_group(destination, number, is_new=True), Kind.UNICAST),
            (put_blackhole(destination, is_new=False), Kind.BLACKHOLE),
            (put_by_group(destination, number, is_new=False), Kind.UNICAST),
        ):
            await self.write(wire, request)
            (shown,) = self.shown(node, destination)
            assert (shown["type"], shown["metric"]) == (str(kind.value), METRIC)

    async def test_adding_never_replaces_and_replacing_never_adds(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        destination, number = DESTINATION[family], await self.group(wire, node, family)
        builds = (
            lambda *, is_new: put_by_group(destination, number, is_new=is_new),
            lambda *, is_new: put_by_hops(destination, [node.hop(family, 0)], is_new=is_new),
            lambda *, is_new: put_blackhole(destination, is_new=is_new),
        )
        failures = await wire.write([build(is_new=False) for build in builds])
        assert [failure.errno for failure in failures] == [errno.ENOENT] * 3
        failures = await wire.write([build(is_new=True) for build in builds])
        assert [(failure.position, failure.errno) for failure in failures] == [(1, errno.EEXIST), (2, errno.EEXIST)]

    @pytest.mark.parametrize("other", ["proto 4 metric 9700", "proto 97 metric 9701", "proto 97 metric 9700 table 100"])
    async def test_nobody_elses_route_is_deleted(
        self, wire: NetlinkSocket, node: Node, family: Family, other: str
    ) -> None:
        destination = DESTINATION[family]
        node.ip(f"{VERSION[family]} route add blackhole {destination} {other}")
        (failure,) = await wire.write([routemessages.delete(destination)])
        assert failure.errno == errno.ESRCH
        assert len(self.shown(node, destination, "all")) == 1

    async def test_our_route_of_any_shape_is_deleted(self, wire: NetlinkSocket, node: Node, family: Family) -> None:
        destination, number = DESTINATION[family], await self.group(wire, node, family)
        hops = [node.hop(family, 0), node.hop(family, 1)]
        for request in (
            put_by_group(destination, number, is_new=True),
            put_by_hops(destination, hops, is_new=True),
            put_by_hops(destination, hops[:1], is_new=True),
            put_by_hops(destination, [NextHop(b"", node.interface(0))], is_new=True),
            put_blackhole(destination, is_new=True),
        ):
            await self.write(wire, request, routemessages.delete(destination))
            assert self.shown(node, destination, "all") == []

    async def test_what_others_wrote_is_read(self, node: Node, family: Family) -> None:
        hop, destination = node.hop(family, 0), DESTINATION[family]
        own = "10.0.0.1" if family is Family.IPV4 else "fd00:1::1"
        via = f"via {ip_address(hop.gateway)} dev a0"
        node.ip(f"{VERSION[family]} route add {destination} {via} src {own} proto 12 metric 77 mtu 1400")
        node.ip(f"{VERSION[family]} route add unreachable {DEFAULT[family]} proto 4 metric 5000")
        routes = {route.destination: route for route in await self.dumped(family) if route.protocol in (4, 12)}
        source = ip_address(own).packed
        assert routes[destination] == KernelRoute(destination, 254, 12, 1, 0, 77, 0, (hop,), source, 1400)
        default = routes[DEFAULT[family]]
        assert (default.kind, default.metric, default.mtu) == (7, 5000, 0)

    async def test_only_the_main_table_is_dumped_and_of_one_protocol_where_asked(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        base = DESTINATION[family].packed
        ours, static, elsewhere = (Prefix(base[:2] + bytes([9, i]) + bytes(len(base) - 4), 32) for i in range(3))
        node.ip(f"{VERSION[family]} route add blackhole {static} proto 4")
        node.ip(f"{VERSION[family]} route add blackhole {elsewhere} proto 97 table 100")
        await self.write(wire, put_blackhole(ours, is_new=True))
        assert [route.destination for route in await self.dumped(family, PROTOCOL)] == [ours]
        everything = {route.destination for route in await self.dumped(family)}
        assert {ours, static} < everything  # and those of the kernel
        assert elsewhere not in everything
        assert {route.table for route in await self.dumped(family)} == {254}

    async def test_a_route_without_carrier_has_no_hops(self, node: Node, family: Family) -> None:
        node.ip(
            f"{VERSION[family]} route add {DESTINATION[family]} via {ip_address(node.hop(family, 0).gateway)} proto 4"
        )
        node.peer_ip("link set b0 down")
        async with asyncio.timeout(20):  # the kernel hears of it a moment later
            while await self.hops(DESTINATION[family]):  # noqa: ASYNC110 - each look gives the loop its turn
                await asyncio.sleep(0)
        assert self.shown(node, DESTINATION[family])[0]["flags"] == ["linkdown"]

    @pytest.mark.parametrize("fib_match", [True, False])
    def test_a_lookup_finds_the_route_or_the_path(
        self, wire: NetlinkSocket, node: Node, family: Family, fib_match: bool
    ) -> None:
        net = "192.0.2.0/24" if family is Family.IPV4 else "2001:db8::/32"
        hops = [node.hop(family, i) for i in range(2)]
        ways = " ".join(f"nexthop via {ip_address(hop.gateway)} dev a{i}" for i, hop in enumerate(hops))
        node.ip(f"{VERSION[family]} route add {net} proto 12 metric 5 {ways}")
        answer = wire.ask(routemessages.lookup(FAR[family].packed, fib_match=fib_match))
        route = routemessages.parse(answer, 0, len(answer))
        if fib_match:
            assert (str(route.destination), route.protocol, route.hops) == (net, 12, tuple(hops))
        else:
            assert route.hops[0] in hops
            assert len(route.hops) == 1

    def test_a_lookup_is_held_to_the_link_it_names(self, wire: NetlinkSocket, node: Node, family: Family) -> None:
        for i in range(2):
            via = ip_address(node.hop(family, i).gateway)
            node.ip(f"{VERSION[family]} route add {DEFAULT[family]} via {via} dev a{i} metric {10 + i}")
        for i in range(2):
            answer = wire.ask(routemessages.lookup(FAR[family].packed, node.interface(i), fib_match=False))
            assert routemessages.parse(answer, 0, len(answer)).hops == (node.hop(family, i),)

    def test_a_packet_that_comes_in_is_looked_up_as_it_would_be_forwarded(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        node.write_sysctl(f"{'ipv4' if family is Family.IPV4 else 'ipv6'}/conf/all/forwarding", "1")
        hop = node.hop(family, 0)
        node.ip(f"{VERSION[family]} route add {DEFAULT[family]} via {ip_address(hop.gateway)}")
        node.ip(f"{VERSION[family]} rule add iif a1 to {FAR[family]} prohibit")
        source = node.hop(family, 1).gateway
        request = {"fib_match": False, "source": source, "flow": (6, 40000, 443)}
        with pytest.raises(OSError, match="Permission denied"):
            wire.ask(routemessages.lookup(FAR[family].packed, arriving=node.interface(1), **request))
        answer = wire.ask(routemessages.lookup(FAR[family].packed, arriving=node.interface(0), **request))
        assert routemessages.parse(answer, 0, len(answer)).hops == (hop,)
