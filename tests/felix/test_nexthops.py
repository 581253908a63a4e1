from __future__ import annotations

import errno
from ipaddress import ip_address

import pytest

from felix import netlink, nexthops
from felix.netlink import Message, NetlinkSocket, messages
from felix.nexthops import GROUP_IDS, HOP_IDS, KernelGroup, KernelHop
from felix.route import NextHop
from inet.prefix import Family
from tests.felix.netns import Node

FIRST = HOP_IDS.start


def body(data: bytes) -> tuple[Message, str]:
    """Return a message's header and its body as hexadecimal words of four bytes."""
    (found,) = messages(data)
    return found, data[found.start : found.end].hex(" ", 4)


def test_a_hop_is_packed_as_linux_nexthop_h_has_it() -> None:
    gateway = ip_address("10.0.0.2").packed
    header, packed = body(nexthops.put_hop(0x61000001, Family.IPV4, NextHop(gateway, 7, onlink=True), is_new=True))
    assert (header.kind, header.flags) == (104, 0x601)  # RTM_NEWNEXTHOP; REQUEST, CREATE, EXCL
    assert packed == (
        "02006100 04000000 "  # struct nhmsg: AF_INET, scope, protocol 97; RTNH_F_ONLINK
        "08000100 01000061 08000500 07000000 08000600 0a000002"  # NHA_ID, NHA_OIF, NHA_GATEWAY
    )


def test_a_hop_onto_the_link_has_no_gateway() -> None:
    _, packed = body(nexthops.put_hop(0x61000001, Family.IPV6, NextHop(b"", 7), is_new=True))
    assert packed == "0a006100 00000000 08000100 01000061 08000500 07000000"


def test_a_group_is_packed_as_linux_nexthop_h_has_it() -> None:
    header, packed = body(nexthops.put_group(0x61400001, (0x61000001, 0x61000002), is_new=True))
    assert (header.kind, header.flags) == (104, 0x601)
    assert packed == (
        "00006100 00000000 08000100 01004061 "
        "14000200 01000061 00000000 02000061 00000000"  # NHA_GROUP: struct nexthop_grp twice
    )
    header, same = body(nexthops.put_group(0x61400001, (0x61000001, 0x61000002), is_new=False))
    assert (header.flags, same) == (0x101, packed)  # REQUEST, REPLACE, and never CREATE


def test_a_resilient_group_says_so() -> None:
    plain, resilient = (
        nexthops.put_group(0x61400001, (0x61000001,), is_new=True, is_resilient=wanted) for wanted in (False, True)
    )
    # NHA_GROUP_TYPE 1, padded; NHA_RES_GROUP, nested: NHA_RES_GROUP_BUCKETS 512
    assert body(resilient)[1] == body(plain)[1] + " 06000300 01000000 0c000c80 06000100 00020000"


def test_objects_are_deleted_and_asked_for_by_id() -> None:
    for build, kind in ((nexthops.delete, 105), (nexthops.get, 106)):
        header, packed = body(build(0x61000001))
        assert (header.kind, header.flags, packed) == (kind, 1, "00000000 00000000 08000100 01000061")


def test_the_family_of_a_hop_is_that_of_its_gateway(family: Family) -> None:
    for gateway, expected in ((bytes(4), Family.IPV4), (bytes(16), Family.IPV6), (b"", family)):
        assert nexthops.family_of_hop(NextHop(gateway, 1), family) is expected


def test_what_an_object_is_can_be_read_off_its_id() -> None:
    ranges = [HOP_IDS, *GROUP_IDS.values()]
    assert set(GROUP_IDS) == set(Family)
    assert sum(map(len, ranges)) == max(each.stop for each in ranges) - min(each.start for each in ranges)
    assert all(0 < each.start < each.stop <= 2**32 for each in ranges)


@pytest.mark.parametrize("weights", ["0300 0000", "0001 0000", "ff01 0000"], ids=["4", "257", "512"])
def test_a_group_with_weights_is_uneven(weights: str) -> None:
    data = bytes.fromhex(f"00006100 00000000 08000100 01004061 14000200 01000061 {weights} 02000061 00000000")
    group = nexthops.parse(data, 0, len(data))
    assert group == KernelGroup(0x61400001, 97, (0x61000001, 0x61000002), is_even=False, is_resilient=False)


def test_a_blackhole_is_a_hop_without_interface() -> None:
    data = b"before" + bytes.fromhex("02000400 00000000 08000100 05000000 04000400")  # NHA_BLACKHOLE
    assert nexthops.parse(data, 6, len(data)) == KernelHop(5, 4, Family.IPV4, NextHop(b"", 0))


@pytest.mark.kernel
class TestKernel:
    @staticmethod
    async def write(wire: NetlinkSocket, *requests: bytes) -> None:
        assert await wire.write(requests) == []

    @staticmethod
    async def parsed() -> list[KernelHop | KernelGroup]:
        return await netlink.dump(nexthops.DUMP, nexthops.parse)

    async def test_a_hop_is_what_ip_shows_and_reads_back(self, wire: NetlinkSocket, node: Node, family: Family) -> None:
        hop = node.hop(family, 1)
        await self.write(wire, nexthops.put_hop(FIRST, family, hop, is_new=True))
        (shown,) = node.ip_json("nexthop show")
        assert (shown["id"], shown["gateway"], shown["dev"]) == (FIRST, str(ip_address(hop.gateway)), "a1")
        assert (shown["protocol"], shown["flags"]) == ("97", [])
        assert await self.parsed() == [KernelHop(FIRST, 97, family, hop)]

    async def test_an_onlink_gateway_need_not_be_in_a_subnet(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        gateway = ip_address("192.0.2.1" if family is Family.IPV4 else "2001:db8::1")
        hop = NextHop(gateway.packed, node.interface(0))
        (refused,) = await wire.write([nexthops.put_hop(FIRST, family, hop, is_new=True)])
        assert refused.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL}
        onlink = hop._replace(onlink=True)
        await self.write(wire, nexthops.put_hop(FIRST, family, onlink, is_new=True))
        assert node.ip_json("nexthop show")[0]["flags"] == ["onlink"]
        assert await self.parsed() == [KernelHop(FIRST, 97, family, onlink)]

    async def test_a_hop_onto_the_link_has_the_family_of_its_routes(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        hop = NextHop(b"", node.interface(0))
        await self.write(wire, nexthops.put_hop(FIRST, family, hop, is_new=True))
        assert "gateway" not in node.ip_json("nexthop show")[0]
        assert await self.parsed() == [KernelHop(FIRST, 97, family, hop)]

    async def test_an_id_is_given_once(self, wire: NetlinkSocket, node: Node) -> None:
        hop = node.hop(Family.IPV4, 0)
        again = [nexthops.put_hop(FIRST, Family.IPV4, hop, is_new=True), nexthops.create_blackhole(FIRST)]
        group = nexthops.put_group(GROUP_IDS[Family.IPV4].start, (FIRST,), is_new=True)
        failures = await wire.write([*again, group, group])
        assert [(failure.position, failure.errno) for failure in failures] == [(1, errno.EEXIST), (3, errno.EEXIST)]

    async def test_a_group_changes_in_place_and_is_not_made_by_a_change(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        number = GROUP_IDS[family].start
        hops = [nexthops.put_hop(FIRST + i, family, node.hop(family, i), is_new=True) for i in range(2)]
        (failure,) = await wire.write([*hops, nexthops.put_group(number, (FIRST,), is_new=False)])
        assert failure.errno == errno.ENOENT
        await self.write(wire, nexthops.put_group(number, (FIRST,), is_new=True))
        await self.write(wire, nexthops.put_group(number, (FIRST, FIRST + 1), is_new=False))
        shown = next(row for row in node.ip_json("nexthop show") if row["id"] == number)
        assert (shown["group"], shown["protocol"]) == ([{"id": FIRST}, {"id": FIRST + 1}], "97")
        group = KernelGroup(number, 97, (FIRST, FIRST + 1), is_even=True, is_resilient=False)
        assert group in await self.parsed()

    async def test_a_resilient_group_keeps_idle_buckets_for_two_minutes(
        self, wire: NetlinkSocket, node: Node, family: Family
    ) -> None:
        number = GROUP_IDS[family].start
        await self.write(
            wire,
            nexthops.put_hop(FIRST, family, node.hop(family, 0), is_new=True),
            nexthops.put_group(number, (FIRST,), is_new=True, is_resilient=True),
        )
        shown = next(row for row in node.ip_json("nexthop show") if row["id"] == number)
        assert shown["type"] == "resilient"
        assert (shown["resilient_args"]["buckets"], shown["resilient_args"]["idle_timer"]) == (512, 120)
        assert KernelGroup(number, 97, (FIRST,), is_even=True, is_resilient=True) in await self.parsed()

    async def test_what_others_made_is_read_too(self, node: Node, family: Family) -> None:
        gateway = str(ip_address(node.hop(family, 0).gateway))
        node.ip(f"nexthop add id 1 via {gateway} dev a0 proto 4")
        node.ip("nexthop add id 2 blackhole proto 12")
        node.ip(f"nexthop add id 3 via {gateway} dev a0")
        node.ip("nexthop add id 4 group 1,5/3 proto 4")
        single, nowhere, plain, group = await self.parsed()
        assert single == KernelHop(1, 4, family, node.hop(family, 0))
        assert (nowhere.id, nowhere.protocol) == (2, 12)
        assert isinstance(nowhere, KernelHop)
        assert nowhere.hop == NextHop(b"", 0)
        assert (plain.id, plain.protocol) == (3, 0)
        assert group == KernelGroup(4, 4, (1, 3), is_even=False, is_resilient=False)

    async def test_a_blackhole_needs_no_link_but_loopback(self, wire: NetlinkSocket, node: Node) -> None:
        for name in ("a0", "a1"):
            node.ip(f"link set {name} down")
        await self.write(wire, nexthops.create_blackhole(FIRST))
        (shown,) = node.ip_json("nexthop show")
        assert (shown["id"], shown["protocol"]) == (FIRST, "97")
        assert "blackhole" in shown

    async def test_one_object_is_asked_for_and_deleted(self, wire: NetlinkSocket, node: Node, family: Family) -> None:
        hops = [KernelHop(FIRST + i, 97, family, node.hop(family, i)) for i in range(2)]
        await self.write(wire, *(nexthops.put_hop(each.id, family, each.hop, is_new=True) for each in hops))
        answer = wire.ask(nexthops.get(FIRST + 1))
        assert nexthops.parse(answer, 0, len(answer)) == hops[1]
        await self.write(wire, nexthops.delete(FIRST + 1))
        with pytest.raises(FileNotFoundError):
            wire.ask(nexthops.get(FIRST + 1))
        assert await self.parsed() == hops[:1]

    async def test_ids_of_our_ranges_are_such_as_the_kernel_takes(self, wire: NetlinkSocket, node: Node) -> None:
        numbers = [number for ids in (HOP_IDS, *GROUP_IDS.values()) for number in (ids.start, ids.stop - 1)]
        await self.write(wire, *(nexthops.create_blackhole(number) for number in numbers))
        assert {row["id"] for row in node.ip_json("nexthop show")} == set(numbers)
