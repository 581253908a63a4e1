"""One command for one node here, for another node, and for all of them: `--node` and `--all-nodes`.

`everywhere` gives a command those options. Without them it is what it was. With `--node` the same words are run on
that node, and what it prints is printed. With `--all-nodes` they are run on every node, or what the nodes wrote down
is read, and the command says how answers of several nodes are shown.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar

import msgspec
import typer

from agent.cli.client import socket_path
from agent.cli.output import FAILED, FOUND, OK, Format, fail, print_json
from agent.namespace import OWN_NAMESPACE

if TYPE_CHECKING:
    from agent.fleet import Fleet, NodeUnreachableError, Outcome, Record
    from agent.objects.node_routing_status import NodeRoutingStatus

T = TypeVar("T")
_CLUSTER: Final = "Other nodes"

NodeOption = Annotated[
    str, typer.Option("--node", metavar="NAME", rich_help_panel=_CLUSTER, help="Ask on this node instead of here.")
]
AllNodesOption = Annotated[
    bool, typer.Option("--all-nodes", "-A", rich_help_panel=_CLUSTER, help="Ask on every node, and show all answers.")
]
KubeconfigOption = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        rich_help_panel=_CLUSTER,
        help="The cluster that other nodes are of. By default as kubectl finds it, else the lab that is up.",
    ),
]
ContextOption = Annotated[
    str, typer.Option("--context", rich_help_panel=_CLUSTER, help="A context of the kubeconfig.", show_default=False)
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        "--namespace",
        metavar="NAME",
        envvar="TORTIE_NAMESPACE",
        rich_help_panel=_CLUSTER,
        help="Where the agents' pods are: the release's namespace.",
    ),
]
LabOption = Annotated[
    str,
    typer.Option(
        "--lab", envvar="TORTIE_LAB", rich_help_panel=_CLUSTER, help="A lab instead of a cluster.", show_default=False
    ),
]
IN_POD: Final = (
    "an agent may not ask other nodes, and in its pod tortie has no rights but the agent's: "
    "run tortie where you have a kubeconfig, or kubectl exec into the agent's pod of each node"
)
_NAMES: Final = ("node", "all_nodes", "kubeconfig", "context", "namespace", "lab")


class NodeAnswer(msgspec.Struct, rename="camel", frozen=True):
    """What one node answers, as `--all-nodes -o json` has it. `answer` is what the command prints there as JSON."""

    node: str
    status: int  # 0: fine, 1: it found something, 2: it could not look
    answer: Any = None
    error: str = ""  # why there is no answer


@dataclass(frozen=True, slots=True)
class Survey(Generic[T]):
    """How answers of several nodes are read and shown."""

    answer: Any  # the type of what the command prints as JSON
    show: Callable[[Sequence[tuple[str, T]]], None]  # as a table
    digest: Callable[[Any], T] | None = None  # makes less of an answer where all of it would be too much
    from_record: Callable[[NodeRoutingStatus], T] | None = None  # where what nodes wrote down is enough
    is_fine: Callable[[T], bool] = bool  # of what they wrote down
    with_staleness: Callable[[T, str], T] | None = None  # adds to an answer that what the node wrote down is stale


@dataclass(frozen=True, slots=True)
class Where:
    """Which nodes were asked for."""

    node: str = ""
    all_nodes: bool = False
    kubeconfig: Path | None = None
    context: str = ""
    lab: str = ""
    namespace: str = OWN_NAMESPACE

    @property
    def is_elsewhere(self) -> bool:
        """Whether somebody else is to be asked than the agent here."""
        return bool(self.node or self.all_nodes)


def everywhere(
    survey: Survey[Any] | None = None, *, here_only: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command `--node`, and with a survey `--all-nodes`.

    `here_only` names parameters, with the option a person gives, that do not go with them.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        def run(
            typer_context: typer.Context,
            *,
            node: NodeOption = "",
            all_nodes: AllNodesOption = False,
            kubeconfig: KubeconfigOption = None,
            context: ContextOption = "",
            namespace: NamespaceOption = OWN_NAMESPACE,
            lab: LabOption = "",
            **given: Any,
        ) -> None:
            where = Where(node, all_nodes, kubeconfig, context, lab, namespace)
            if not where.is_elsewhere:
                command(**given)
                return
            if node and all_nodes:
                fail("--node and --all-nodes: one of them")
            for name, option in (here_only or {}).items():
                if given[name]:
                    fail(f"{option} is of the node here, not with --node or --all-nodes")
            words = _words(typer_context)
            output: Format = given["output"]
            asyncio.run(_ask_node(where, words, output) if node else _ask_all(where, words, output, survey))

        own = inspect.signature(command, eval_str=True).parameters.values()
        added = inspect.signature(run, eval_str=True).parameters.values()
        kept = [each for each in added if each.kind is not inspect.Parameter.VAR_KEYWORD]
        if survey is None:
            kept = [each for each in kept if each.name != "all_nodes"]
        keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *kept[1:])]
        run.__signature__ = inspect.Signature([kept[0], *keyword])  # type: ignore[attr-defined] # functions take it
        run.__annotations__ = {each.name: each.annotation for each in (*own, *kept)}
        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        return run

    return wrap


def _words(context: typer.Context) -> list[str]:
    """Return the words that say the same on another node: the command and what it was given, but no word of where."""
    _, *words = context.command_path.split(" ")
    arguments: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in {*_NAMES, "output", "socket"} or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if parameter.param_type_name == "argument":
            arguments += map(str, value) if isinstance(value, list | tuple) else [str(value)]
        elif isinstance(value, bool):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
        else:
            words += [parameter.opts[0], str(value)]
    return [*words, *(["--", *arguments] if arguments else [])]


async def open_fleet(where: Where) -> Fleet:
    """Return the cluster that is meant: as the options say, else kubectl's, else the lab that is up, else the pod's.

    Raises FleetError.
    """
    from agent.fleet import FleetError
    from agent.kubernetes.access import is_in_pod, kubeconfigs

    default = Path.home() / ".kube" / "config"
    named = where.kubeconfig or Path(os.environ.get("KUBECONFIG") or default)
    kubeconfig: Path | None = named
    if where.lab or not (where.kubeconfig or where.context or any(map(Path.exists, kubeconfigs(named)))):
        from agent.fleet.lab import LabFleet

        try:
            return LabFleet.find(where.lab)
        except FleetError as error:
            if where.lab:
                raise
            if not is_in_pod():
                reason = f"there is no cluster to ask: no --kubeconfig, no {named}, and {error}"
                raise FleetError(reason) from None
            if socket_path(None).exists():
                raise FleetError(IN_POD) from None
            kubeconfig = None
    from agent.fleet.kubernetes import KubernetesFleet

    return KubernetesFleet.of(kubeconfig, where.context, where.namespace)


async def _ask_node(where: Where, words: Sequence[str], output: Format) -> None:
    from agent.fleet import FleetError, NodeUnreachableError

    try:
        fleet = await open_fleet(where)
        try:
            outcome = await fleet.run(where.node, [*_with_output(words, output)])
        finally:
            await fleet.close()
    except (FleetError, NodeUnreachableError) as error:
        fail(f"{where.node}: {error}")
    sys.stdout.write(outcome.output.decode(errors="replace"))
    if outcome.complaint:
        sys.stderr.write(outcome.complaint + "\n")
    raise typer.Exit(outcome.status)


def _with_output(words: Sequence[str], output: Format) -> list[str]:
    """Put the wanted form where it is an option still, not one of the arguments."""
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], "-o", output.value, *words[end:]]


async def _ask_all(where: Where, words: Sequence[str], output: Format, survey: Survey[T] | None) -> None:
    from agent.fleet import FleetError

    if survey is None:
        fail("--all-nodes: this command is about one node")
    try:
        fleet = await open_fleet(where)
        try:
            answers = await survey_nodes(fleet, _with_output(words, Format.JSON), survey)
        finally:
            await fleet.close()
    except FleetError as error:
        fail(str(error))
    if output is Format.JSON:
        print_json(answers)
    else:
        survey.show([(each.node, each.answer) for each in answers if not each.error])
        for complaint in by_reason({each.node: each.error for each in answers if each.error}):
            typer.echo(f"tortie: {complaint}", err=True)
    raise typer.Exit(max((each.status for each in answers), default=OK))


def by_reason(errors: Mapping[str, str]) -> list[str]:
    """Return why nodes could not be asked, for people: what is the same of several is said once."""
    nodes: dict[str, list[str]] = {}
    for node, error in errors.items():
        nodes.setdefault(error, []).append(node)
    return [f"{', '.join(some)}: {error}" for error, some in nodes.items()]


async def survey_nodes(fleet: Fleet, words: Sequence[str], survey: Survey[T]) -> list[NodeAnswer]:
    """Return the answer of every node, in order. Raises FleetError where there is nobody to ask for nodes."""
    from agent.fleet import ask_all

    absences = await fleet.nodes()
    records = await _records(fleet, survey)
    stale = {record.status.name: why for record in records or () if (why := record.staleness)}
    if records is not None and survey.from_record:
        written = {record.status.name: survey.from_record(record.status) for record in records}
        return [_recorded(node, absence or stale.get(node, ""), written, survey) for node, absence in absences.items()]
    outcomes = await ask_all(fleet, [node for node, absence in absences.items() if not absence], words)
    return [
        _answered(node, outcomes[node], survey, stale.get(node, ""))
        if node in outcomes
        else NodeAnswer(node, FAILED, error=absence)
        for node, absence in absences.items()
    ]


async def _records(fleet: Fleet, survey: Survey[T]) -> Sequence[Record] | None:
    """Return what nodes wrote down, if it is wanted. Raises FleetError where it is all that there is to show."""
    from agent.fleet import FleetError

    if not (survey.from_record or survey.with_staleness):
        return None
    try:
        return await fleet.recorded()
    except FleetError:
        if survey.from_record:
            raise
        return None


def _recorded(node: str, absence: str, written: Mapping[str, T], survey: Survey[T]) -> NodeAnswer:
    """Return what a node wrote down; without an agent that works it is of old."""
    if absence or node not in written:
        return NodeAnswer(node, FAILED, error=absence or "its agent has written nothing down yet")
    return NodeAnswer(node, OK if survey.is_fine(written[node]) else FOUND, written[node])


def _answered(node: str, outcome: Outcome | NodeUnreachableError, survey: Survey[T], staleness: str) -> NodeAnswer:
    from agent.fleet import NodeUnreachableError

    if isinstance(outcome, NodeUnreachableError):
        return NodeAnswer(node, FAILED, error=str(outcome))
    if not outcome.output:
        complaint = outcome.complaint.removeprefix("tortie: ")
        return NodeAnswer(node, FAILED, error=complaint or f"exit status {outcome.status} and not a word")
    try:
        said = msgspec.json.decode(outcome.output, type=survey.answer)
    except msgspec.DecodeError as error:
        return NodeAnswer(node, FAILED, error=f"it answers what is not understood here (another version?): {error}")
    answer = survey.digest(said) if survey.digest else said
    if staleness and survey.with_staleness:
        return NodeAnswer(node, max(outcome.status, FOUND), survey.with_staleness(answer, staleness))
    return NodeAnswer(node, outcome.status, answer)
