"""The kernel takes what is rendered, and ends where the text says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inet.prefix import Family
from policy.compiler import Engine, Update
from policy.nft import render, render_change, render_elements
from policy.verdicts import Case, Cluster
from tests.policy.clusters import HERE, updates
from tests.policy.nftables import WHY_NOT, Kernel, kernel
from tests.policy.scenarios import (
    CHANGES,
    SHOP,
    STATES,
    cluster_policy,
    engine_of,
    labels,
    namespace,
    network_policy,
    pod,
    state_text,
)

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def nft() -> Iterator[Kernel]:
    with kernel() as made:
        yield made


def load_change(nft: Kernel, engine: Engine) -> None:
    change = render_change(engine.flush())
    assert nft.load(change.structure) == ""
    assert nft.load(render_elements(change.elements) + change.removal) == ""


def listed(text: str) -> dict[str, object]:
    with kernel() as fresh:
        assert fresh.load(text) == ""
        return fresh.table()


@pytest.mark.parametrize("name", sorted(STATES))
def test_a_kept_text_passes_the_real_nft(nft: Kernel, name: str) -> None:
    text = state_text(name)
    assert nft.check(text) == ""
    assert nft.load(text) == ""


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_a_kept_change_leads_where_starting_afresh_does(nft: Kernel, name: str) -> None:
    before, after = CHANGES[name]
    engine = engine_of(before)
    assert nft.load(render(engine.ruleset)) == ""
    for each in after:
        engine.apply(each)
    load_change(nft, engine)
    assert nft.table() == listed(render(engine.ruleset))


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("file", ["k8s-e2e-netpol.json", "recipes.json", "cnp-conformance-admin.json"])
def test_every_case_passes_the_real_nft(nft: Kernel, file: str, family: Family) -> None:
    for raw in json.loads((CASES / file).read_text(encoding="utf-8"))["cases"]:
        cluster = Cluster()
        cluster.move_to(Case.read(raw, family))
        for engine in cluster.engines.values():
            assert nft.check(render(engine.ruleset)) == "", raw["name"]


@given(st.lists(st.lists(updates, min_size=1, max_size=6), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_changes_leads_where_starting_afresh_does(nft: Kernel, batches: list[list[Update]]) -> None:
    engine = Engine(HERE)
    engine.flush()
    nft.load("add table inet tortie; delete table inet tortie")
    assert nft.load(render(engine.ruleset)) == ""
    for batch in batches:
        for update in batch:
            engine.apply(update)
        load_change(nft, engine)
    assert nft.table() == listed(render(engine.ruleset))


def test_crowds_and_lengths(nft: Kernel) -> None:
    space = "s" * 63
    long_name = "n" * 252
    blocks = [{"ipBlock": {"cidr": f"100.{n // 128}.{n % 128 * 2}.0/24"}} for n in range(2000)]
    objects = [
        *SHOP,
        namespace(space),
        pod(f"{space}/{'p' * 253}", "10.42.1.77", "fd42:0:0:1::77", app="many"),
        *(
            pod(f"shop/c{n}", f"10.{100 + n // 65536}.{n // 256 % 256}.{n % 256}", place="n2", app="crowd")
            for n in range(10_000)
        ),
        network_policy(f"{space}/ports", ingress=[{"ports": [{"port": 1 + 2 * n} for n in range(1000)]}]),
        network_policy(
            f"{space}/crowd", ingress=[{"from": [{"namespaceSelector": {}, "podSelector": labels(app="crowd")}]}]
        ),
        network_policy(f"{space}/blocks", ingress=[{"from": blocks}]),
        *(network_policy(f"{space}/{long_name}{last}", ingress=[{"ports": [{"port": 7}]}]) for last in "ab"),
        *(network_policy(f"{space}/nth-{n}", ingress=[{"ports": [{"port": n + 1}]}]) for n in range(50)),
        cluster_policy(
            "free-text",
            "Admin",
            1,
            ingress=[
                {
                    "name": 'quote " and\nnewline',
                    "action": "Deny",
                    "from": [{"namespaces": labels(team="ops")}],
                    "protocols": [{"destinationNamedPort": '"}\ndrop'}],
                }
            ],
        ),
    ]
    engine = engine_of(objects)
    assert nft.load(render(engine.ruleset)) == ""
    table = nft.table()
    (crowd,) = [name for name, ref in engine.ruleset.sets.items() if name.startswith("pods4") and "crowd" in ref.text]
    assert len(table[f"set {crowd}"]["elem"]) == 10_000
