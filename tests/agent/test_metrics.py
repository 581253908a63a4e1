from __future__ import annotations

import itertools
import re

import prometheus_client
import pytest
from prometheus_client import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from agent import metrics

# What dashboards and alerts of other people go by: a name that is here stays.
KINDS = {
    "tortie_reconcile_seconds": "histogram",
    "tortie_object_changes": "counter",
    "tortie_policy_write_seconds": "histogram",
    "tortie_policy_drops": "counter",
    "tortie_policy_drops_not_told": "counter",
    "tortie_cni_add_seconds": "histogram",
    "tortie_cni_leaked_addresses": "counter",
    "tortie_api_requests": "counter",
}


def scraped() -> dict[str, Metric]:
    """Return what a scrape brings, as Prometheus reads it."""
    text = generate_latest(metrics.REGISTRY).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_names_and_kinds_are_those_that_dashboards_know() -> None:
    assert KINDS.items() <= {name: family.type for name, family in scraped().items()}.items()


@pytest.mark.parametrize("name", sorted(scraped()))
def test_each_is_named_and_described_as_prometheus_asks(name: str) -> None:
    family = scraped()[name]
    assert re.fullmatch(r"tortie_[a-z_]+", name)
    assert re.fullmatch(r"[A-Z].+\.", family.documentation)
    if family.type == "histogram":
        assert name.endswith("_seconds")  # the base unit, in the name


def test_only_our_own_are_served() -> None:
    assert all(name.startswith("tortie_") for name in scraped())
    everybodys = {family.name for family in prometheus_client.REGISTRY.collect()}
    assert not [name for name in everybodys if name.startswith("tortie_")]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind == "histogram"])
def test_times_can_be_told_apart_where_it_matters(name: str) -> None:
    histogram = next(each for each in vars(metrics).values() if getattr(each, "_name", None) == name)
    bounds = histogram._upper_bounds
    *finite, last = bounds
    assert finite == sorted(set(finite))
    assert last == float("inf")
    assert {0.005, 0.5} <= set(finite)  # what a policy change may take, and what people notice
    assert finite[0] <= 0.001  # a change in a quiet cluster
    assert finite[-1] >= 10  # one that had to be waited for
    assert all(later <= 4 * earlier for earlier, later in itertools.pairwise(finite))


@pytest.mark.parametrize(
    ("counter", "labels"),
    [
        (metrics.DROPS, {"reason": "policy", "direction": "ingress", "policy": "NetworkPolicy shop/db-in"}),
        (metrics.API_REQUESTS, {"verb": "LIST", "resource": "pods"}),
        (metrics.OBJECT_CHANGES, {}),
        (metrics.DROPS_NOT_TOLD, {}),
        (metrics.CNI_LEAKED, {}),
    ],
    ids=["drops", "requests", "changes", "drops not told", "leaked"],
)
def test_a_count_is_of_its_labels(counter: prometheus_client.Counter, labels: dict[str, str]) -> None:
    def count() -> float:
        return metrics.REGISTRY.get_sample_value(f"{counter._name}_total", labels) or 0.0

    before = count()
    (counter.labels(**labels) if labels else counter).inc(3)
    assert count() == before + 3
