"""tortie policy: what is allowed, why, what the kernel is given, and whether the manifests say what is meant."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from agent.cli.ends import OnlyHereOption, Told, inquire
from agent.cli.everywhere import ContextOption, KubeconfigOption, LabOption, NamespaceOption, NodeOption, Where
from agent.cli.output import (
    FAILED,
    FOUND,
    OK,
    Format,
    OutputOption,
    SocketOption,
    console,
    end_with,
    fail,
    print_json,
    words_of,
)
from agent.namespace import OWN_NAMESPACE
from agent.pathreport import End, PolicyFacts

if TYPE_CHECKING:
    from agent.policy_cases import CaseReport
    from inet.prefix import Family
    from policy.explain import Explanation
    from policy.resident import Resident

# What a command needs to import is imported in it: `tortie --help` must not wait for it.

app = typer.Typer(no_args_is_help=True, help="Policy: what is allowed and why, offline or in a running agent.")

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of manifests.", exists=True, file_okay=False)
]


_STATUS: Final = {"allow": OK, "deny": FOUND, "unknown": FAILED}


class Engine(enum.StrEnum):
    """Who answers probes."""

    IR = "ir"
    NFT = "nft"
    KERNEL = "kernel"


class FamilyName(enum.StrEnum):
    """Address families, as options have them."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


FamilyOption = Annotated[
    FamilyName | None,
    typer.Option("--family", case_sensitive=False, help="By default the first that both ends have."),
]


@app.command()
def verdicts(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Cases as JSON, or one case; - for standard input.")],
    engine: Annotated[
        Engine,
        typer.Option(
            "--engine",
            help="ir: the compiled rules; nft: the nftables text, walked; kernel: real packets (needs root).",
        ),
    ] = Engine.IR,
    family: Annotated[
        FamilyName,
        typer.Option(
            "--family", case_sensitive=False, help="ipv6 moves every address and block of the cases into IPv6."
        ),
    ] = FamilyName.IPV4,
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask every probe of a case file and compare.

    A line a case, then how many passed and failed; exit status 1 if any failed. Where no probe says what to expect,
    the answers are printed instead: a JSON list of "allow" or "deny", one a probe, in order.

    Example: tortie policy verdicts cases.json --engine nft
    """
    from agent.policy_cases import CaseError, answers, has_expectations, read_cases, report, results

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        cases = read_cases(text, _family(family))
        if not has_expectations(cases):
            print_json(answers(cases, engine))
            return
        reports = []
        for case, found, skipped in results(cases, engine):
            reports.append(report(case, found, skipped))
            if output is Format.TABLE:
                _print_case(reports[-1])
    except (CaseError, OSError, UnicodeDecodeError) as error:
        fail(words_of(error) if isinstance(error, OSError) else f"{file}: {error}")
    failed = sum(not each.has_passed for each in reports)
    if skipped := sum(each.skipped for each in reports):
        typer.echo(f"{skipped} probes skipped: this kernel has no sockets of their protocol (SCTP)", err=True)
    if output is Format.JSON:
        print_json({"passed": len(reports) - failed, "failed": failed, "cases": reports})
    else:
        typer.echo(f"{len(reports) - failed} passed, {failed} failed")
    raise typer.Exit(FOUND if failed else OK)


def _print_case(report: CaseReport) -> None:
    skipped = f", {report.skipped} skipped" if report.skipped else ""
    differing = f", {len(report.differences)} differ" if report.differences else ""
    typer.echo(f"{'ok  ' if report.has_passed else 'FAIL'}  {report.name}  {report.probes} probes{differing}{skipped}")
    for each in report.differences:
        probe = f"{each.source} → {each.destination} {each.port}/{each.protocol}"
        typer.echo(f"        {probe}: expected {each.expected}, got {each.got}")


@app.command()
def explain(
    source: Annotated[str, typer.Argument(metavar="SRC", help="NAMESPACE/POD, node:NAME or an address.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="As SRC.")],
    port: Annotated[str, typer.Argument(metavar="[PORT/PROTO]", help="Such as 5432/TCP. Without: a ping.")] = "",
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Directory of manifests to ask, instead of running agents.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
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
    """Say whether a connection is allowed, and which rule of which policy decides.

    The agents at both ends are asked, each for its own part: this one over its socket, others through the cluster of
    --kubeconfig or the lab. Exit status 1 if it is denied, 2 if that depends on somebody who could not be asked.

    Example: tortie policy explain shop/front shop/db-0 5432/TCP
    """
    if config is not None:
        if node or only_here:
            fail("--config: manifests are asked, no agent: leave --node and --only-here out")
        story = _explain_offline(config, source, destination, port, family)
    else:
        question = {"from": source, "to": destination, "port": port, "family": family}
        where = Where(node, kubeconfig=kubeconfig, context=context, lab=lab, namespace=namespace)
        story = _put_together(inquire("policy/explain", PolicyFacts, question, where, socket, only_here=only_here))
    if output is Format.JSON:
        print_json(story)
    else:
        _print_story(story)
    raise typer.Exit(_STATUS[story.verdict])


def _put_together(told: Told[PolicyFacts]) -> Explanation:
    """Take each node's own part, and in place of one that could not be asked what another knows of its rules."""
    import msgspec

    from policy.explain import combine

    stories: dict[str, tuple[Explanation, ...]] = {}
    missing: list[str] = []
    remarks = list(told.notes)
    for name in dict.fromkeys(filter(None, (told.source.node, told.destination.node))):
        known = [each for each in (told.facts.get(name), *told.facts.values()) if each and name in each.stories]
        why = "" if name in told.facts else f"{name} was not asked: {told.unasked.get(name, 'it is not known')}"
        if known:
            stories[name] = known[0].stories[name]
            remarks += [f"{why}; its part is as {known[0].node} knows it"] if why else []
        else:
            missing.append(name)
            remarks.append(why or f"{name} does not know of it")
    if told.service:
        missing.append(told.service)
        remarks.append(told.service)
    story = combine(stories or told.first.stories, missing)
    source, destination = _called(story.source, told.source), _called(story.destination, told.destination)
    reasons = (*story.reasons, *remarks)
    return msgspec.structs.replace(story, source=source, destination=destination, reasons=reasons)


def _called(resident: Resident, end: End) -> Resident:
    """Give somebody the name that the cluster has for him, where the agents have none."""
    import msgspec

    if resident.name or not end.name:
        return resident
    return msgspec.structs.replace(resident, kind=end.kind, name=end.name, node=end.node)


def _print_story(story: Explanation) -> None:
    from policy.explain import render_explanation

    for line in render_explanation(story).splitlines():
        console().print(line, soft_wrap=True)
    for tier in story.tiers:
        if tier.chain:
            found = f": {'; '.join(tier.sets)}" if tier.sets else ""
            counted = "" if tier.packets is None else f", {tier.packets} packets so far on {tier.node}"
            typer.echo(f"  nft {tier.direction:<8} chain {tier.chain}{found}{counted}")


def _explain_offline(
    directory: Path, source: str, destination: str, port: str, family: FamilyName | None
) -> Explanation:
    from agent.datastore.directory import read_directory
    from agent.policy_cluster import PolicyCluster, QuestionError, parse_port
    from policy.explain import combine

    objects, problems = read_directory(directory)
    for problem in problems:
        typer.echo(f"tortie: {problem}", err=True)
    cluster = PolicyCluster(objects)
    try:
        ends = cluster.place(source), cluster.place(destination)
        return combine(cluster.explain(*ends, *parse_port(port or "ICMP"), _family(family) if family else None))
    except QuestionError as error:
        fail(str(error))


@app.command("compile")
def compile_(
    directory: DirectoryArgument,
    node: Annotated[str, typer.Option("--node", envvar="NODE_NAME", help="The node to compile for.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """Print the nftables text that a node enforces, as nft -f takes it.

    Objects that are refused are named on standard error, and exit status is 1.

    Example: tortie policy compile manifests/ --node n1
    """
    from agent.datastore.directory import read_directory
    from agent.policy_cluster import PolicyCluster
    from policy.nft import render

    objects, problems = read_directory(directory)
    cluster = PolicyCluster(objects)
    if node not in cluster.node_names:
        fail(f"there is no Node {node} and no pod on it; there is {', '.join(cluster.node_names) or 'none at all'}")
    text = render(cluster.engine(node).ruleset)
    if output is Format.JSON:
        print_json({"node": node, "text": text, "problems": [problem.to_json() for problem in problems]})
    else:
        typer.echo(text, nl=False)
    for problem in problems:
        typer.echo(f"tortie: {problem}", err=True)
    raise typer.Exit(FOUND if problems else OK)


@app.command()
def check(directory: DirectoryArgument, output: OutputOption = Format.TABLE) -> None:
    """Find refused objects, rules that can never match, policies that select nothing, and pods without any policy.

    Exit status 1 if there is any.

    Example: tortie policy check manifests/
    """
    from agent.policy_check import check_policies

    end_with(check_policies(directory), output)


def _family(name: FamilyName) -> Family:
    from inet.prefix import Family

    return Family.IPV4 if name is FamilyName.IPV4 else Family.IPV6
