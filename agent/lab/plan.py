"""What a topology comes to: namespaces, cables, addresses, sysctls, speakers, Node objects. A pure function.

Golden tests pin a plan; `fabric` writes it into the kernel, `lab` runs what it names. Nothing here knows where
the lab's files will be.
"""

from __future__ import annotations

import enum
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Final

from agent.lab import addressing
from agent.lab.addressing import PortAddress
from agent.lab.speakers import Neighbour, Speaker
from agent.lab.topology import Announcement, Node, Router, Topology
from inet.prefix import Family, IPAddress, Prefix

INTERFACE_NAME_MAX: Final = 15  # IFNAMSIZ - 1 (linux/if.h)


class Role(enum.Enum):
    """What a machine is."""

    ROUTER = "router"
    NODE = "node"
    POD = "pod"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Port:
    """One end of a cable. `link` is its number in the topology, None between a pod and its node.

    `index` is the interface's, unlike any other in the lab: where both ends of a veth pair have the same one, the
    kernel takes them for no pair and tells of a lost carrier up to a second late (linkwatch_urgent_event).
    """

    machine: str
    name: str
    index: int
    mac: str | None  # None: the kernel's choice (a switch)
    addresses: tuple[PortAddress, ...]
    link: int | None


@dataclass(frozen=True, slots=True)
class Cable:
    """A veth pair."""

    a: Port
    b: Port

    def port_of(self, machine: str) -> Port | None:
        """Return the machine's end, if it has one."""
        return next((port for port in (self.a, self.b) if port.machine == machine), None)


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace. `routes` are arguments of `ip route add`."""

    name: str
    role: Role
    namespace: str
    sysctls: Mapping[str, str]
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A lab, complete. Machines and cables are in the order of their making."""

    name: str
    machines: Mapping[str, Machine]
    cables: tuple[Cable, ...]
    speakers: Mapping[str, Speaker]
    nodes: Mapping[str, Node]
    internal_addresses: Mapping[str, tuple[IPAddress, ...]]  # of nodes: what BGP and Node objects know them by
    hosts: Mapping[str, tuple[IPAddress, ...]] = field(default_factory=dict)  # names for /etc/hosts

    def ports_of(self, machine: str) -> Iterator[Port]:
        """Yield the machine's ports in order."""
        for cable in self.cables:
            yield from (port for port in (cable.a, cable.b) if port.machine == machine)

    def cables_between(self, a: str, b: str) -> tuple[Cable, ...]:
        """Return the cables that join two machines; one joined to others by a switch has one to the switch."""
        return tuple(cable for cable in self.cables if cable.port_of(a) and cable.port_of(b))

    def address(self, machine: str, family: Family, *, towards: str | None = None) -> IPAddress:
        """Return an address of a machine: its main one, or that on a link shared with another machine.

        Raises LookupError where there is none.
        """
        if towards is None:
            found = [address for address in self.hosts.get(machine, ()) if address.version == _version(family)]
        else:
            links = {port.link for port in self.ports_of(towards) if port.link is not None}
            found = [
                address.local
                for port in self.ports_of(machine)
                if port.link in links
                for address in port.addresses
                if address.family is family
            ]
        if not found:
            where = f" towards {towards}" if towards else ""
            raise LookupError(f"{machine} has no {family.label} address{where}")
        return found[0]


_FORWARDING: Final = {
    "net.ipv4.ip_forward": "1",
    "net.ipv6.conf.all.forwarding": "1",
    "net.ipv6.conf.default.forwarding": "1",
    # Replies may come by another of several equal ways.
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    # Ports and addresses count, so that flows between two machines spread.
    "net.ipv4.fib_multipath_hash_policy": "1",
    "net.ipv6.fib_multipath_hash_policy": "1",
}
_EVERYWHERE: Final = {
    # IPv6 addresses can be used at once; nobody else could have taken them.
    "net.ipv6.conf.all.accept_dad": "0",
    "net.ipv6.conf.default.accept_dad": "0",
    "net.ipv6.conf.all.disable_ipv6": "0",
    "net.ipv6.conf.default.disable_ipv6": "0",
    # They stay when a link goes down, as IPv4 ones do.
    "net.ipv6.conf.all.keep_addr_on_down": "1",
    "net.ipv6.conf.default.keep_addr_on_down": "1",
}
_ROUTING_DAEMON: Final = {
    # Where no agent sets it: routes over a dead link are not used while the daemon rewrites them.
    "net.ipv4.conf.all.ignore_routes_with_linkdown": "1",
    "net.ipv4.conf.default.ignore_routes_with_linkdown": "1",
    "net.ipv6.conf.all.ignore_routes_with_linkdown": "1",
    "net.ipv6.conf.default.ignore_routes_with_linkdown": "1",
}
_SUBNET_OF_NEIGHBOURS: Final = {
    # Nodes of a router's subnet are on ports of their own: it answers for them.
    "net.ipv4.conf.all.proxy_arp": "1",
    "net.ipv4.conf.default.proxy_arp": "1",
    "net.ipv6.conf.all.proxy_ndp": "1",
    "net.ipv6.conf.default.proxy_ndp": "1",
}


def plan(topology: Topology) -> Plan:
    """Work out everything. Nothing is left to chance: equal topologies give equal plans."""
    return _Planner(topology).plan()


class _Planner:
    """Collects the parts, link by link, then pod by pod."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.order = {name: number for number, name in enumerate(_names(topology), 1)}
        self.cables: list[Cable] = []
        self.port_count: defaultdict[str, int] = defaultdict(int)
        self.link_ports: list[list[Port]] = []
        self.last_index = 100

    def plan(self) -> Plan:
        """Return the whole."""
        topology = self.topology
        for number, addresses in enumerate(addressing.choose(topology)):
            self._lay_link(number, addresses)
        pod_routes: dict[str, tuple[str, ...]] = {}
        node_routes: defaultdict[str, list[str]] = defaultdict(list)
        pod_addresses: dict[str, tuple[IPAddress, ...]] = {}
        for node_name, node in topology.nodes.items():
            for index, pod in enumerate(each.name for each in node.pods):
                wired = tuple(_pod_addresses(node, index, topology))
                veth = self._lay_pod(node_name, pod, wired)
                pod_addresses[pod] = tuple(address for address, _ in wired)
                pod_routes[pod] = tuple(
                    route
                    for _, gateway in wired
                    for route in (f"{gateway} dev eth0 scope link", f"default via {gateway} dev eth0")
                )
                node_routes[node_name] += [f"{address} dev {veth} scope link" for address, _ in wired]
        for node_name in topology.nodes:
            node_routes[node_name] += self._default_routes(node_name)
        machines = [
            *(self._machine(name, Role.SWITCH) for name in topology.switches.values()),
            *(self._machine(name, Role.ROUTER) for name in topology.routers),
            *(self._machine(name, Role.NODE, tuple(node_routes[name])) for name in topology.nodes),
            *(self._machine(name, Role.POD, routes) for name, routes in pod_routes.items()),
        ]
        internal = {name: self._main_addresses(name) for name in topology.nodes}
        routers = {name: self._main_addresses(name) for name in topology.routers}
        speakers = (self._speaker(name, addresses) for name, addresses in (routers | internal).items())
        return Plan(
            name=topology.name,
            machines={machine.name: machine for machine in machines},
            cables=tuple(self.cables),
            speakers={speaker.machine: speaker for speaker in speakers if speaker is not None},
            nodes=topology.nodes,
            internal_addresses=internal,
            hosts=routers | internal | pod_addresses,
        )

    def _lay_link(self, number: int, addresses: addressing.LinkAddresses) -> None:
        link = self.topology.links[number]
        ports = [self._port(end, addresses[end], number) for end in link.ends]
        self.link_ports.append(ports)
        if len(ports) == 2:
            self.cables.append(Cable(*ports))
            return
        name = self.topology.switches[number]
        for index, port in enumerate(ports):
            self.cables.append(Cable(Port(name, f"port{index}", self._next_index(), None, (), number), port))

    def _port(self, machine: str, addresses: tuple[PortAddress, ...], link: int | None) -> Port:
        name = f"eth{self.port_count[machine]}"
        self.port_count[machine] += 1
        return Port(machine, name, self._next_index(), self._mac(machine), addresses, link)

    def _next_index(self) -> int:
        self.last_index += 1
        return self.last_index

    def _mac(self, machine: str) -> str:
        # One for all ports of a machine, as switches have: its link-local address is then the same everywhere,
        # which FRR counts on when a router has the same address on several ports.
        return "02:54:00:00:{:02x}:{:02x}".format(*divmod(self.order[machine], 256))

    def _lay_pod(self, node: str, pod: str, addresses: Sequence[tuple[IPAddress, IPAddress]]) -> str:
        """Wire a pod as the CNI plugin ptp does; return the name of the node's end."""
        name = f"veth-{pod}"
        if len(name) > INTERFACE_NAME_MAX:
            name = f"veth{hashlib.sha256(pod.encode()).hexdigest()[:8]}"
        node_port = Port(
            node,
            name,
            self._next_index(),
            self._mac(node),
            tuple(PortAddress(gateway, gateway.max_prefixlen) for _, gateway in addresses),
            None,
        )
        pod_port = Port(
            pod,
            "eth0",
            self._next_index(),
            self._mac(pod),
            tuple(PortAddress(address, address.max_prefixlen) for address, _ in addresses),
            None,
        )
        self.cables.append(Cable(node_port, pod_port))
        return name

    def _machine(self, name: str, role: Role, routes: tuple[str, ...] = ()) -> Machine:
        sysctls = dict(_EVERYWHERE)
        if role in {Role.ROUTER, Role.NODE}:
            sysctls |= _FORWARDING
        if role is Role.ROUTER or (role is Role.NODE and self.topology.nodes[name].daemon != "agent"):
            sysctls |= _ROUTING_DAEMON
        if role is Role.ROUTER:
            sysctls |= _SUBNET_OF_NEIGHBOURS
        return Machine(name, role, f"tl-{self.topology.name}-{name}", sysctls, routes)

    def _main_addresses(self, machine: str) -> tuple[IPAddress, ...]:
        """Return the first address of each family, in the order of the machine's links."""
        found: dict[Family, IPAddress] = {}
        for ports in self.link_ports:
            for port in ports:
                if port.machine == machine:
                    for address in port.addresses:
                        found.setdefault(address.family, address.local)
        return tuple(found[family] for family in sorted(found))

    def _default_routes(self, node: str) -> Iterator[str]:
        """Yield routes through the first router that speaks no BGP, since nobody else tells the node of it."""
        for ports in self.link_ports:
            mine = next((port for port in ports if port.machine == node), None)
            for port in ports if mine else ():
                router = self.topology.routers.get(port.machine)
                if mine is not None and router is not None and router.daemon == "none":
                    yield from (f"default via {each.local} dev {mine.name}" for each in port.addresses)
                    return

    def _speaker(self, name: str, addresses: Sequence[IPAddress]) -> Speaker | None:
        """Return the configuration of a router or a stand-in; None for the agent, which has its own."""
        main = next((address for address in addresses if isinstance(address, IPv4Address)), None)
        router_id = main or IPv4Address("10.255.0.0") + self.order[name]
        neighbours = tuple(self._neighbours(name))
        if router := self.topology.routers.get(name):
            if router.daemon == "none" or router.asn is None:
                return None
            return Speaker(
                machine=name,
                daemon=router.daemon,
                asn=router.asn,
                router_id=router.router_id or router_id,
                neighbours=neighbours,
                announce=router.announce,
                password=router.password,
                passive=router.passive,
                hold_time_s=router.hold_time_s,
                restart_time_s=router.restart_time_s if router.graceful_restart else None,
                next_hop_self=router.next_hop_self,
                session=router.session,
                config=router.config,
            )
        node = self.topology.nodes[name]
        if node.daemon in {"agent", "none"} or node.asn is None:
            return None
        return Speaker(
            machine=name,
            daemon="frr" if node.daemon == "frr" else "bird",
            asn=node.asn,
            router_id=router_id,
            neighbours=neighbours,
            announce=tuple(Announcement(prefix=cidr) for cidr in _usable(node.pod_cidrs, self.topology)),
            is_node=True,
        )

    def _neighbours(self, name: str) -> Iterator[Neighbour]:
        for ports in self.link_ports:
            mine = next((port for port in ports if port.machine == name), None)
            if mine is not None:
                for port in ports:
                    router = self.topology.routers.get(port.machine)
                    if port is not mine and (router is None or router.daemon != "none"):
                        yield from self._sessions(mine, port)

    def _sessions(self, mine: Port, theirs: Port) -> Iterator[Neighbour]:
        """Yield the sessions over one link: one a family, or one that carries both."""
        own = {address.family: address.local for address in reversed(mine.addresses)}
        peer = {address.family: address.local for address in reversed(theirs.addresses)}
        common = tuple(family for family in Family if family in own and family in peer)
        transport = self._transport(mine.machine, theirs.machine)
        carried = {family: (family,) for family in common} if transport is None else {transport: common}
        for over, families in carried.items():
            if over in common:
                yield Neighbour(
                    name=f"{theirs.machine.replace('-', '_')}_{mine.name}_{over.label.lower()}",
                    machine=theirs.machine,
                    interface=mine.name,
                    local=own[over],
                    address=peer[over],
                    asn=self._asn(theirs.machine),
                    families=families,
                    next_hops={family: own[family] for family in families},
                )

    def _transport(self, *machines: str) -> Family | None:
        for machine in machines:
            router: Router | None = self.topology.routers.get(machine)
            if router is not None and router.transport != "both":
                return Family.IPV4 if router.transport == "ipv4" else Family.IPV6
        return None

    def _asn(self, machine: str) -> int | None:
        router = self.topology.routers.get(machine)
        return router.asn if router is not None else self.topology.nodes[machine].asn


def _names(topology: Topology) -> Iterator[str]:
    yield from topology.routers
    yield from topology.nodes
    yield from topology.pods


def _usable(cidrs: Sequence[Prefix], topology: Topology) -> Iterator[Prefix]:
    return (cidr for cidr in cidrs if cidr.family in topology.enabled_families)


def _pod_addresses(node: Node, index: int, topology: Topology) -> Iterator[tuple[IPAddress, IPAddress]]:
    """Yield (address, gateway) in each pod CIDR: host-local gives .1 to the gateway and counts on from there."""
    for cidr in _usable(node.pod_cidrs, topology):
        network = ip_address(cidr.packed)
        yield network + 2 + index, network + 1


def _version(family: Family) -> int:
    return 4 if family is Family.IPV4 else 6
