"""What is counted as it happens; `agent.collector` reads the rest off the running state when somebody asks."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY: Final = CollectorRegistry()
RECONCILE_SECONDS: Final = Histogram(
    "tortie_reconcile_seconds",
    "From the first unhandled event to the kernel written.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
OBJECT_CHANGES: Final = Counter("tortie_object_changes", "Batches of changed objects taken over.", registry=REGISTRY)
POLICY_WRITE_SECONDS: Final = Histogram(
    "tortie_policy_write_seconds",
    "Time to write a change of policy, or to compare and repair the whole table.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
DROPS: Final = Counter(
    "tortie_policy_drops",
    "Packets dropped, as far as the kernel reports them (50 a second of each direction and other reason), by policy.",
    ["reason", "direction", "policy"],
    registry=REGISTRY,
)
DROPS_NOT_TOLD: Final = Counter(
    "tortie_policy_drops_not_told", "Reports of dropped packets that came too fast to be told.", registry=REGISTRY
)
CNI_ADD_SECONDS: Final = Histogram(
    "tortie_cni_add_seconds",
    "From the CNI plugin's word that a pod is wired to its policy in the kernel, or to the time limit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    registry=REGISTRY,
)
CNI_LEAKED: Final = Counter(
    "tortie_cni_leaked_addresses", "Addresses freed that sandboxes which are gone had left taken.", registry=REGISTRY
)
API_REQUESTS: Final = Counter(
    "tortie_api_requests", "Requests to the Kubernetes API server.", ["verb", "resource"], registry=REGISTRY
)
