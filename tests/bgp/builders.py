"""Short ways to say what a test is about: paths, rules, nodes. What is not said has a value that does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Final

from bgp.config import BgpConfig, Node, Peering
from bgp.import_rules import DEFAULT_LOCAL_PREFERENCE, ImportRules, PrefixRange
from bgp.path import AsPath, Attributes, NextHopKey, Path, PeerKey, Source
from bgp.peering import Plan, plan
from bgp.rib import Rib
from inet.prefix import Family, IPAddress, Prefix, parse_address
from inet.prefix_map import PrefixMap

OWN_ASN: Final = 64512
ROUTER: Final = "172.16.1.1"
TOWARDS: Final = {parse_address(ROUTER): parse_address("172.16.1.11")}
EVERYTHING: Final = tuple(PrefixRange(Prefix.parse(text), 0, 128) for text in ("0.0.0.0/0", "::/0"))


@dataclass(frozen=True)
class Net:
    """The same small network in one family: nodes, routers and pod CIDRs by number."""

    family: Family

    def cidr(self, number: int) -> Prefix:
        return Prefix.parse(f"10.42.{number}.0/24" if self.family is Family.IPV4 else f"fd42:0:0:{number:x}::/64")

    @property
    def cluster(self) -> Prefix:
        return Prefix.parse("10.42.0.0/16" if self.family is Family.IPV4 else "fd42::/48")

    @property
    def default(self) -> Prefix:
        return Prefix.parse("0.0.0.0/0" if self.family is Family.IPV4 else "::/0")

    def host(self, number: int) -> IPAddress:
        return parse_address(f"192.168.0.{number}" if self.family is Family.IPV4 else f"fd00::{number:x}")

    def inside(self, cidr: Prefix) -> Prefix:
        """Return the first single address of a CIDR."""
        return Prefix(cidr.packed, self.family.bits)


V4, V6 = Net(Family.IPV4), Net(Family.IPV6)


def as_path(text: str) -> AsPath:
    """Read `65100 65002`, with an AS_SET at the end as `{65003,65004}`."""
    sequence, _, aggregated = text.partition("{")
    numbers = aggregated.rstrip("}").split(",") if aggregated else []
    return AsPath(tuple(map(int, sequence.split())), frozenset(map(int, numbers)))


def source(peer: str = "192.168.0.1", *, asn: int = 65100, router_id: str = "9.9.9.9") -> Source:
    """A peer of ours; of our own AS it is an internal one."""
    return Source(parse_address(peer), asn, asn == OWN_ASN, IPv4Address(router_id))


def attributes(next_hop: str | IPAddress = "192.168.0.1", path: str = "65100", **others: Any) -> Attributes:
    address = parse_address(next_hop) if isinstance(next_hop, str) else next_hop
    return Attributes(next_hop=address, as_path=as_path(path), **others)


def path(
    peer: str = "192.168.0.1",
    *,
    is_internal: bool = False,
    router_id: str = "9.9.9.9",
    local_pref: int = DEFAULT_LOCAL_PREFERENCE,
    via: str = "65100",
    next_hop: str = "192.168.0.1",
    **others: Any,
) -> Path:
    """One peer's word; `via` is its AS path. Only an internal peer speaks of its preference."""
    of = source(peer, asn=OWN_ASN if is_internal else 65100, router_id=router_id)
    said = attributes(next_hop, via, local_pref=local_pref if is_internal else None, **others)
    return Path(of, said, local_pref)


def rules(**changes: Any) -> ImportRules:
    """Rules that let everything in but paths through ourselves, unless said otherwise."""
    settings: dict[str, Any] = {
        "own_asn": OWN_ASN,
        "own_router_id": IPv4Address("192.168.0.100"),
        "own_addresses": frozenset({V4.host(100), V6.host(100)}),
        "own_prefixes": (V4.cidr(100), V6.cidr(100)),
        "accept": EVERYTHING,
        "owners": {},
    } | changes
    return ImportRules(**settings | {"owners": PrefixMap(settings["owners"])})


def hops(*numbers: int) -> dict[NextHopKey, int | None]:
    """Say that these hosts are on the link, in both families."""
    return {NextHopKey(net.host(number)): 0 for net in (V4, V6) for number in numbers}


def rib_with(peers: Iterable[Source], **changes: Any) -> Rib:
    """A RIB with sessions to peers that may say anything."""
    rib = Rib(**changes)
    for each in peers:
        rib.open(each, rules())
    return rib


def settle(rib: Rib) -> None:
    """Resolve every next hop as on the link, and decide everything."""
    rib.set_reachability(dict.fromkeys(rib.take_unresolved(), 0))
    rib.decide()


def peers_of(rib: Rib, prefix: Prefix) -> list[PeerKey]:
    """Whose paths carry a prefix."""
    choice = rib.chosen().get(prefix)
    return [path.source.peer for path in choice.multipath] if choice else []


def node(number: int, *, asn: int = OWN_ASN, families: Iterable[Family] = Family, **changes: Any) -> Node:
    """Node n1 has addresses 192.168.0.1 and fd00::1, and pod CIDRs 10.42.1.0/24 and fd42:0:0:1::/64."""
    nets = [Net(family) for family in sorted(families)]
    settings: dict[str, Any] = {
        "name": f"n{number}",
        "addresses": tuple(net.host(number) for net in nets),
        "pod_cidrs": tuple(net.cidr(number) for net in nets),
        "asn": asn,
    }
    return Node(**settings | changes)


def peering(name: str = "tor", *, nodes: Iterable[str] = ("n1",), **changes: Any) -> Peering:
    """A BGPPeer, by address unless `peer_nodes` are given; texts become addresses."""
    settings = dict(changes)
    for field in ("address", "source_address"):
        if isinstance(settings.get(field), str):
            settings[field] = parse_address(settings[field])
    if "peer_nodes" in settings:
        settings["peer_nodes"] = frozenset(settings["peer_nodes"])
    return Peering(name, frozenset(nodes), **settings)


def plan_of(
    nodes: Iterable[Node], *, on: str = "n1", towards: Mapping[IPAddress, IPAddress] = TOWARDS, **settings: Any
) -> Plan:
    """What the named node should do, with the kernel's source address towards each router."""
    by_name = {each.name: each for each in nodes}
    return plan(BgpConfig(nodes=by_name, **settings), by_name[on], towards)
