"""The nodes of a lab on this machine: `tortie` is run in each one's namespace, where it finds that node's agent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agent.fleet import FleetError, Located, NodeUnreachableError, Outcome, Record, Service
from agent.lab.lab import Lab
from agent.lab.state import LabError, default_root, the_only_name


class LabFleet:
    """See `agent.fleet.Fleet`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    @classmethod
    def find(cls, name: str = "") -> LabFleet:
        """Return the nodes of a lab that is up, of the only one without a name. Raises FleetError."""
        try:
            return cls(Lab.find(name or the_only_name(default_root())))
        except (LabError, OSError) as error:
            raise FleetError(str(error)) from None

    @property
    def name(self) -> str:
        """What is asked, for people."""
        return f"lab {self._lab.name}"

    async def nodes(self) -> Mapping[str, str]:
        """Return the nodes that are meant to run an agent."""
        names = sorted(name for name, node in self._lab.topology.nodes.items() if node.daemon == "agent")
        return {name: "" if self._lab.is_running(name) else "no agent runs there" for name in names}

    async def locate(self, end: str) -> Sequence[Located]:
        """Return the pod or node of a name. Whose an address is every agent of a lab knows."""
        plan = self._lab.plan
        if (name := end.removeprefix("node:")) in plan.nodes:
            return [Located("Node", name, name)]
        namespace, _, name = end.rpartition("/")
        return [
            Located("Pod", f"{pod.namespace}/{name}", node, tuple(map(str, plan.hosts[name])))
            for node, said in plan.nodes.items()
            for pod in said.pods
            if pod.name == name and namespace in {"", pod.namespace}
        ]

    async def service_at(self, address: str) -> Service | None:
        """Return None: there are no Services."""
        del address
        return None

    async def recorded(self) -> Sequence[Record] | None:
        """Return None: without an API server there is nowhere to write."""
        return None

    async def run(self, node: str, words: Sequence[str]) -> Outcome:
        """Run `tortie` in the node's namespace."""
        if node not in self._lab.topology.nodes:
            raise NodeUnreachableError(f"there is no node {node} in {self.name}")
        process = await asyncio.create_subprocess_exec(
            *self._lab.command(node, ["tortie", *words]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, complaint = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        return Outcome(process.returncode or 0, output, complaint.decode(errors="replace").strip())

    async def close(self) -> None:
        """Nothing is held."""
