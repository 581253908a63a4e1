"""Metrics read off the running state when Prometheus asks; between two scrapes they cost nothing."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.report import NetworkReport
from agent.view import View


class StateCollector(Collector):
    """Turns a `View` into metrics."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Yield everything there is to say right now."""
        yield from self._sessions()
        yield from self._node()

    def _sessions(self) -> Iterator[Metric]:
        labels = ["peer", "origin"]
        up = GaugeMetricFamily("tortie_session_established", "1 while the session is established.", labels=labels)
        flaps = CounterMetricFamily("tortie_session_flaps", "How often an established session ended.", labels=labels)
        error = InfoMetricFamily("tortie_session_last_error", "Why the session is or was last down.", labels=labels)
        counts = {
            name: GaugeMetricFamily(f"tortie_session_prefixes_{name}", f"Prefixes {name}.", labels=[*labels, "family"])
            for name in ("received", "accepted", "refused", "stale", "discarded", "announced")
        }
        for peer in self._view.peers():
            values = [peer.peer, peer.origin]
            up.add_metric(values, peer.state == "Established")
            flaps.add_metric(values, peer.flaps)
            if reason := peer.reason or peer.last_error:
                error.add_metric(values, {"reason": reason})
            for family in peer.families:
                for name, metric in counts.items():
                    metric.add_metric([*values, family.family], getattr(family, name))
        yield from (up, flaps, error, *counts.values())

    def _node(self) -> Iterator[Metric]:
        status = self._view.status()
        for name, text, value in (
            ("tortie_ready", "1 while the node can carry pods.", status.ready),
            ("tortie_rib_prefixes", "Prefixes with a usable path.", status.prefixes_known),
            ("tortie_routes_installed", "Routes of ours in the kernel.", status.routes_installed),
            ("tortie_routes_pending", "Routes still to be written.", status.routes_pending),
            ("tortie_routes_refused", "Routes the kernel refused.", status.routes_refused),
            ("tortie_restart_deferring", "1 while routes of before the restart are left untouched.", status.restarting),
            ("tortie_speaker_running", "1 while the BGP speaker runs.", status.speaker_running),
            ("tortie_cni_pods", "Interfaces of pods that the container runtime has wired.", status.cni.pods),
            ("tortie_object_problems", "Objects or fields that are not in force as written.", len(status.problems)),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield from _network(status.network)
        policy = status.policy
        for name, text, value in (
            ("tortie_policy_in_kernel", "1 while the kernel has all of this node's policy.", policy.in_kernel),
            ("tortie_policies", "NetworkPolicies and ClusterNetworkPolicies in the cluster.", policy.policies),
            ("tortie_policy_pods", "Pods of this node with policy in force.", policy.pods),
            ("tortie_policy_chains", "Chains that pods of this node share.", policy.chains),
            ("tortie_policy_sets", "Sets that those chains look into.", policy.sets),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "tortie_policy_repairs", "How often the table was found changed by others.", value=policy.repaired
        )
        yield CounterMetricFamily(
            "tortie_policy_connections_cut", "Connections ended by a new deny.", value=policy.connections_cut
        )
        yield CounterMetricFamily("tortie_speaker_restarts", "Restarts of the speaker.", value=status.speaker_restarts)
        yield CounterMetricFamily("tortie_kernel_writes", "Changes of routes and groups.", value=status.kernel_writes)
        yield CounterMetricFamily("tortie_kernel_refusals", "Routes the kernel refused.", value=status.kernel_refusals)
        yield CounterMetricFamily(
            "tortie_routes_repaired", "Routes found missing or changed.", value=status.routes_repaired
        )


def _network(network: NetworkReport) -> Iterator[Metric]:
    for name, text, value in (
        ("tortie_pod_mtu_bytes", "The MTU of pods; 0 until it is known.", network.mtu or 0),
        (
            "tortie_pod_mtu_uncorrected",
            "Links of pods with another MTU than they should have.",
            len(network.mtu_uncorrected),
        ),
        ("tortie_sysctls_failed", "Kernel settings that are not as they should be.", len(network.sysctls_failed)),
        ("tortie_connections", "Connections that the kernel tracks.", network.connections or 0),
        ("tortie_connections_limit", "Connections that the kernel has room for.", network.connections_limit or 0),
    ):
        yield GaugeMetricFamily(name, text, value=value)
    for name, text, value in (
        ("tortie_pod_mtu_corrections", "Ends of pods' links that were given another MTU.", network.mtu_corrected),
        (
            "tortie_sysctl_repairs",
            "Kernel settings that somebody changed, and that were put right.",
            network.sysctls_repaired,
        ),
        (
            "tortie_connections_dropped",
            "Packets dropped because the kernel had no room for another connection.",
            network.connections_dropped,
        ),
    ):
        yield CounterMetricFamily(name, text, value=value)
