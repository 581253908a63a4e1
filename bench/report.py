"""Figures as a table beside the targets and the others, and as JSON.

A target is met or missed, never enforced: what the figures mean on a given machine is for people to say.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import (
    arrival,
    cni,
    encapsulation,
    failover,
    idle,
    kernel_writer,
    kubernetes,
    nat,
    nodes,
    pods,
    policy,
    policy_flood,
    policy_packets,
    restart,
)
from bench.measure import Measurement, Results
from inet.prefix import Family

_OWN: Final = "Tortie"


class Line(NamedTuple):
    """What is measured: a line of the table."""

    benchmark: str
    case: str
    quantity: str


def _targets() -> dict[Line, float]:
    targets: dict[Line, float] = {}

    def at_most(limit: float, benchmark: str, case: str, quantity: tuple[str, str]) -> None:
        targets[Line(benchmark, case, quantity[0])] = limit

    for family in Family:
        at_most(600, arrival.NAME, arrival.case_name(10_000, family, own_med=False), arrival.LAST_ROUTE)
        for event in (failover.CEASE, failover.LINK_DOWN):
            at_most(15, failover.NAME, failover.case_name(10_000, event, family), failover.SURVIVOR)
        at_most(10, failover.NAME, failover.case_name(10_000, failover.LINK_DOWN, family), failover.LOST)
        for what in (kernel_writer.WRITER, kernel_writer.FIB):
            at_most(1, kernel_writer.NAME, kernel_writer.case_name(100_000, family, what), kernel_writer.CPU)
        at_most(nat.MOST_FIRST_US, nat.NAME, nat.case_name(family), nat.FIRST)
    at_most(110, idle.NAME, idle.case_name(4), idle.MEMORY)
    at_most(0.5, idle.NAME, idle.case_name(4), idle.CPU)
    for (case, quantity), limit in encapsulation.LIMITS.items():
        at_most(limit, encapsulation.NAME, case, quantity)
    for case, (_, graceful) in restart.CASES.items():
        if graceful:
            at_most(0, restart.NAME, case, restart.EVENTS)
            for family in Family:
                at_most(0, restart.NAME, case, restart.lost(family))
    cluster = kubernetes.case_name(kubernetes.PODS)
    at_most(1.5, kubernetes.NAME, cluster, kubernetes.READ)
    at_most(50, kubernetes.NAME, cluster, kubernetes.MORE)
    at_most(20, kubernetes.NAME, cluster, kubernetes.LATENCY)
    at_most(2, kubernetes.NAME, cluster, kubernetes.REQUESTS)
    at_most(150, kubernetes.NAME, cluster, kubernetes.AGENT)
    return targets


def _wiring_targets() -> dict[Line, float]:
    return {
        Line(name, case, quantity[0]): limit
        for name, cases in ((cni.NAME, cni.CASES), (pods.NAME, pods.CASES))
        for case in cases
        for quantity, limit in ((cni.WHOLE, cni.MOST_WHOLE_MS), (cni.OWN_PART, cni.MOST_OWN_MS))
    }


def _policy_targets() -> dict[Line, float]:
    compiled = [Line(policy.NAME, case, policy.COMPILE[0]) for case in (policy.SMALL, policy.LARGE)]
    written = {
        Line(policy.NAME, case, policy.P99[0]): limit
        for case, limit in ((policy.NEW_POD, 20), (policy.LABEL, 5), (policy.MEMBER, 5), (policy.NAMESPACE, 50))
    }
    per_packet = {
        Line(policy_packets.NAME, policy_packets.case_name(family, quantity), policy_packets.COST[0]): 3
        for family in Family
        for quantity in (policy_packets.UDP, policy_packets.TCP, policy_packets.REQUESTS)
    }
    return {
        **dict(zip(compiled, (0.2, 2), strict=True)),
        **{line._replace(quantity=policy.LOAD[0]): 1 for line in compiled},
        Line(policy.NAME, policy.LARGE, policy.MEMORY[0]): 250,
        **written,
        Line(policy.NAME, policy.EVENTS, policy.CPU[0]): 25,
        Line(policy.NAME, policy.CHURN, policy.GROWTH[0]): 1,
        **per_packet,
        **{
            Line(policy_flood.NAME, policy_flood.case_name(family), quantity[0]): 0
            for family in Family
            for quantity in (policy_flood.LOST, policy_flood.LEAKED)
        },
    }


TARGETS: Final[Mapping[Line, float]] = {
    **_targets(),
    **_wiring_targets(),
    **_policy_targets(),
    **{Line(nodes.NAME, case, quantity): limit for (case, (quantity, _)), limit in nodes.LIMITS.items()},
}
"""What Tortie must not exceed."""


def print_results(console: Console, name: str, title: str, results: Results) -> None:
    """Print one benchmark's figures: a line for each quantity, a column for each subject."""
    subjects = list(dict.fromkeys(each.subject for each in results.measurements))
    lines: dict[Line, dict[str, Measurement]] = {}
    for each in results.measurements:
        lines.setdefault(Line(name, each.case, each.quantity), {})[each.subject] = each
    table = Table(title=title, title_justify="left", title_style="bold", caption_justify="left")
    for heading in ("Case", "Quantity"):
        table.add_column(heading)
    for subject in subjects:
        table.add_column(subject, justify="right")
        if subject == _OWN:
            table.add_column("Target", justify="right")
        elif _OWN in subjects:
            table.add_column(f"{_OWN}/{subject}", justify="right", style="dim")
    before = ""
    for line, found in lines.items():
        if table.rows and line.case != before:
            table.add_section()
        table.add_row("" if table.rows and line.case == before else line.case, *_row(line, found, subjects))
        before = line.case
    console.print(table)
    for note in results.notes:
        console.print(f"  {note}", highlight=False)
    for failure in results.failures:
        console.print(f"  [red]failed[/] {escape(failure)}", highlight=False)


def _row(line: Line, found: Mapping[str, Measurement], subjects: list[str]) -> list[str]:
    row = [_quantity(line, found)]
    for subject in subjects:
        row.append(_number(found[subject].median) if subject in found else "")
        if subject == _OWN:
            row.append(_verdict(found.get(subject), TARGETS.get(line)))
        elif _OWN in subjects:
            row.append(_ratio(found.get(_OWN), found.get(subject)))
    return row


def _quantity(line: Line, found: Mapping[str, Measurement]) -> str:
    unit = next(iter(found.values())).unit
    return f"{line.quantity}, {unit}" if unit else line.quantity


def _ratio(own: Measurement | None, other: Measurement | None) -> str:
    return _number(own.median / other.median) if own is not None and other is not None and other.median else ""


def _verdict(found: Measurement | None, limit: float | None) -> str:
    if found is None or limit is None:
        return ""
    return f"[green]≤ {_number(limit)} met[/]" if found.median <= limit else f"[red]≤ {_number(limit)} missed[/]"


def _number(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.2g}" if value < 1 else f"{value:.1f}"
    return f"{value:,.0f}"


def as_json(found: Mapping[str, Results]) -> dict[str, Any]:
    """Return everything: every round's values, targets, and where this ran."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()},
        "versions": _versions(),
        "benchmarks": {name: _results(name, results) for name, results in found.items()},
    }


def _results(name: str, results: Results) -> dict[str, Any]:
    return {
        "measurements": [
            {
                "case": each.case,
                "subject": each.subject,
                "quantity": each.quantity,
                "unit": each.unit,
                "median": each.median,
                "values": each.values,
                **_target(Line(name, each.case, each.quantity), each),
            }
            for each in results.measurements
        ],
        "failures": results.failures,
        "notes": results.notes,
    }


def _target(line: Line, each: Measurement) -> dict[str, Any]:
    limit = TARGETS.get(line) if each.subject == _OWN else None
    return {} if limit is None else {"atMost": limit, "met": each.median <= limit}


def _versions() -> dict[str, str]:
    found = {name: version(name) for name in ("tortie", "exabgp")}
    for name, command in {"BIRD": ["bird", "--version"], "GoBGP": ["gobgpd", "--version"], "ip": ["ip", "-V"]}.items():
        if shutil.which(command[0]) is not None:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found[name] = (done.stdout or done.stderr).strip()
    return found


def write_json(path: Path, found: Mapping[str, Results]) -> None:
    """Write the JSON file, and its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(as_json(found), indent=1) + "\n")


def missed(found: Mapping[str, Results]) -> Iterable[str]:
    """Yield, in a line each, the targets that were not met."""
    for name, results in found.items():
        for each in results.measurements:
            limit = TARGETS.get(Line(name, each.case, each.quantity)) if each.subject == _OWN else None
            if limit is not None and each.median > limit:
                unit = f" {each.unit}" if each.unit else ""
                yield f"{name}: {each.case}: {each.quantity} {_number(each.median)}{unit}, at most {_number(limit)}"
