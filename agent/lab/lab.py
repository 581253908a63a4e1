"""A running lab: built, broken, healed, asked, taken away.

`Lab` applies a `Plan` and keeps nothing in memory that `State` does not hold: each command of `tortie lab` is a
new process that finds the lab again by its name.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from agent.lab import fabric, processes, rootless
from agent.lab.manifests import node_manifests, pod_manifests
from agent.lab.namespaces import CommandError, existing, inside, run
from agent.lab.plan import Cable, Plan, Port, Role, plan
from agent.lab.processes import Process
from agent.lab.speakers import Daemon, DaemonError, Neighbour, Program, RouteView, SessionView, Speaker
from agent.lab.speakers.agent import agent_sessions
from agent.lab.speakers.bird import Bird
from agent.lab.speakers.frr import Frr
from agent.lab.speakers.gobgp import GoBgp
from agent.lab.state import Faults, LabError, State, default_root, running
from agent.lab.topology import Announcement, DaemonName, Topology
from agent.lab.wait import eventually
from inet.prefix import Family, IPAddress, Prefix

START_DEADLINE_S: Final = 60
DAEMONS: Final[Mapping[DaemonName, Callable[[Speaker, str, Path], Daemon]]] = {
    "bird": Bird,
    "frr": Frr,
    "gobgp": GoBgp,
}
_NEEDED: Final = {"bird": "bird", "frr": "/usr/lib/frr/bgpd", "gobgp": "gobgpd"}
_PACKAGES: Final = {"bird": "bird2", "frr": "frr", "gobgp": "gobgpd"}
_LOG_TAIL = 8


class Lab:
    """One lab that is up. Names are those of its topology; an unknown one raises LabError."""

    def __init__(self, topology: Topology, state: State) -> None:
        self.topology = topology
        self.plan: Plan = plan(topology)
        self.state = state

    @classmethod
    async def up(cls, topology: Topology, *, root: Path | None = None) -> Lab:
        """Build a lab and start everything in it; returns when all daemons answer.

        Raises LabError. What was built by then stays to be looked at, and `down` removes it.
        """
        planned = plan(topology)
        _check_host(planned)
        root = root or default_root()
        namespaces = [machine.namespace for machine in planned.machines.values()]
        taken = sorted(existing().intersection(namespaces))
        if taken and topology.name not in running(root):
            raise LabError(f"network namespace {taken[0]} exists and is not this lab's: give another --name")
        lab = cls(topology, State.create(root, topology, namespaces))
        lab.state.hosts.write_text(hosts(planned))
        (lab.state.config / "nodes.yaml").write_text(node_manifests(planned))
        (lab.state.config / "pods.yaml").write_text(pod_manifests(planned))
        try:
            await fabric.build(planned)
            await _all(lab.start(name) for name in planned.machines)
        except (CommandError, DaemonError, LabError) as error:
            raise LabError(f"{error}\nWhat was built stays: `tortie lab down {lab.name}` removes it") from None
        return lab

    @classmethod
    def find(cls, name: str, *, root: Path | None = None) -> Lab:
        """Return a lab that is up. Raises LabError."""
        state = State.find(root or default_root(), name)
        return cls(state.topology(), state)

    async def down(self) -> None:
        """Stop every process in the lab's namespaces, delete them, forget the lab. Raises CommandError."""
        await tear_down(self.state)

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.plan.name

    # Looking

    def address(self, machine: str, family: Family, *, towards: str | None = None) -> IPAddress:
        """Return a machine's main address, or the one on its link with another machine. Raises LookupError."""
        return self.plan.address(self._known(machine), family, towards=towards)

    def command(self, machine: str, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` on a machine, where the lab's names resolve and `tortie` is found."""
        directory = self.run_directory(self._known(machine))
        own_programs = Path(sys.executable).parent
        settings = [f"PATH={own_programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"]
        if directory.exists():
            settings += [f"TORTIE_SOCKET={directory}/agent.sock", f"TORTIE_LAB={self.name}"]
        return inside(self.plan.machines[machine].namespace, ["env", *settings, *argv], self._names())

    async def run(self, machine: str, *argv: str) -> str:
        """Run a command on a machine and return its output. Raises CommandError."""
        return await run(self.command(machine, argv))

    def run_directory(self, node: str) -> Path:
        """Return the agent's run directory on a node: agent.sock is there."""
        return self.state.machine(node) / "run"

    def _names(self) -> dict[Path, Path]:
        """Return the mount that makes names resolve; a container may have no /etc/hosts to mount over."""
        hosts = Path("/etc/hosts")
        return {hosts: self.state.hosts} if hosts.exists() else {}

    @property
    def manifests(self) -> Path:
        """The directory whose manifests the agents follow: the user's, or the lab's own."""
        return self.topology.manifests or self.state.manifests

    def daemon(self, machine: str) -> Daemon:
        """Return the BGP daemon of a router or stand-in. Raises LabError for other machines."""
        speaker = self.plan.speakers.get(self._known(machine))
        if speaker is None:
            raise LabError(f"{machine} runs no BIRD, FRR or GoBGP")
        namespace = self.plan.machines[machine].namespace
        return DAEMONS[speaker.daemon](speaker, namespace, self.state.machine(machine))

    async def sessions(self, machine: str) -> Mapping[IPAddress, SessionView]:
        """Return the sessions of a router or node by peer address. Raises DaemonError while it does not answer."""
        if machine in self.plan.speakers:
            return await self.daemon(machine).sessions()
        return await asyncio.to_thread(agent_sessions, self.run_directory(self._known(machine)) / "agent.sock")

    async def routes(self, machine: str, prefix: str | None = None) -> Sequence[RouteView]:
        """Return a router's paths, all or those of one prefix. Raises DaemonError while it does not answer."""
        wanted = Prefix.parse(prefix) if prefix is not None else None
        return [it for it in await self.daemon(machine).routes() if wanted in {None, it.prefix}]

    def is_running(self, machine: str) -> bool:
        """Whether everything that was started on a machine still runs."""
        started = [process for _, _, process in self.state.processes(self._known(machine))]
        return bool(started) and all(process.is_alive for process in started)

    def faults(self) -> Faults:
        """Return what is broken on purpose."""
        return self.state.faults()

    # Routes and sessions

    async def announce(self, router: str, what: str | Announcement) -> None:
        """Have a router originate a prefix, in place of what it said about it before."""
        new = Announcement.model_validate({"prefix": what}) if isinstance(what, str) else what
        daemon, kept = self.daemon(router), self._announced_without(router, new.prefix)
        self._originate(router, daemon, [*kept, new])
        await daemon.announce(new)

    async def withdraw(self, router: str, prefix: str) -> None:
        """Have a router no longer originate a prefix."""
        gone = Prefix.parse(prefix)
        daemon, kept = self.daemon(router), self._announced_without(router, gone)
        self._originate(router, daemon, kept)
        await daemon.withdraw(gone)

    def _announced_without(self, router: str, prefix: Prefix) -> list[Announcement]:
        announced = self.state.announced(router, self.plan.speakers[router].announce)
        return [it for it in announced if it.prefix != prefix]

    def _originate(self, router: str, daemon: Daemon, announced: Sequence[Announcement]) -> None:
        self.state.set_announced(router, announced)
        self._write_files(router, daemon, announced)

    async def disable(self, router: str, peer: str) -> None:
        """Shut a router's sessions with another machine down by administration."""
        for neighbour in self._neighbours(router, peer):
            await self.daemon(router).disable(neighbour)

    async def enable(self, router: str, peer: str) -> None:
        """Undo `disable`."""
        for neighbour in self._neighbours(router, peer):
            await self.daemon(router).enable(neighbour)

    def _neighbours(self, router: str, peer: str) -> list[Neighbour]:
        self.daemon(router)
        found = [it for it in self.plan.speakers[router].neighbours if it.machine == self._known(peer)]
        if not found:
            raise LabError(f"{router} has no session with {peer}")
        return found

    # Breaking and healing

    async def fail_link(self, a: str, b: str, *, silent: bool = False) -> None:
        """Cut the cables between two machines: `a` loses carrier. `silent`: it stays up, and nothing gets through."""
        numbers = self._cables(a, b)
        faults = self.state.faults()
        if silent:
            faults.silent |= numbers
            await self._silence(numbers - faults.cut)
        else:
            faults.cut |= numbers
            await fabric.set_ports(self.plan, [self._shut_end(self.plan.cables[n], a) for n in numbers], up=False)
        self.state.set_faults(faults)

    async def heal_link(self, a: str, b: str) -> None:
        """Undo `fail_link`."""
        numbers = self._cables(a, b)
        faults = self.state.faults()
        await self._unsilence(numbers & faults.silent)
        faults.cut -= numbers
        faults.silent -= numbers
        ports = [port for n in numbers for port in _ends(self.plan.cables[n]) if port.machine not in faults.off]
        await fabric.set_ports(self.plan, ports, up=True)
        self.state.set_faults(faults)

    async def kill(self, machine: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End the processes on a machine and nothing else: links and kernel routes stay. They do not come back."""
        found = list(self.state.processes(self._known(machine)))
        if not found:
            raise LabError(f"nothing was started on {machine}")
        await asyncio.gather(*(process.stop(number) for _, _, process in found))
        for name, program, _ in found:
            self.state.forget(name, program)

    async def power_off(self, machine: str) -> None:
        """Take a machine away as a power cut does: processes killed, its links without carrier at the other ends."""
        faults = self.state.faults()
        faults.off.add(self._known(machine))
        self.state.set_faults(faults)
        await fabric.set_ports(self.plan, self._link_ports(machine), up=False)
        if list(self.state.processes(machine)):
            await self.kill(machine)
        await _kill_all_in(self.plan.machines[machine].namespace)

    async def power_on(self, machine: str) -> None:
        """Give a machine its power back: links up, everything started from nothing."""
        faults = self.state.faults()
        faults.off.discard(self._known(machine))
        self.state.set_faults(faults)
        shut = {self._shut_end(self.plan.cables[n], "") for n in faults.cut}
        await fabric.set_ports(self.plan, [port for port in self._link_ports(machine) if port not in shut], up=True)
        await self.start(machine)

    async def restart(self, machine: str, number: signal.Signals | None = None) -> None:
        """Stop and start what runs on a machine, or give it its power back.

        By default an agent is asked to stop (SIGTERM) and a router's daemon is killed, since BIRD and FRR say
        farewell to their peers when asked; both come back by graceful restart.
        """
        if self._known(machine) in self.state.faults().off:
            await self.power_on(machine)
            return
        if list(self.state.processes(machine)):
            by_default = signal.SIGKILL if machine in self.plan.speakers else signal.SIGTERM
            await self.kill(machine, number or by_default)
        await self.start(machine, recover=True)

    async def start(self, machine: str, *, recover: bool = False) -> None:
        """Start what a machine runs; returns when it answers. `recover`: as after a crash. Raises LabError."""
        if self.is_running(machine):
            raise LabError(f"{machine} runs already")
        self.state.machine(machine).mkdir(exist_ok=True)
        if machine in self.plan.speakers:
            daemon = self.daemon(machine)
            announced = self.state.announced(machine, self.plan.speakers[machine].announce)
            self._write_files(machine, daemon, announced)
            for program in daemon.programs(recover=recover):
                await self._launch(machine, program)
            await daemon.started(announced)
        elif machine in self.plan.nodes and self.plan.nodes[machine].daemon == "agent":
            await self._launch(machine, self._agent(machine))

    def _agent(self, node: str) -> Program:
        directory = self.run_directory(node)
        directory.mkdir(mode=0o700, exist_ok=True)
        facts = {"node": node, "config": str(self.state.config), "run_dir": str(directory)}
        command = tuple(word.format(**facts) for word in self.plan.nodes[node].command)
        tortie = Path(sys.executable).with_name("tortie")
        own = (str(tortie), "agent", "--config", facts["config"], "--node", node, "--run-dir", facts["run_dir"])
        return Program("agent", command or own, None if command else directory / "agent.sock")

    async def _launch(self, machine: str, program: Program) -> None:
        """Start one program and wait until it listens."""
        mounts = self._names()
        if self.topology.manifests is not None and machine in self.plan.nodes:
            mounts[self.state.manifests] = self.topology.manifests
        socket = program.ready
        if socket is not None:
            self.state.check_socket(socket)
            socket.unlink(missing_ok=True)
        argv = inside(self.plan.machines[machine].namespace, program.argv, mounts)
        log = self.state.log(machine, program.name)
        process = await processes.start(argv, log)
        if process is not None:
            self.state.remember(machine, program.name, process)
        if socket is None:
            return
        try:
            is_up = partial(_is_up_or_died, socket, process, greets=program.greets)
            await eventually(is_up, within_s=START_DEADLINE_S, every_s=0.01)
        except TimeoutError:
            raise LabError(f"{machine}: {program.name} does not answer; {_tail(log)}") from None
        if process is None or not process.is_alive:
            raise LabError(f"{machine}: {program.name} ended; {_tail(log)}")

    def _write_files(self, machine: str, daemon: Daemon, announced: Sequence[Announcement]) -> None:
        directory = self.state.machine(machine)
        for name, text in daemon.render(announced).items():
            path = directory / name
            path.touch(mode=0o640)
            path.write_text(text)
        if isinstance(daemon, Frr):
            for path in (directory, *directory.iterdir()):
                shutil.chown(path, "frr", "frr")

    # Cables

    def _known(self, machine: str) -> str:
        if machine not in self.plan.machines:
            raise LabError(f"there is no {machine} in lab {self.name}: {', '.join(self.plan.machines)}")
        return machine

    def _cables(self, a: str, b: str) -> set[int]:
        joined = self.plan.cables_between(self._known(a), self._known(b))
        if not joined:
            ends = sorted(
                {port.machine for cable in self.plan.cables if cable.port_of(a) for port in _ends(cable)} - {a}
            )
            raise LabError(f"no cable joins {a} and {b}; {a} has cables to {', '.join(ends) or 'nothing'}")
        return {self.plan.cables.index(cable) for cable in joined}

    def _shut_end(self, cable: Cable, a: str) -> Port:
        """Return the end to set down, so that the other loses carrier: the switch's, the router's, or not `a`'s."""
        rank = {Role.SWITCH: 0, Role.ROUTER: 1, Role.NODE: 2, Role.POD: 3}
        return min(_ends(cable), key=lambda port: (rank[self.plan.machines[port.machine].role], port.machine == a))

    def _link_ports(self, machine: str) -> list[Port]:
        return [port for port in self.plan.ports_of(machine) if port.link is not None]

    async def _silence(self, numbers: Iterable[int]) -> None:
        for port in (port for n in numbers for port in _ends(self.plan.cables[n])):
            chain = f"type filter hook ingress device {port.name} priority -500; policy drop;"
            await self.run(port.machine, "nft", f"table netdev silent-{port.name} {{ chain arriving {{ {chain} }}; }}")

    async def _unsilence(self, numbers: Iterable[int]) -> None:
        for port in (port for n in numbers for port in _ends(self.plan.cables[n])):
            await self.run(port.machine, "nft", f"delete table netdev silent-{port.name}")


async def tear_down(state: State) -> None:
    """Take away everything a lab made, whole or half; nothing else is touched."""
    for _, _, process in state.processes():
        process.send(signal.SIGKILL)
    present = existing()
    await asyncio.gather(*(_kill_all_in(name) for name in state.namespaces() if name in present))
    for _, _, process in state.processes():
        await process.ended(within_s=5)
    await fabric.remove(state.namespaces())
    state.remove()


async def _kill_all_in(namespace: str) -> None:
    """Kill whatever runs in a namespace of ours: children of a killed agent, commands left behind."""
    for pid in (await run(["ip", "netns", "pids", namespace])).split():
        process = processes.find(int(pid))
        if process is not None and process.pid != os.getpid():
            await process.stop(signal.SIGKILL)


def _check_host(planned: Plan) -> None:
    """Raise LabError for what this machine lacks."""
    if os.geteuid() != 0:
        enter = shlex.join(rootless.command(["bash"]))
        raise LabError(
            f"a lab makes network namespaces: run it as root, or first enter a namespace of your own:\n{enter}"
        )
    for name, speaker in planned.speakers.items():
        if shutil.which(_NEEDED[speaker.daemon]) is None:
            raise LabError(f"{name} needs {speaker.daemon}: apt-get install {_PACKAGES[speaker.daemon]}")
        if speaker.daemon == "frr" and not rootless.has_user("frr"):
            raise LabError(
                f"{name}: FRR changes to its user frr, who is not in this user namespace: use bird, or be root"
            )


def hosts(planned: Plan) -> str:
    """Return the lab's /etc/hosts."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    lines += [f"{address} {name}" for name, addresses in planned.hosts.items() for address in addresses]
    return "\n".join(lines) + "\n"


async def _is_up_or_died(socket: Path, process: Process | None, *, greets: bool) -> bool:
    if process is None or not process.is_alive:
        return True
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        return not greets or bool(await reader.readline())
    finally:
        writer.close()
        await writer.wait_closed()


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
    except FileNotFoundError:
        lines = []
    return f"the end of {log}:\n" + "\n".join(f"  {line}" for line in lines)


def _ends(cable: Cable) -> tuple[Port, Port]:
    return cable.a, cable.b


async def _all(starting: Iterable[Awaitable[None]]) -> None:
    """Run them side by side; the first failure is raised when all have come to an end."""
    for result in await asyncio.gather(*starting, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
