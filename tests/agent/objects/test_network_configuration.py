from __future__ import annotations

import pytest

from agent.objects import NetworkConfiguration
from inet.prefix import Prefix
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: NetworkConfiguration\nmetadata: {name: default}\n"


def test_everything_has_a_default() -> None:
    spec = accepted(NetworkConfiguration, HEAD).spec

    assert (spec.pod_cidrs, spec.service_cidrs, spec.node_routes) == ((), (), "BGP")


def test_cidrs_of_both_families_are_prefixes() -> None:
    spec = accepted(
        NetworkConfiguration, HEAD + "spec: {podCIDRs: [10.42.0.0/16, 'fd42::/48'], serviceCIDRs: [10.43.0.0/16]}"
    ).spec

    assert spec.pod_cidrs == (Prefix.parse("10.42.0.0/16"), Prefix.parse("fd42::/48"))
    assert spec.service_cidrs == (Prefix.parse("10.43.0.0/16"),)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (
            "{podCIDRs: [10.42.0.1/16]}",
            "spec.podCIDRs[0]: '10.42.0.1/16' has host bits set: the prefix is 10.42.0.0/16",
        ),
        ("{podCIDRs: [10.42.0.0]}", "spec.podCIDRs[0]: '10.42.0.0' is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ("{podCIDRs: ['fd42::/48', '::/0']}", "spec.podCIDRs[1]: ::/0 is every address there is"),
        ("{serviceCIDRs: [0.0.0.0/0]}", "spec.serviceCIDRs[0]: 0.0.0.0/0 is every address there is"),
        (
            "{podCIDRs: [10.0.0.0/8], serviceCIDRs: [fd43::/108, 10.43.0.0/16]}",
            "spec.serviceCIDRs[1]: 10.43.0.0/16 overlaps podCIDRs 10.0.0.0/8",
        ),
        (
            "{podCIDRs: ['fd42:0:0:1::/64'], serviceCIDRs: ['fd42::/48']}",
            "spec.serviceCIDRs[0]: fd42::/48 overlaps podCIDRs fd42:0:0:1::/64",
        ),
        ("{nodeRoutes: Direct}", "spec.nodeRoutes: 'Direct' is not BGP"),
        ("{podCidrs: []}", "spec.podCidrs: unknown field; did you mean podCIDRs?"),
        ("{encapsulation: {mode: Never}}", "spec.encapsulation: unknown field"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_wanted(spec: str, wanted: str) -> None:
    assert refusals(HEAD + f"spec: {spec}") == [wanted]
