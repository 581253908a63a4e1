"""tortie policy: what is allowed, why, what the kernel is given, and whether the manifests say what is meant."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.everywhere import everywhere
from agent.cli.output import FOUND, OK, Format, OutputOption, SocketOption, console, end_with, fail, print_json

if TYPE_CHECKING:
    from agent.policy_cases import CaseReport
    from inet.prefix import Family
    from policy.explain import Explanation

# What a command needs to import is imported in it: `tortie --help` must not wait for it.

app = typer.Typer(no_args_is_help=True, help="Policy: what is allowed and why, offline or in a running agent.")

DirectoryArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Directory of manifests.", exists=True, file_okay=False)
]


class Engine(enum.StrEnum):
    """Who answers probes."""

    IR = "ir"
    NFT = "nft"
    KERNEL = "kernel"


class FamilyName(enum.StrEnum):
    """Address families, as options have them."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


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
        FamilyName, typer.Option("--family", help="ipv6 moves every address and block of the cases into IPv6.")
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
        fail(f"{file}: {error}" if not isinstance(error, OSError) else str(error))
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
@everywhere()
def explain(
    source: Annotated[str, typer.Argument(metavar="SRC", help="NAMESPACE/POD, node:NAME or an address.")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="As SRC.")],
    port: Annotated[str, typer.Argument(metavar="PORT/PROTO", help="Such as 5432/TCP, 53/UDP.")],
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Directory of manifests to ask, instead of the running agent.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    family: Annotated[
        FamilyName | None, typer.Option("--family", help="By default the first that both ends have.")
    ] = None,
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Say whether a connection is allowed, and which rule of which policy decides.

    Exit status 1 if it is denied.

    Example: tortie policy explain shop/front shop/db-0 5432/TCP --config manifests/
    """
    if config is None:
        story = _ask_agent(source, destination, port, family, socket)
    else:
        story = _explain_offline(config, source, destination, port, family)
    if output is Format.JSON:
        print_json(story)
    else:
        from policy.explain import render_explanation

        for line in render_explanation(story).splitlines():
            console().print(line, soft_wrap=True)
        for tier in story.tiers:
            if tier.chain:
                found = f": {'; '.join(tier.sets)}" if tier.sets else ""
                counted = "" if tier.packets is None else f", {tier.packets} packets so far on this node"
                typer.echo(f"  nft {tier.direction:<8} chain {tier.chain}{found}{counted}")
    raise typer.Exit(FOUND if story.verdict == "deny" else OK)


def _explain_offline(
    directory: Path, source: str, destination: str, port: str, family: FamilyName | None
) -> Explanation:
    from agent.datastore.directory import read_directory
    from agent.policy_cluster import PolicyCluster, QuestionError, parse_port

    objects, problems = read_directory(directory)
    for problem in problems:
        typer.echo(f"tortie: {problem}", err=True)
    cluster = PolicyCluster(objects)
    try:
        ends = cluster.place(source), cluster.place(destination)
        return cluster.explain(*ends, *parse_port(port), _family(family) if family else None)
    except QuestionError as error:
        fail(str(error))


def _ask_agent(source: str, destination: str, port: str, family: FamilyName | None, socket: Path | None) -> Explanation:
    from agent.cli.client import RefusedError, UnreachableError, ask, socket_path
    from policy.explain import Explanation

    query = {"from": source, "to": destination, "port": port, **({"family": family} if family else {})}
    try:
        return ask(socket_path(socket), "policy/explain", Explanation, **query)
    except (UnreachableError, RefusedError) as error:
        fail(with_hint(str(error)))


def with_hint(reason: str) -> str:
    """Add to what an agent says of a pod it does not know why that may be."""
    if not reason.startswith("there is no pod"):
        return reason
    why = "of another node's the agent knows the address alone, unless a policy speaks of pods"
    return f"{reason}; {why}: give that, or draw tortie path where you have a kubeconfig"


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
