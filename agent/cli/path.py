"""tortie path: the way a packet takes, drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer
from rich.text import Text

from agent.cli.client import RefusedError, UnreachableError, ask, socket_path
from agent.cli.everywhere import (
    ContextOption,
    KubeconfigOption,
    LabOption,
    NamespaceOption,
    NodeOption,
    Where,
    open_fleet,
)
from agent.cli.output import FAILED, FOUND, OK, Format, OutputOption, SocketOption, console, fail, print_json
from agent.cli.policy import FamilyName, with_hint
from agent.namespace import OWN_NAMESPACE
from agent.pathreport import End, Fact, Journey, NodeFacts, Stage

if TYPE_CHECKING:
    from agent.fleet import Fleet

_STATUS: Final = {"arrives": OK, "dropped": FOUND, "unknown": FAILED}


def path(
    source: Annotated[str, typer.Argument(metavar="SRC", help="NAMESPACE/POD, node:NAME or an address.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="As SRC.")],
    port: Annotated[str, typer.Argument(metavar="[PORT/PROTO]", help="Such as 5432/TCP. Without: a ping.")] = "",
    *,
    source_port: Annotated[
        int,
        typer.Option("--source-port", min=0, max=65535, help="Tells which of several equal ways the kernel chooses."),
    ] = 0,
    family: Annotated[
        FamilyName | None, typer.Option("--family", help="By default the first that both ends have.")
    ] = None,
    only_here: Annotated[
        bool, typer.Option("--only-here", help="What this node knows of it, as JSON: what the picture is made of.")
    ] = False,
    node: NodeOption = "",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
    namespace: NamespaceOption = OWN_NAMESPACE,
    lab: LabOption = "",
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Draw the way a packet takes: links, policy with the rule, route with its origin, tunnel, NAT, MTU, and its end.

    The agents at both ends are asked, each for its own part: this one over its socket, others through the cluster
    of --kubeconfig or the lab. Nothing is sent. Exit status 1 if the packet, or the answer, is dropped; 2 if somebody
    on the way could not be asked.

    Example: tortie path shop/front-6c9 shop/db-0 5432/TCP
    """
    question = {"from": source, "to": destination, "port": port, "family": family or "", "sourcePort": str(source_port)}
    if only_here:
        try:
            print_json(ask(socket_path(socket), "path", NodeFacts, **{k: str(v) for k, v in question.items() if v}))
        except (UnreachableError, RefusedError) as error:
            fail(str(error))
        return
    where = Where(node=node, all_nodes=False, kubeconfig=kubeconfig, context=context, lab=lab, namespace=namespace)
    journey = asyncio.run(_travel(question, where, socket_path(socket)))
    if output is Format.JSON:
        print_json(journey)
    else:
        for line in draw(journey):
            console().print(line, soft_wrap=True)
    raise typer.Exit(FOUND if journey.answers else _STATUS[journey.verdict])


async def _travel(question: dict[str, str], where: Where, socket: Path) -> Journey:
    """Ask whoever has a part in it, and put the answers together."""
    from agent.path import assemble

    asked = _Asked(question, where, socket)
    try:
        first = await asked.first()
        facts = {first.node: first}
        # From here on by address: a node need not know pods of others by name.
        asked.question |= {"from": first.source.address, "to": first.destination.address}
        unasked: dict[str, str] = {}
        for name in dict.fromkeys((first.source.node, first.destination.node)):
            if name and name not in facts:
                found = await asked.other(name)
                if isinstance(found, NodeFacts):
                    facts[name] = _named(found, first)
                else:
                    unasked[name] = found
        ends = dict.fromkeys(name for name in (first.source.node, first.destination.node) if name in facts)
        return assemble([facts[name] for name in ends] or [first], unasked)
    finally:
        await asked.close()


def _named(facts: NodeFacts, first: NodeFacts) -> NodeFacts:
    """Give the ends the names by which they are known elsewhere."""
    ends = {
        name: known if not getattr(facts, name).kind else getattr(facts, name)
        for name, known in (("source", first.source), ("destination", first.destination))
    }
    return msgspec.structs.replace(facts, **ends)


class _Asked:
    """Whoever can be asked: the agent here, and a cluster or lab where there is one."""

    def __init__(self, question: dict[str, str], where: Where, socket: Path) -> None:
        self.question = question
        self._where = where
        self._socket = socket
        self._fleet: Fleet | None = None
        self._no_fleet = ""

    async def close(self) -> None:
        if self._fleet is not None:
            await self._fleet.close()

    async def first(self) -> NodeFacts:
        """Ask the agent here; where there is none, or it does not know an end, the one that should."""
        if not self._where.node:
            try:
                return await asyncio.to_thread(self._ask_here)
            except (UnreachableError, RefusedError) as error:
                reason = str(error)
        else:
            reason = ""
        name = self._where.node or await self._node_of_an_end()
        if not name:
            fail(with_hint(reason))
        found = await self._by_address(name, await self.other(name))
        if isinstance(found, str):
            fail(f"{name}: {found}")
        return found

    async def _by_address(self, name: str, found: NodeFacts | str) -> NodeFacts | str:
        """Ask again with an address for each pod that is not known there, and say whose it is.

        An agent knows pods of other nodes only while some policy speaks of pods.
        """
        pods: dict[str, End] = {}
        while isinstance(found, str):
            resolved = await self._resolved(found)
            if not resolved:
                return found
            pods |= resolved
            found = await self.other(name)
        return msgspec.structs.replace(found, **pods)

    async def _resolved(self, complaint: str) -> dict[str, End]:
        """Put an address into the question for the pod that an agent does not know; return what the pod is."""
        from agent.fleet import FleetError

        fleet = await self._open()
        words = [word.strip(",") for word in complaint.split()] if complaint.startswith("there is no pod") else []
        try:
            for key, part in (("from", "source"), ("to", "destination")):
                end = self.question[key]
                if fleet is not None and end in words:
                    found = [address for address in await fleet.addresses_of(end) if self._is_wanted(address)]
                    if found:
                        self.question[key] = found[0]
                        return {part: End(found[0], "Pod", end, await fleet.node_of(end))}
        except FleetError as error:
            fail(str(error))
        return {}

    def _is_wanted(self, address: str) -> bool:
        family = self.question["family"]
        return not family or (":" in address) == (family == FamilyName.IPV6)

    async def other(self, node: str) -> NodeFacts | str:
        """Return what another node knows, or why it could not be asked."""
        from agent.fleet import NodeUnreachableError

        fleet = await self._open()
        if fleet is None:
            return self._no_fleet
        given = self._given()
        options = {"--family": given.get("family", ""), "--source-port": given.get("sourcePort", "")}
        words = ["path", "--only-here", *(word for pair in options.items() if pair[1] for word in pair)]
        ends = [given["from"], given["to"], *([given["port"]] if "port" in given else [])]
        try:
            outcome = await fleet.run(node, [*words, "--", *ends])
            return msgspec.json.decode(outcome.output, type=NodeFacts)
        except NodeUnreachableError as error:
            return str(error)
        except msgspec.DecodeError:
            return outcome.complaint.removeprefix("tortie: ") or "it answers what is not understood here"

    def _ask_here(self) -> NodeFacts:
        return ask(self._socket, "path", NodeFacts, **self._given())

    def _given(self) -> dict[str, str]:
        return {name: value for name, value in self.question.items() if value and (name, value) != ("sourcePort", "0")}

    async def _node_of_an_end(self) -> str:
        from agent.fleet import FleetError

        fleet = await self._open()
        if fleet is None:
            return ""
        try:
            for end in (self.question["from"], self.question["to"]):
                if end.startswith("node:"):
                    return end.removeprefix("node:")
                if found := await fleet.node_of(end):
                    return found
            return next((name for name, absence in (await fleet.nodes()).items() if not absence), "")
        except FleetError as error:
            fail(str(error))

    async def _open(self) -> Fleet | None:
        from agent.fleet import FleetError

        if self._fleet is None and not self._no_fleet:
            try:
                self._fleet = await open_fleet(self._where)
            except FleetError as error:
                self._no_fleet = str(error)
        return self._fleet


# The picture


def draw(journey: Journey) -> Iterator[Text]:
    """Yield the lines of the picture."""
    for stage in journey.stages:
        yield from _draw_stage(stage)
    if journey.answers:
        yield Text.assemble(("✗ answers do not come back  ", "red"), journey.answers)
    for note in journey.notes:
        yield Text(f"note: {note}", "yellow")


def _draw_stage(stage: Stage) -> Iterator[Text]:
    """A place with what policy says there first; below it what happens on the way to the next."""
    facts = list(stage.facts)
    head = Text(stage.place)
    if facts and facts[0].what == "policy":
        head.append("   ").append_text(_policy(facts.pop(0)))
    yield head
    if facts:
        line = Text("  │  ")
        others = [fact for fact in facts if fact.what != "policy"]
        line.append_text(Text(", ").join(map(_fact, others)))
        for fact in facts:
            if fact.what == "policy":
                line.append("   " if others else "").append_text(_policy(fact))
        yield line


def _policy(fact: Fact) -> Text:
    return _fact(Fact(fact.what, f"policy: {fact.text}", fact.drops))


def _fact(fact: Fact) -> Text:
    text = Text(fact.text, "red" if fact.drops else "yellow" if fact.what == "unknown" else "")
    return text.append("      ✗ ends here") if fact.drops else text
