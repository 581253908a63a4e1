"""tortie status, peers, routes: what one agent is doing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from agent.cli.client import RefusedError, UnreachableError, ask, socket_path
from agent.cli.everywhere import Survey, everywhere
from agent.cli.output import (
    FOUND,
    OK,
    Format,
    OutputOption,
    SocketOption,
    console,
    duration,
    fail,
    print_json,
    print_table,
)
from agent.report import (
    AdvertisedRoute,
    AvailableRoute,
    CniReport,
    FamilyCounts,
    InstalledRoute,
    NetworkReport,
    NodeSummary,
    PeerReport,
    PolicyReport,
    RouteExplanation,
    StatusReport,
    TunnelReport,
)

if TYPE_CHECKING:
    from agent.objects.node_routing_status import Condition, NodeRoutingStatus

T = TypeVar("T")
routes = typer.Typer(no_args_is_help=True, help="Routes: heard from peers, told to them, in the kernel, and why.")


def _ask(socket: SocketOption, what: str, answer: type[T], **query: str) -> T:
    try:
        return ask(socket_path(socket), what, answer, **query)
    except (UnreachableError, RefusedError) as error:
        fail(str(error))


def _summarize(report: StatusReport) -> NodeSummary:
    notes = [f"{each.reason}: {each.message}" for each in report.conditions if (each.type == "Ready") != report.ready]
    return NodeSummary(
        node=report.node,
        ready=report.ready,
        local_asn=report.local_asn,
        sessions_established=report.sessions_established,
        sessions_configured=report.sessions_configured,
        routes_installed=report.routes_installed,
        routes_refused=report.routes_refused,
        drain=report.drain.state,
        note="; ".join([*notes, *report.problems]),
    )


def _summary_of_record(record: NodeRoutingStatus) -> NodeSummary:
    said = record.status
    ready = any(each.type == "Ready" and each.status == "True" for each in said.conditions)
    return NodeSummary(
        node=record.name,
        ready=ready,
        local_asn=said.local_asn,
        sessions_established=sum(each.state == "Established" for each in said.sessions),
        sessions_configured=len(said.sessions),
        routes_installed=said.routes.installed,
        routes_refused=said.routes.refused,
        drain=said.drain.state if said.drain else "",
        note="; ".join(
            f"{each.reason}: {each.message}" for each in said.conditions if _is_notable(each, is_ready=ready)
        ),
    )


def _is_notable(condition: Condition, *, is_ready: bool) -> bool:
    """Whether a condition is worth a note: of a node that is not ready why, of others what is not as it should be."""
    if condition.type in {"Ready", "ObjectsAccepted"}:
        return condition.status != "True" and (condition.type == "Ready" or is_ready)
    return condition.status == "True" and is_ready


def _show_summaries(answers: Sequence[tuple[str, NodeSummary]]) -> None:
    print_table(
        ["Node", "Ready", "Local AS", "Sessions", "Routes", "Drain", "Note"],
        [
            [
                node,
                Text("yes", "green") if it.ready else Text("no", "red"),
                str(it.local_asn or "-"),
                f"{it.sessions_established} of {it.sessions_configured}",
                f"{it.routes_installed}" + (f", {it.routes_refused} refused" if it.routes_refused else ""),
                it.drain,
                it.note,
            ]
            for node, it in answers
        ],
    )


@everywhere(
    Survey(
        StatusReport,
        _show_summaries,
        digest=_summarize,
        from_record=_summary_of_record,
        is_fine=lambda summary: summary.ready,
    )
)
def status(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Show whether the node can carry pods, and if not, why.

    Exit status 1 if it cannot. Example: tortie status -o json
    """
    report = _ask(socket, "status", StatusReport)
    if output is Format.JSON:
        print_json(report)
    else:
        _print_status(report)
    raise typer.Exit(OK if report.ready else FOUND)


def _print_status(report: StatusReport) -> None:
    out = console()
    word = Text("ready", "green") if report.ready else Text("not ready", "red")
    asn = f"AS {report.local_asn}, router id {report.router_id}" if report.local_asn else "no BGP identity yet"
    out.print(Text.assemble((report.node, "bold"), ": ", word, f", {asn}, up {duration(report.uptime_seconds)}"))
    sessions = f"{report.sessions_established} of {report.sessions_configured} established"
    if report.sessions_pending:
        sessions += f", {report.sessions_pending} to be changed"
    out.print(f"  sessions   {sessions}")
    kernel = f"{report.routes_installed} in the kernel"
    if report.routes_pending:
        kernel += f", {report.routes_pending} pending"
    if report.routes_refused:
        kernel += f", {report.routes_refused} refused"
    out.print(f"  routes     {kernel}; {report.prefixes_known} prefixes known")
    out.print(f"  pod CIDRs  {', '.join(report.pod_cidrs) or 'none'}")
    _print_parts(report)
    if report.restarting:
        waiting = ", ".join(report.waiting_for) or "the objects"
        out.print(f"  restart    routes of before are left untouched until these are heard: {waiting}")
    if not report.speaker_running or report.speaker_restarts:
        running = "running" if report.speaker_running else "not running"
        out.print(f"  speaker    {running}, restarted {report.speaker_restarts} times")
    _print_findings(out, report)


def _print_findings(out: Console, report: StatusReport) -> None:
    for condition in report.conditions:
        if condition.type != "Ready" or condition.status != "True":
            out.print(f"  {condition.type}={condition.status}  {condition.reason}: {condition.message}")
    for problem in report.problems:
        out.print(Text(f"  problem    {problem}", "yellow"))


def _cni(cni: CniReport) -> str:
    leaked = f", {cni.leaked} leaked addresses freed" if cni.leaked else ""
    return f"{cni.pods} pods wired by the runtime{leaked}; {cni.conflist}"


def _network(network: NetworkReport) -> str:
    nat = f"outgoing NAT for {', '.join(network.nat_sources)}" if network.nat_sources else "no outgoing NAT"
    if network.mtu is None:
        return f"the MTU of pods is not known yet; {nat}"
    uplinks = ", ".join(f"{name} {mtu}" for name, mtu in network.uplinks.items())
    tunnel = f" less {network.tunnel_overhead} for the tunnel" if network.tunnel_overhead else ""
    return f"pods' MTU {network.mtu} ({uplinks}{tunnel}); {nat}"


def _policy(policy: PolicyReport) -> str:
    words = f"{policy.pods} pods, {policy.policies} policies, {policy.chains} chains, {policy.sets} sets"
    if policy.unlinked:
        words += f"; no link leads to {policy.unlinked} addresses"
    return f"{words}; in the kernel" if policy.in_kernel else f"{words}; NOT in the kernel: {policy.error}"


def _print_parts(report: StatusReport) -> None:
    if report.tunnels.devices:
        console().print(f"  tunnels    {_tunnels(report.tunnels)}")
    console().print(f"  network    {_network(report.network)}")
    if report.cni.conflist:
        console().print(f"  CNI        {_cni(report.cni)}")
    if report.policy.wanted:
        console().print(f"  policy     {_policy(report.policy)}")


def _tunnels(tunnels: TunnelReport) -> str:
    more = ", ".join(f"{family} {size}" for family, size in tunnels.overhead.items() if size)
    words = f"{tunnels.destinations} destinations through {', '.join(tunnels.devices)}; bytes more at most: {more or 0}"
    return f"{words}; repaired {tunnels.repaired} times" if tunnels.repaired else words


def _peers_of_record(record: NodeRoutingStatus) -> list[PeerReport]:
    return [
        PeerReport(
            node=record.name,
            peer=str(each.peer),
            origin=each.object,
            local_asn=record.status.local_asn or 0,
            peer_asn=each.peer_asn or 0,
            state=each.state,
            since=each.since.isoformat() if each.since else "",
            uptime_seconds=time.time() - each.since.timestamp() if each.since and each.state == "Established" else None,
            reason="" if each.state == "Established" else each.last_error or "connecting",
            last_error=each.last_error,
            flaps=0,
            router_id="",
            families=[
                FamilyCounts(it.family.label, it.received, it.accepted, it.refused, 0, 0, it.announced)
                for it in each.families
            ],
        )
        for each in record.status.sessions
    ]


def _are_up(reports: Sequence[PeerReport]) -> bool:
    return all(report.state == "Established" for report in reports)


def _show_peers(answers: Sequence[tuple[str, list[PeerReport]]]) -> None:
    print_table(
        ["Node", "Local AS", "Peer AS", "Peer Address", "Session State", "Uptime", "Family", "Received",
         "Accepted", "Advertised", "Note"],
        [row for _, reports in answers for report in reports for row in _peer_rows(report)],
        right=["Received", "Accepted", "Advertised"],
    )  # fmt: skip


@everywhere(Survey(list[PeerReport], _show_peers, from_record=_peers_of_record, is_fine=_are_up))
def peers(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Show every BGP session, and why one is down.

    Exit status 1 if any is down. Example: tortie peers
    """
    reports = _ask(socket, "peers", list[PeerReport])
    if output is Format.JSON:
        print_json(reports)
    else:
        _show_peers([("", reports)])
    raise typer.Exit(OK if _are_up(reports) else FOUND)


def _peer_rows(report: PeerReport) -> list[list[str | Text]]:
    up = report.state == "Established"
    state = Text(report.state, "green" if up else "red")
    head: list[str | Text] = [
        report.node, str(report.local_asn), str(report.peer_asn), report.peer, state, duration(report.uptime_seconds)
    ]  # fmt: skip
    if not up:
        stale = sum(family.stale for family in report.families)
        kept = f"; {stale} routes kept" if stale else ""
        return [[*head, "", "", "", "", f"{report.reason}{kept}"]]
    rows: list[list[str | Text]] = []
    for family in report.families:
        rows.append([*(head if not rows else [""] * len(head)), *_counts(family)])
    return rows


def _counts(family: FamilyCounts) -> list[str]:
    notes = []
    if family.refused:
        notes.append(f"{family.refused} refused (tortie routes available)")
    if family.discarded:
        notes.append(f"{family.discarded} beyond the maximum")
    if family.stale:
        notes.append(f"{family.stale} stale")
    numbers = [str(family.received), str(family.accepted), str(family.announced)]
    return [family.family, *numbers, ", ".join(notes)]


def _show_available(answers: Sequence[tuple[str, list[AvailableRoute]]]) -> None:
    _print_by_node(
        ["", "Prefix", "Peer", "Next Hop", "AS Path", "Pref", "MED", "Note"],
        [(node, _path_cells(row)) for node, rows in answers for row in rows],
        right=["Pref", "MED"],
    )


@routes.command()
@everywhere(Survey(list[AvailableRoute], _show_available))
def available(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Show every path heard from peers, and what became of it.

    Example: tortie routes available
    """
    rows = _ask(socket, "routes/available", list[AvailableRoute])
    if output is Format.JSON:
        print_json(rows)
        return
    _show_available([("", rows)])


def _print_by_node(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str | Text]]], *, right: Sequence[str] = ()
) -> None:
    """Print rows with the node they are of, where they are of several."""
    if any(node for node, _ in rows):
        print_table(["Node", *columns], [[node, *row] for node, row in rows], right=right)
    else:
        print_table(columns, [row for _, row in rows], right=right)


def _path_cells(row: AvailableRoute) -> list[str]:
    med = "" if row.med is None else str(row.med)
    note = row.note + (" (stale)" if row.stale else "")
    path = " ".join(map(str, row.as_path))
    return ["*" if row.used else "", row.prefix, row.peer, row.next_hop, path, str(row.local_preference), med, note]


def _show_advertised(answers: Sequence[tuple[str, list[AdvertisedRoute]]]) -> None:
    _print_by_node(
        ["Prefix", "Peer", "Next Hop", "AS Path", "Communities"],
        [
            (node, [row.prefix, row.peer, row.next_hop, " ".join(map(str, row.as_path)), " ".join(row.communities)])
            for node, rows in answers
            for row in rows
        ],
    )


@routes.command()
@everywhere(Survey(list[AdvertisedRoute], _show_advertised))
def advertised(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Show what is announced to each peer.

    Example: tortie routes advertised -o json
    """
    rows = _ask(socket, "routes/advertised", list[AdvertisedRoute])
    if output is Format.JSON:
        print_json(rows)
        return
    _show_advertised([("", rows)])


def _show_installed(answers: Sequence[tuple[str, list[InstalledRoute]]]) -> None:
    rows = [(node, _installed_cells(row)) for node, rows in answers for row in rows]
    _print_by_node(["Prefix", "Via", "Age", "Origin", "State"], rows)


@routes.command()
@everywhere(Survey(list[InstalledRoute], _show_installed))
def installed(output: OutputOption = Format.TABLE, socket: SocketOption = None) -> None:
    """Show our routes and their state in the kernel.

    Exit status 1 if one is not there. Example: tortie routes installed
    """
    rows = _ask(socket, "routes/installed", list[InstalledRoute])
    if output is Format.JSON:
        print_json(rows)
    else:
        _show_installed([("", rows)])
    raise typer.Exit(OK if all(row.state.startswith(("in kernel", "shadowed")) for row in rows) else FOUND)


def _installed_cells(row: InstalledRoute) -> list[str | Text]:
    state = Text(row.state, "green" if row.state == "in kernel" else "yellow")
    return [row.prefix, ", ".join(row.via), duration(row.age_seconds), row.origin, state]


def _show_explanations(answers: Sequence[tuple[str, RouteExplanation]]) -> None:
    for node, answer in answers:
        console().print(Text(f"{node}:", "bold"))
        _show_explanation(answer)


@routes.command()
@everywhere(Survey(RouteExplanation, _show_explanations))
def explain(
    prefix: Annotated[
        str, typer.Argument(help="Such as 10.42.1.0/24; an address stands for the longest prefix with it.")
    ],
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Say why a prefix goes where it goes: every path, the step that decided, the kernel's route, who is told.

    Exit status 1 if no path is used. Example: tortie routes explain 10.42.1.0/24
    """
    answer = _ask(socket, "routes/explain", RouteExplanation, prefix=prefix)
    used = sum(path.used for path in answer.paths)
    if output is Format.JSON:
        print_json(answer)
    else:
        _show_explanation(answer)
    raise typer.Exit(OK if used or answer.route else FOUND)


def _show_explanation(answer: RouteExplanation) -> None:
    out = console()
    used = sum(path.used for path in answer.paths)
    paths = "1 path" if len(answer.paths) == 1 else f"{len(answer.paths)} paths"
    out.print(f"{answer.prefix}, {paths}, {used} used" + (f": {answer.note}" if answer.note else ""))
    print_table(
        ["", "Peer", "Origin", "Next Hop", "AS Path", "Pref", "MED", "Note"],
        [[cells[0], cells[2], row.origin, *cells[3:]] for row in answer.paths for cells in [_path_cells(row)]],
        right=["Pref", "MED"],
    )
    if answer.route is not None:
        age = duration(answer.route.age_seconds)
        out.print(f"kernel: {', '.join(answer.route.via)}; {answer.route.state}, since {age}")
        if (carried := answer.route.carried) is not None:
            node = f" {carried.type} to Node {carried.node}" if carried.node else ""
            out.print(f"carried: {carried.how}{node}" + (f": {carried.why}" if carried.why else ""))
    out.print(f"announced to: {', '.join(answer.advertised_to) or 'nobody'}")
