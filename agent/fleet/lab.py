"""The nodes of a lab on this machine: `tortie` is run in each one's namespace, where it finds that node's agent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agent.fleet import FleetError, NodeUnreachableError, Outcome, Record
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

    async def node_of(self, end: str) -> str:
        """Return the node of a pod by its name."""
        return self._lab.topology.pods.get(end.rpartition("/")[2], "")

    async def addresses_of(self, end: str) -> Sequence[str]:
        """Return none: agents of a lab know every pod by its name."""
        del end
        return ()

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
