"""A question about a packet, put to the agents at both of its ends.

Each agent knows its own pods, what it enforces and what its kernel does; of other nodes' pods it may know no more than
addresses. So the agent here is asked, or where there is none that of the source's node, and then that of the other end.
Where a cluster or lab can be asked, it says who is where, and what a service address stands for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Generic, Protocol, TypeVar

import msgspec
import typer

from agent.cli.client import RefusedError, UnreachableError, ask, socket_path
from agent.cli.everywhere import Where, by_reason, open_fleet
from agent.cli.output import OK, fail, print_json
from agent.pathreport import UNKNOWN_END, End

if TYPE_CHECKING:
    from agent.fleet import Fleet, Located

OnlyHereOption = Annotated[
    bool, typer.Option("--only-here", help="What this node knows of it, as JSON: what the answer is made of.")
]
_OPTIONS: Final = {"family": "--family", "sourcePort": "--source-port"}
_ENDS: Final = ("from", "to")


class Facts(Protocol):
    """What one agent answers."""

    @property
    def node(self) -> str:
        """Who tells."""

    @property
    def source(self) -> End:
        """Who sends, as far as it knows."""

    @property
    def destination(self) -> End:
        """Who gets it, as far as it knows."""

    @property
    def service(self) -> str:
        """The service addresses that the destination is one of."""

    @property
    def knows_services(self) -> bool:
        """Whether it knows which those are."""


F = TypeVar("F", bound=Facts)


@dataclass(frozen=True, slots=True)
class Told(Generic[F]):
    """All answers. `service` says in words why the destination is none, being a service address; else empty."""

    facts: Mapping[str, F]  # by the node that tells, the first that was asked first
    unasked: Mapping[str, str]  # nodes that could not be asked, and why
    source: End
    destination: End
    service: str = ""
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> F:
        """The first answer."""
        return next(iter(self.facts.values()))


def inquire(
    what: str, answer: type[F], question: Mapping[str, object], where: Where, socket: Path | None, *, only_here: bool
) -> Told[F]:
    """Ask whoever has a part in it. `what` is what the agent's socket is asked, and the command that asks it.

    `question` has from, to, and what else there is to it; what is empty of that was not given. Ends the program where
    nobody can answer, and with `only_here` when what the agent here says is printed.
    """
    given = {name: str(value) for name, value in question.items() if value or name in _ENDS}
    inquiry = _Inquiry(what, answer, given, where, socket_path(socket))
    if not only_here:
        return asyncio.run(inquiry.ask())
    try:
        print_json(inquiry.here())
    except (UnreachableError, RefusedError) as error:
        fail(str(error))
    raise typer.Exit(OK)


@dataclass(slots=True)
class _Inquiry(Generic[F]):
    """One question."""

    what: str
    answer: type[F]
    question: dict[str, str]
    where: Where
    socket: Path
    _located: dict[str, Located] = field(default_factory=dict)
    _fleet: Fleet | None = None
    _no_fleet: str = ""

    def here(self) -> F:
        """Return what the agent here says, and ask nobody else. Raises UnreachableError, RefusedError."""
        return ask(self.socket, self.what, self.answer, **self.question)

    async def ask(self) -> Told[F]:
        """Ask whoever has a part in it; ends the program where nobody can answer."""
        try:
            return await self._ask()
        finally:
            if self._fleet is not None:
                await self._fleet.close()

    async def _ask(self) -> Told[F]:
        unasked: dict[str, str] = {}
        first = await self._first(unasked)
        source = self._known("from", first.source)
        destination = self._known("to", first.destination)
        for key, end in zip(_ENDS, (source, destination), strict=True):
            if key not in self._located and end.kind == "Pod":
                self.question[key] = end.address  # a node need not know others' pods by name
        facts = {first.node: first}
        for name in dict.fromkeys((source.node, destination.node)):
            if name and name not in facts and name not in unasked:
                found = await self._other(name)
                if isinstance(found, str):
                    unasked[name] = found
                else:
                    facts[name] = found
        source = next((each.source for each in facts.values() if each.source.kind and not source.kind), source)
        destination = next(
            (each.destination for each in facts.values() if each.destination.kind and not destination.kind), destination
        )
        service, notes = ("", []) if destination.node else await self._service(first, destination.address)
        return Told(facts, unasked, source, destination, service, tuple(notes))

    async def _first(self, unasked: dict[str, str]) -> F:
        """Return the first answer. Whoever could not give it is noted."""
        if self.where.node:
            await self._locate()
            return await self._elsewhere([self.where.node], unasked, "")
        try:
            first = await asyncio.to_thread(self.here)
        except UnreachableError as error:
            await self._locate()
            return await self._elsewhere(await self._candidates(), unasked, str(error))
        except RefusedError as error:
            if error.reason != UNKNOWN_END:
                fail(str(error))
            await self._locate()
            if not self._located:
                fail(f"{error}{self._why_unknown()}")
            return await self._elsewhere(await self._candidates(), unasked, str(error))
        if not {first.source.node, first.destination.node} <= {first.node}:
            await self._locate(is_strict=False)
        return first

    async def _elsewhere(self, candidates: list[str], unasked: dict[str, str], reason: str) -> F:
        """Return the answer of the first node that gives one."""
        for name in candidates:
            found = await self._other(name)
            if not isinstance(found, str):
                break
            unasked[name] = found
        else:
            fail("; ".join(filter(None, by_reason(unasked) or [reason, self._no_fleet])))
        return found

    def _why_unknown(self) -> str:
        """Say what may be behind it that an agent knows nobody of a name, where nobody else could be asked."""
        if self._fleet is not None:
            return ""
        why = "of another node's the agent knows the address alone, unless a policy speaks of pods"
        return f"; {why}: give that, or ask where you have a kubeconfig"

    # Who is where

    async def _locate(self, *, is_strict: bool = True) -> None:
        """Have the cluster say who the ends are. From then on pods go by their addresses, which every agent knows.

        Not strict: who is not to be found is left to the agents.
        """
        from agent.fleet import FleetError

        fleet = await self._open()
        if fleet is None:
            return
        for key in _ENDS:
            try:
                found = await fleet.locate(self.question[key])
            except FleetError as error:
                if is_strict:
                    fail(str(error))
                continue
            if len(found) == 1 and not (is_strict and found[0].trouble):
                self._located[key] = found[0]
                if found[0].kind == "Pod" and found[0].addresses and not _is_address(self.question[key]):
                    self.question[key] = ",".join(found[0].addresses)
            elif found and is_strict:
                self._refuse(self.question[key], [each.name for each in found], found[0].trouble)

    def _refuse(self, end: str, names: list[str], trouble: str) -> None:
        fail(trouble if len(names) == 1 else f"{end} may be any of {', '.join(sorted(names))}: give its namespace")

    def _known(self, key: str, end: End) -> End:
        """Return an end with the name and node that the cluster has for it, where the agent has none."""
        located = self._located.get(key)
        if located is None or end.kind:
            return end
        return End(end.address, located.kind, located.name, located.node)

    async def _candidates(self) -> list[str]:
        """Return the nodes of the ends, the source's first; with none, any node that can be asked."""
        from agent.fleet import FleetError

        nodes = [self._located[key].node for key in _ENDS if key in self._located]
        if self._fleet is None or any(nodes):
            return list(dict.fromkeys(filter(None, nodes)))
        try:
            return [name for name, absence in (await self._fleet.nodes()).items() if not absence][:1]
        except FleetError as error:
            fail(str(error))

    async def _service(self, first: F, address: str) -> tuple[str, list[str]]:
        """Return what becomes of a packet to a service address, and what may be so and is not known."""
        from agent.fleet import FleetError

        hint = "where there is a kubeconfig it is looked up"
        if self._fleet is not None and "to" not in self._located:
            try:
                service = await self._fleet.service_at(address)
            except FleetError as error:
                hint = f"it could not be looked up: {error}"
            else:
                if service is not None:
                    return service._replace(cidr=service.cidr or first.service).words(address, self._port()), []
        if first.service:
            what = f"{address} is a service address (of {first.service})"
            return f"{what}: kube-proxy puts a pod's in its place; ask about that pod", []
        if first.knows_services or ip_address(address).is_global:
            return "", []
        what = f"if {address} is a Service's, kube-proxy puts a pod's in its place before all this"
        why = f"{first.node} cannot tell, as NetworkConfiguration has no serviceCIDRs"
        return "", [f"{what}: {why}; {hint}"]

    def _port(self) -> str:
        number, slash, protocol = self.question.get("port", "").upper().partition("/")
        return f"{number}/{protocol if slash else 'TCP'}" if number.isdecimal() else ""

    # Asking

    async def _other(self, node: str) -> F | str:
        """Return what another node says, or why it could not be asked."""
        from agent.fleet import NodeUnreachableError

        fleet = await self._open()
        if fleet is None:
            return self._no_fleet
        given = self.question
        options = [word for name, option in _OPTIONS.items() if name in given for word in (option, given[name])]
        ends = [given["from"], given["to"], *([given["port"]] if "port" in given else [])]
        try:
            outcome = await fleet.run(node, [*self.what.split("/"), "--only-here", *options, "--", *ends])
            return msgspec.json.decode(outcome.output, type=self.answer)
        except NodeUnreachableError as error:
            return str(error)
        except msgspec.DecodeError:
            return outcome.complaint.removeprefix("tortie: ") or "it answers what is not understood here"

    async def _open(self) -> Fleet | None:
        from agent.fleet import FleetError

        if self._fleet is None and not self._no_fleet:
            try:
                self._fleet = await open_fleet(self.where)
            except FleetError as error:
                self._no_fleet = str(error)
        return self._fleet


def _is_address(end: str) -> bool:
    """Whether an end was given by its address, and with it the family that is asked about."""
    try:
        ip_address(end.removeprefix("ip:").strip("[]"))
    except ValueError:
        return False
    return True
