"""How destinations are carried, as reports show it: direct, in which tunnel, and why. Reads, never writes."""

from __future__ import annotations

from collections.abc import Iterator
from socket import if_indextoname

from agent.report import CarriedReport, ConditionReport, TunnelReport
from agent.routing import Routing
from agent.tunnel_devices import Wrapping, Wrappings
from bgp.carriage import How, Tunnel
from felix.installed import InstalledRoute
from felix.route import NextHop
from inet.prefix import Family, Prefix


def carried(routing: Routing, row: InstalledRoute, wrappings: Wrappings) -> CarriedReport | None:
    """Return how packets for a route's destination travel; None for a blackhole."""
    if not row.next_hops:
        return None
    hop = row.next_hops[0]
    wrapping = wrappings.of(hop)
    choice = routing.rib.chosen().get(row.destination)
    why, tunnel = "", None
    if choice is not None:
        carriage, tunnel = routing.carrier.carriage(*choice.best.next_hop)
        why = carriage.why if (carriage.how is How.TUNNEL) == bool(wrapping) else "about to change"
    if wrapping is None:
        return CarriedReport(how=How.DIRECT.value, why=why)
    return CarriedReport(
        how=How.TUNNEL.value,
        type=wrapping.type.value,
        device=_name(hop.interface),
        node=tunnel.node if tunnel else "",
        remote=str(wrapping.far_end),
        vni=wrapping.vni or None,
        why=why,
    )


def words(hop: NextHop, wrapping: Wrapping) -> str:
    """Return a tunnel's next hop as `via` shows it."""
    kind = f"{wrapping.type.value} {wrapping.vni}" if wrapping.vni else wrapping.type.value
    return f"{kind} to {wrapping.far_end} {_name(hop.interface)}"


def node_of(routing: Routing, prefix: Prefix) -> str:
    """Return the node that a pod CIDR belongs to; empty where it is nobody's."""
    return (routing.plan.ownership.pod_cidrs.covering(prefix) or "") if routing.plan else ""


def left_out(routing: Routing, prefix: Prefix) -> str:
    """Return why no path follows from the Node object that owns a prefix, if one might have."""
    return routing.carrier.node_paths.left_out.get(prefix, "")


def tunnels(routing: Routing) -> TunnelReport:
    """Return the tunnels in short."""
    carrier = routing.carrier
    overhead = carrier.overhead
    return TunnelReport(
        devices=sorted(carrier.devices),
        peers=len(carrier.peers),
        destinations=sum(1 for _ in _tunnelled(routing)),
        overhead={family.label: overhead[family] for family in Family},
        repaired=carrier.repaired,
        vnis=list(carrier.vnis),
        problems=[f"{name}: {problem}" for name, problem in sorted(carrier.problems.items())],
    )


def unreachable(routing: Routing) -> str:
    """Say what cannot be reached because a tunnel device is missing; empty where all is well."""
    if not routing.carrier.problems:
        return ""
    stuck = [prefix for prefix, tunnel, works in _tunnelled(routing) if tunnel and not works]
    if not stuck:
        return ""
    return f"{len(stuck)} destinations need a tunnel that is not there: {'; '.join(routing.carrier.problems.values())}"


def oddities(routing: Routing) -> Iterator[ConditionReport]:
    """Yield what is worth knowing of tunnels that nothing needs at the moment."""
    problems = routing.carrier.problems
    if problems and not unreachable(routing):
        yield ConditionReport("TunnelUnavailable", "True", "DeviceMissing", "; ".join(problems.values()))


def _tunnelled(routing: Routing) -> Iterator[tuple[Prefix, Tunnel | None, bool]]:
    """Yield the pod CIDRs that are reached through a tunnel, and whether that works."""
    for prefix, address in routing.carrier.node_paths.next_hops.items():
        choice = routing.rib.chosen().get(prefix)
        carriage, tunnel = routing.carrier.carriage(address)
        is_used = choice is None or any(path.next_hop.address == address for path in choice.multipath)
        if carriage.how is How.TUNNEL and is_used:
            yield prefix, tunnel, choice is not None


def _name(interface: int) -> str:
    try:
        return if_indextoname(interface)
    except OSError:
        return f"link {interface}, gone"
