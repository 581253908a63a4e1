"""What a lab looks like now: machines, links, sessions, as one value for JSON and for the drawing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence

import msgspec

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError, run
from agent.lab.plan import Port, Role
from agent.lab.speakers import DaemonError, SessionView
from inet.prefix import Family, IPAddress


class SessionStatus(msgspec.Struct, rename="camel", frozen=True):
    """A session as one side sees it; a lab's session may so appear twice."""

    machine: str
    peer: str  # machine, or the address of something the lab does not know
    peer_address: str
    link: int | None  # number in the topology
    state: str
    families: Mapping[str, Mapping[str, int]]  # family → received, sent
    last_error: str


class LinkStatus(msgspec.Struct, rename="camel", frozen=True):
    """A cable and what is wrong with it: `up`, `cut`, `silent` (on purpose), `down` (otherwise)."""

    link: int  # number in the topology; the cables of a switch share theirs
    a: str
    a_interface: str
    b: str
    b_interface: str
    state: str


class MachineStatus(msgspec.Struct, rename="camel", frozen=True):
    """A machine. `state`: running, ended (it should run), off (by `kill`), or none where nothing is to run."""

    name: str
    role: str
    daemon: str  # agent, bird, frr, gobgp, or empty
    asn: int | None
    node: str | None  # of a pod
    addresses: tuple[str, ...]
    namespace: str
    state: str


class LabStatus(msgspec.Struct, rename="camel", frozen=True):
    """The lab."""

    name: str
    directory: str
    manifests: str
    machines: tuple[MachineStatus, ...]
    links: tuple[LinkStatus, ...]
    sessions: tuple[SessionStatus, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether everything runs, is linked, and every session is established."""
        return (
            all(machine.state in {"running", "none"} for machine in self.machines)
            and all(link.state == "up" for link in self.links)
            and all(session.state == "Established" for session in self.sessions)
        )


async def look(lab: Lab) -> LabStatus:
    """Ask everything at once; what does not answer shows as ended or down."""
    speaking = [*lab.plan.speakers, *(name for name, node in lab.plan.nodes.items() if node.daemon == "agent")]
    carriers, sessions = await asyncio.gather(
        _carriers(lab), asyncio.gather(*(_sessions(lab, name) for name in speaking))
    )
    return LabStatus(
        name=lab.name,
        directory=str(lab.state.path),
        manifests=str(lab.manifests),
        machines=tuple(_machine(lab, name) for name in lab.plan.machines),
        links=tuple(
            _link(lab, number, cable.a.link, carriers)
            for number, cable in enumerate(lab.plan.cables)
            if cable.a.link is not None
        ),
        sessions=tuple(session for some in sessions for session in some),
    )


def _machine(lab: Lab, name: str) -> MachineStatus:
    machine = lab.plan.machines[name]
    speaker = lab.plan.speakers.get(name)
    node = lab.plan.nodes.get(name)
    if name in lab.faults().off:
        state = "off"
    elif speaker is None and (node is None or node.daemon == "none"):
        state = "none"
    else:
        state = "running" if lab.is_running(name) else "ended"
    return MachineStatus(
        name=name,
        role=machine.role.value,
        daemon=speaker.daemon if speaker else node.daemon if node else "",
        asn=speaker.asn if speaker else node.asn if node else None,
        node=lab.topology.pods.get(name),
        addresses=tuple(map(str, lab.plan.hosts.get(name, ()))),
        namespace=machine.namespace,
        state=state,
    )


async def _sessions(lab: Lab, name: str) -> Sequence[SessionStatus]:
    try:
        views = await lab.sessions(name)
    except (DaemonError, OSError):
        return ()
    return [_session(lab, name, view) for view in views.values()]


def _session(lab: Lab, name: str, view: SessionView) -> SessionStatus:
    port = _port_with(lab, view.peer, towards=name)
    return SessionStatus(
        machine=name,
        peer=port.machine if port else str(view.peer),
        peer_address=str(view.peer),
        link=port.link if port else None,
        state=view.state,
        families={
            family.label: {"received": view.received[family], "sent": view.sent.get(family, 0)}
            for family in Family
            if family in view.received
        },
        last_error=view.last_error,
    )


def _port_with(lab: Lab, address: IPAddress, *, towards: str) -> Port | None:
    """Return the port that has an address; a router has the same one on several, of which one leads here."""
    ports = [
        port
        for cable in lab.plan.cables
        for port in (cable.a, cable.b)
        if port.link is not None and any(it.local == address for it in port.addresses)
    ]
    links = {port.link for port in lab.plan.ports_of(towards)}
    return next((port for port in ports if port.link in links), ports[0] if ports else None)


def _link(lab: Lab, number: int, link: int, carriers: Mapping[tuple[str, str], bool]) -> LinkStatus:
    faults = lab.faults()
    cable = lab.plan.cables[number]
    is_up = all(carriers.get((port.machine, port.name), False) for port in (cable.a, cable.b))
    if number in faults.cut:
        state = "cut"
    elif number in faults.silent:
        state = "silent"
    else:
        state = "up" if is_up else "down"
    return LinkStatus(link, cable.a.machine, cable.a.name, cable.b.machine, cable.b.name, state)


async def _carriers(lab: Lab) -> Mapping[tuple[str, str], bool]:
    """Return, for every port (machine, interface) but those of pods, whether the kernel has it up."""
    machines = [machine for machine in lab.plan.machines.values() if machine.role is not Role.POD]
    answers = await asyncio.gather(*(_interfaces(machine.namespace) for machine in machines))
    return {
        (machine.name, interface["ifname"]): interface["operstate"] == "UP"
        for machine, interfaces in zip(machines, answers, strict=True)
        for interface in interfaces
    }


async def _interfaces(namespace: str) -> list[dict[str, str]]:
    try:
        interfaces: list[dict[str, str]] = json.loads(await run(["ip", "-n", namespace, "-j", "link", "show"]))
    except CommandError:
        return []
    return interfaces
