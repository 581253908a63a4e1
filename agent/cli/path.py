"""tortie path: the way a packet takes, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
import typer
from rich.text import Text

from agent.cli.ends import OnlyHereOption, Told, inquire
from agent.cli.everywhere import ContextOption, KubeconfigOption, LabOption, NamespaceOption, NodeOption, Where
from agent.cli.output import FAILED, FOUND, OK, Format, OutputOption, SocketOption, console, print_json
from agent.cli.policy import FamilyOption
from agent.namespace import OWN_NAMESPACE
from agent.pathreport import Fact, Journey, NodeFacts, Stage

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
    family: FamilyOption = None,
    only_here: OnlyHereOption = False,
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
    question = {"from": source, "to": destination, "port": port, "family": family, "sourcePort": source_port}
    where = Where(node, kubeconfig=kubeconfig, context=context, lab=lab, namespace=namespace)
    journey = _put_together(inquire("path", NodeFacts, question, where, socket, only_here=only_here))
    if output is Format.JSON:
        print_json(journey)
    else:
        for line in draw(journey):
            console().print(line, soft_wrap=True)
    raise typer.Exit(FOUND if journey.answers else _STATUS[journey.verdict])


def _put_together(told: Told[NodeFacts]) -> Journey:
    from agent.path import assemble

    facts = {name: _named(each, told) for name, each in told.facts.items()}
    ends = dict.fromkeys(name for name in (told.source.node, told.destination.node) if name in facts)
    known = [facts[name] for name in ends] or [facts[told.first.node]]
    return assemble(known, told.unasked, told.service, told.notes)


def _named(facts: NodeFacts, told: Told[NodeFacts]) -> NodeFacts:
    """Give the ends the names by which they are known elsewhere."""
    ends = {
        name: getattr(facts, name) if getattr(facts, name).kind else known
        for name, known in (("source", told.source), ("destination", told.destination))
    }
    return msgspec.structs.replace(facts, **ends)


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
