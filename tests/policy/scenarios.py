"""Small clusters whose nftables text is kept beside them, for reading.

`python -m tests.policy.scenarios` writes it anew. Each is loaded by the real nft as well, so what is kept is what a
kernel takes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from policy.clusterpolicy import decode_cluster_network_policy
from policy.compiler import Deleted, Engine, Update
from policy.networkpolicy import decode_network_policy
from policy.nft import render, render_change, render_elements
from policy.objects import decode_namespace, decode_node, decode_pod

GOLDEN = Path(__file__).parent / "golden"
NODE = "n1"


def node(name: str, number: int) -> Update:
    return decode_node(
        {
            "metadata": {"name": name, "labels": {"rack": "a"}},
            "spec": {"podCIDRs": [f"10.42.{number}.0/24", f"fd42:0:0:{number}::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": f"172.16.0.{number}"}]},
        }
    )


def namespace(name: str, **labels: str) -> Update:
    return decode_namespace({"metadata": {"name": name, "labels": labels}})


def pod(name: str, *addresses: str, place: str = NODE, ports: Iterable[dict[str, Any]] = (), **labels: str) -> Update:
    space, _, own = name.partition("/")
    return decode_pod(
        {
            "metadata": {"namespace": space, "name": own, "labels": labels},
            "spec": {"nodeName": place, "containers": [{"ports": list(ports)}]},
            "status": {"podIPs": [{"ip": each} for each in addresses]},
        }
    )


def network_policy(name: str, **spec: Any) -> Update:
    space, _, own = name.partition("/")
    return decode_network_policy({"metadata": {"namespace": space, "name": own}, "spec": {"podSelector": {}, **spec}})


def cluster_policy(name: str, tier: str, priority: int, **spec: Any) -> Update:
    everything = {"namespaces": {}}
    whole = {"tier": tier, "priority": priority, "subject": everything, **spec}
    return decode_cluster_network_policy({"metadata": {"name": name}, "spec": whole})


def labels(**wanted: str) -> dict[str, Any]:
    return {"matchLabels": wanted}


SHOP = [
    node("n1", 1),
    node("n2", 2),
    namespace("shop", team="web"),
    namespace("ops", team="ops"),
    pod(
        "shop/db-0",
        "10.42.1.9",
        "fd42:0:0:1::9",
        app="db",
        ports=[{"name": "pg", "containerPort": 5432}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
    ),
    pod("shop/front", "10.42.1.7", "fd42:0:0:1::7", app="front"),
    pod("shop/api", "10.42.2.3", "fd42:0:0:2::3", place="n2", app="api"),
    pod("ops/probe", "10.42.2.4", place="n2", app="probe"),
]

DB_IN = network_policy(
    "shop/db-in",
    podSelector=labels(app="db"),
    ingress=[
        {"from": [{"podSelector": labels(app="api")}], "ports": [{"port": 5432}]},
        {
            "from": [
                {"namespaceSelector": labels(team="ops")},
                {"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.64/26"]}},
                {"ipBlock": {"cidr": "2001:db8::/32"}},
            ],
            "ports": [{"port": "pg"}, {"port": 8000, "endPort": 8010}, {"port": 9000}, {"protocol": "UDP"}],
        },
    ],
)

TIERS = [
    cluster_policy(
        "guard",
        "Admin",
        10,
        ingress=[{"name": "no strangers", "action": "Deny", "from": [{"namespaces": labels(team="ops")}]}],
        egress=[
            {
                "action": "Accept",
                "to": [{"nodes": labels(rack="a")}],
                "protocols": [{"tcp": {"destinationPort": {"number": 10250}}}],
            },
            {"action": "Deny", "to": [{"networks": ["169.254.169.254/32"]}, {"nodes": {}}]},
            {"action": "Pass", "to": [{"namespaces": {}}], "protocols": [{"sctp": {"destinationPort": {"number": 9}}}]},
        ],
    ),
    cluster_policy("rest", "Baseline", 0, egress=[{"action": "Deny", "to": [{"networks": ["0.0.0.0/0", "::/0"]}]}]),
    network_policy(
        "shop/front-out", podSelector=labels(app="front"), policyTypes=["Egress"], egress=[{"ports": [{"port": "pg"}]}]
    ),
]

STATES: dict[str, list[Update]] = {
    "nothing": [],
    "one-policy": [*SHOP, DB_IN],
    "three-tiers": [*SHOP, *TIERS],
}

CHANGES: dict[str, tuple[list[Update], list[Update]]] = {
    "label-changed": (
        [*SHOP, DB_IN],
        [pod("ops/probe", "10.42.2.4", place="n2", app="api"), pod("shop/front", "10.42.1.7", app="api")],
    ),
    "policy-added": (SHOP, [DB_IN]),
    "policy-removed": ([*SHOP, DB_IN], [Deleted("NetworkPolicy", "shop", "db-in")]),
    "pod-gone": ([*SHOP, DB_IN], [Deleted("Pod", "shop", "db-0")]),
    "node-given-another-range": (SHOP, [node("n1", 3)]),
}


def state_text(name: str) -> str:
    return render(engine_of(STATES[name]).ruleset)


def change_text(name: str) -> str:
    before, updates = CHANGES[name]
    engine = engine_of(before)
    for each in updates:
        engine.apply(each)
    change = render_change(engine.flush())
    second = render_elements(change.elements) + change.removal
    return f"# first transaction\n{change.structure}# second transaction\n{second}"


def engine_of(objects: Iterable[Update], place: str = NODE) -> Engine:
    engine = Engine(place)
    for each in objects:
        engine.apply(each)
    engine.flush()
    return engine


def texts() -> dict[str, str]:
    states = {f"{name}.nft": state_text(name) for name in STATES}
    return states | {f"change-{name}.nft": change_text(name) for name in CHANGES}


if __name__ == "__main__":
    for file, text in texts().items():
        (GOLDEN / file).write_text(text, encoding="utf-8")
