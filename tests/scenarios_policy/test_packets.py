"""What policies allow and deny, in packets between pods of two nodes."""

from __future__ import annotations

import json
from functools import partial

import pytest

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError
from agent.lab.wait import eventually
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios_policy.connections import ENOUGH_S, connected, connects, is_kept_out, listening
from tests.scenarios_policy.policies import DB_IN, cluster_policy, from_app, network_policy

pytestmark = pytest.mark.interop


async def denied(lab: Lab, source: str, destination: str) -> None:
    await eventually(lambda: is_kept_out(lab, source, destination), what="a denial")


async def test_ingress_egress_and_cluster_policies_decide_each_in_its_turn(net: Lab, apply: Apply) -> None:
    with listening(net, "db"), listening(net, "api"):
        assert await connects(net, "front", "db")
        apply(net, "db.yaml", DB_IN)
        await denied(net, "front", "db")
        assert await connects(net, "api", "db")
        assert await is_kept_out(net, "probe", "db")
        assert await connects(net, "db", "api")

        nobody = network_policy("api-out", "api", policyTypes=["Egress"])
        apply(net, "out.yaml", nobody)
        await denied(net, "api", "db")
        assert await connects(net, "front", "api")

        ops = {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}
        let_in = cluster_policy("ops", "Admin", ingress=[{"action": "Accept", "from": [ops]}])
        apply(net, "admin.yaml", let_in)
        await eventually(lambda: connects(net, "probe", "db"), what="the Admin tier before the NetworkPolicy")

        no_one = cluster_policy("base", "Baseline", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
        apply(net, "admin.yaml", no_one)
        await denied(net, "front", "api")
        apply(net, "admin.yaml")
        apply(net, "out.yaml")
        apply(net, "db.yaml")
        await eventually(lambda: connects(net, "front", "db"), what="nothing left of it all")


async def test_a_new_deny_cuts_established_connections_that_it_denies_and_only_those(net: Lab, apply: Apply) -> None:
    with listening(net, "db") as servers:
        for family in Family:
            async with (
                connected(net, family, "front", "db", servers[family]) as doomed,
                connected(net, family, "api", "db", servers[family]) as kept,
            ):
                assert await doomed.works()
                assert await kept.works()
                apply(net, "db.yaml", DB_IN)
                await eventually(partial(doomed.works, ENOUGH_S), lambda works: not works, what="the connection cut")
                assert await kept.works()
            apply(net, "db.yaml")
            await eventually(lambda: connects(net, "front", "db"), what="the policy gone")


async def test_a_pod_that_nobody_speaks_of_any_more_gets_nothing(net: Lab) -> None:
    pods = net.state.config / "pods.yaml"
    before = pods.read_text()
    with listening(net, "db"):
        pods.write_text("---\n".join(each for each in before.split("---\n") if "name: db" not in each))
        await denied(net, "front", "db")
        pods.write_text(before)
        await eventually(lambda: connects(net, "front", "db"), what="the pod back")


async def test_a_node_always_reaches_its_own_pods_and_other_nodes_do_by_policy(net: Lab, apply: Apply) -> None:
    apply(net, "all.yaml", network_policy("nobody", None, policyTypes=["Ingress", "Egress"]))
    with listening(net, "db"):
        await denied(net, "front", "db")
    for family in Family:
        version = "-4" if family is Family.IPV4 else "-6"
        address = str(net.address("db", family))

        async def other_node_reaches(version: str = version, address: str = address) -> bool:
            try:
                await net.run("n1", "ping", version, "-c1", "-W1", "-q", address)
            except CommandError:
                return False
            return True

        # It may be n1 that has read the policy and keeps front from it, and n2 that will.
        await eventually(other_node_reaches, lambda reaches: not reaches, what=f"n1 kept from {address}")
        await net.run("n2", "ping", version, "-c1", "-W10", "-q", address)


async def test_a_denial_is_explained_and_told_by_the_agents(net: Lab, apply: Apply) -> None:
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        for node in ("n1", "n2"):
            explain = partial(says, net, node, "policy", "explain", "shop/front", "shop/db", "5432/TCP")
            story = await eventually(explain, lambda story: "DENIED" in story, what=f"{node} has read the policy")
            assert "DENIED   shop/front (10.42.0.2, n1) → shop/db (10.42.1.2, n2) 5432/TCP" in story
            assert "rule 1  from app=api: front has app=front   port 5432/TCP ok" in story
            assert "packets so far on n2" in story, "whoever is asked, n2 itself told its part"
        drops = json.loads(await eventually(partial(says, net, "n2", "drops", "-o", "json"), json.loads))
        assert {(each["source"], each["destination"], each["port"]) for each in drops} == {
            ("shop/front", "shop/db", 5432)
        }
        assert drops[-1]["policy"] == "NetworkPolicy shop/db-in"


async def test_a_bad_policy_harms_only_itself(net: Lab, apply: Apply) -> None:
    bad = network_policy("bad", "api", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}])
    apply(net, "db.yaml", bad, DB_IN, network_policy("api-in", "api", ingress=[from_app("front")]))
    with listening(net, "db"):
        await denied(net, "front", "db")
        assert await connects(net, "api", "db")
    problem = "NetworkPolicy shop/bad: spec.ingress[0].from[0].ipBlock.cidr"
    await eventually(partial(says, net, "n1", "status"), lambda text: problem in text, what=problem)


async def says(lab: Lab, node: str, *words: str) -> str:
    """Return what a command prints on a node, whatever its exit status."""
    return await lab.run(node, "sh", "-c", 'tortie "$@" || true', "sh", *words)
