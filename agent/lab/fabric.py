"""A plan's namespaces and cables, as commands of `ip`, and their making and unmaking.

`batches` is pure; `build` runs it: everything in the fewest processes, since each costs milliseconds.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.lab.namespaces import existing, inside, run
from agent.lab.plan import Machine, Plan, Port, Role
from inet.prefix import Family


@dataclass(frozen=True, slots=True)
class Batches:
    """Input for `ip -batch`: `cables` run outside, `machines` each in its namespace."""

    cables: str
    machines: Mapping[str, str]


def batches(plan: Plan) -> Batches:
    """Return what makes the plan, namespaces being there."""
    cables = [f"link add {_end(plan, cable.a)} type veth peer {_end(plan, cable.b)}" for cable in plan.cables]
    return Batches(
        cables="\n".join(cables) + "\n",
        machines={name: "\n".join(_furnish(plan, machine)) + "\n" for name, machine in plan.machines.items()},
    )


def _end(plan: Plan, port: Port) -> str:
    mac = f" address {port.mac}" if port.mac else ""
    return f"name {port.name} index {port.index}{mac} netns {plan.machines[port.machine].namespace}"


def _furnish(plan: Plan, machine: Machine) -> Iterator[str]:
    """Yield the commands inside one namespace."""
    yield "link set lo up"
    ports = list(plan.ports_of(machine.name))
    if machine.role is Role.SWITCH:
        yield "link add br0 type bridge mcast_snooping 0"
        yield from (f"link set {port.name} master br0 up" for port in ports)
        yield "link set br0 up"
    else:
        # Up first: the kernel forgets the route to an IPv6 peer when the address comes before that.
        yield from (f"link set {port.name} up" for port in ports)
    for port in ports:
        yield from (f"addr add {address} dev {port.name}" for address in port.addresses)
    yield from (f"route add {route}" for route in machine.routes)
    yield from _neighbour_proxies(ports)


def _neighbour_proxies(ports: Sequence[Port]) -> Iterator[str]:
    """Yield the IPv6 twin of proxy_arp, which has to name each address: a router's nodes to one another."""
    peers = [
        (port.name, address.peer)
        for port in ports
        for address in port.addresses
        if address.peer is not None and address.family is Family.IPV6
    ]
    for interface, _ in peers:
        for other, peer in peers:
            if other != interface:
                yield f"neigh add proxy {peer} dev {interface}"


async def build(plan: Plan) -> None:
    """Make namespaces and cables. Raises CommandError; what was made by then stays for `remove`."""
    commands = batches(plan)
    names = {name: machine.namespace for name, machine in plan.machines.items()}
    await run(["ip", "-batch", "-"], stdin="".join(f"netns add {namespace}\n" for namespace in names.values()))
    await asyncio.gather(*(_set_sysctls(machine) for machine in plan.machines.values()))
    await run(["ip", "-batch", "-"], stdin=commands.cables)
    await asyncio.gather(
        *(run(["ip", "-n", names[name], "-batch", "-"], stdin=text) for name, text in commands.machines.items())
    )


async def remove(namespaces: Sequence[str]) -> None:
    """Delete those of the namespaces that exist; their cables go with them."""
    present = existing()
    doomed = [namespace for namespace in namespaces if namespace in present]
    if doomed:
        await run(["ip", "-batch", "-"], stdin="".join(f"netns del {namespace}\n" for namespace in doomed))


async def set_ports(plan: Plan, ports: Sequence[Port], *, up: bool) -> None:
    """Set ports up or down, at once for those of one machine."""
    by_machine: defaultdict[str, list[str]] = defaultdict(list)
    for port in ports:
        by_machine[port.machine].append(f"link set {port.name} {'up' if up else 'down'}\n")
    await asyncio.gather(
        *(
            run(["ip", "-n", plan.machines[machine].namespace, "-batch", "-"], stdin="".join(lines))
            for machine, lines in by_machine.items()
        )
    )


async def _set_sysctls(machine: Machine) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in machine.sysctls.items())
    await run(inside(machine.namespace, ["sysctl", "-q", "-p", "-"]), stdin=text)
