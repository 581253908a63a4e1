"""All checks, one after the other, on the node that this runs on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from agent.cli.client import RefusedError, UnreachableError, ask
from agent.clusterreport import ClusterReport, cluster_report
from agent.datastore import Batch
from agent.doctor import Check, Finding, Level, Patient, access, health, kernel, links, neighbourhood, pathmtu
from agent.report import StatusReport
from agent.surroundings import Surroundings

CHECKS: Final[tuple[Check[Any], ...]] = (
    *kernel.CHECKS,
    *links.CHECKS,
    *pathmtu.CHECKS,
    *health.CHECKS,
    *neighbourhood.CHECKS,
    *access.CHECKS,
)


async def examine(patient: Patient, checks: Iterable[Check[Any]] = CHECKS) -> list[Finding]:
    """Make all checks; one that cannot be made leaves the others alone."""
    return [finding for check in checks for finding in await check.run(patient)]


def verdict(findings: Iterable[Finding]) -> int:
    """Return the exit status: 1 if something is wrong, else 2 if something could not be looked at, else 0."""
    levels = {finding.level for finding in findings}
    if levels & {Level.WARN, Level.FAIL}:
        return 1
    return 2 if Level.UNKNOWN in levels else 0


async def present(socket: Path, config: Path | None, node: str, root: Path) -> Patient:
    """Ask the agent for what it knows; where it does not answer, take the cluster from manifests."""
    status, no_agent = await asyncio.to_thread(_ask, socket, "status", StatusReport)
    cluster, no_cluster = await asyncio.to_thread(_ask, socket, "cluster", ClusterReport)
    if config is not None:
        cluster, no_cluster = await asyncio.to_thread(_read, config, node), ""
    return Patient(
        root=root,
        in_container="KUBERNETES_SERVICE_HOST" in os.environ and root == Path("/"),
        status=status,
        no_agent=no_agent,
        cluster=cluster,
        no_cluster=f"nodes are not known without an agent ({no_cluster}) or --config" if no_cluster else "",
    )


def _ask(socket: Path, what: str, answer: Any) -> tuple[Any, str]:
    try:
        return ask(socket, what, answer), ""
    except (UnreachableError, RefusedError) as error:
        return None, str(error)


def _read(config: Path, node: str) -> ClusterReport:
    from agent.datastore.directory import read_directory  # noqa: PLC0415 - reads YAML, which few need

    objects, _problems = read_directory(config)
    around = Surroundings(node)
    around.take(Batch({each.key: each for each in objects}, frozenset(), (), 1))
    return cluster_report(node, around)
