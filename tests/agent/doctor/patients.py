"""Nodes to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import __version__
from agent.clusterreport import ClusterReport, NodeReport
from agent.doctor import Patient
from agent.report import PolicyReport, StatusReport

STATUS = StatusReport(
    node="n1",
    version=__version__,
    ready=True,
    local_asn=64512,
    router_id="172.16.1.11",
    pod_cidrs=["10.42.1.0/24"],
    sessions_established=4,
    sessions_configured=4,
    sessions_pending=0,
    routes_installed=8,
    routes_pending=0,
    routes_refused=0,
    kernel_writes=8,
    kernel_refusals=0,
    routes_repaired=0,
    prefixes_known=6,
    restarting=False,
    waiting_for=[],
    speaker_running=True,
    speaker_restarts=0,
    uptime_seconds=60.0,
    policy=PolicyReport(
        wanted=True,
        in_kernel=True,
        error="",
        policies=0,
        pods=0,
        unlinked=0,
        chains=0,
        sets=0,
        repaired=0,
        connections_cut=0,
    ),
    conditions=[],
    problems=[],
)
N1 = NodeReport("n1", ("10.42.1.0/24", "fd42:0:0:1::/64"), ("172.16.1.11", "fd16:1::11"))
N2 = NodeReport("n2", ("10.42.2.0/24", "fd42:0:0:2::/64"), ("172.16.1.12", "fd16:1::12"))


def cluster(*nodes: NodeReport, **changes: Any) -> ClusterReport:
    """Return a cluster that is well: n1 and n2, unless other nodes are given."""
    said: dict[str, Any] = {
        "node": "n1",
        "nodes": nodes or (N1, N2),
        "pod_cidrs": (),
        "service_cidrs": (),
        "tunnels": (),
        "outgoing_nat": False,
    }
    return ClusterReport(**(said | changes))


def patient(around: ClusterReport | None = None, root: Path = Path("/"), **changes: Any) -> Patient:
    """Return a node without an agent."""
    said: dict[str, Any] = {
        "in_container": False,
        "status": None,
        "no_agent": "no agent at /run/tortie/agent.sock",
        "no_cluster": "" if around else "nodes are not known",
    }
    return Patient(root=root, cluster=around, **(said | changes))
