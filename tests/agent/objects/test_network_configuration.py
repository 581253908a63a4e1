from __future__ import annotations

import pytest

from agent.objects import NetworkConfiguration
from inet.prefix import Family, Prefix
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


def test_outgoing_nat_is_on_where_nobody_says_anything() -> None:
    spec = accepted(NetworkConfiguration, HEAD).spec

    assert spec.mtu == "auto"
    assert spec.outgoing_nat.enabled
    assert not spec.outgoing_nat.exempt_learned
    assert (spec.outgoing_nat.source, spec.outgoing_nat.fully_random) == ("Interface", True)


def test_outgoing_nat_is_taken_as_it_is_said() -> None:
    said = (
        "spec: {mtu: 8950, uplinks: [en*, bond0.7], outgoingNAT: {families: [IPv6], exclude: [10.0.0.0/8, 'fd00::/8'], "
        "exemptLearned: true, ports: {first: 20000, last: 20000}, fullyRandom: false, source: Node, "
        "optOut: [{namespaceSelector: {matchLabels: {team: net}}}, {podSelector: {}}]}}"
    )
    spec = accepted(NetworkConfiguration, HEAD + said).spec
    nat = spec.outgoing_nat

    assert (spec.mtu, spec.uplinks) == (8950, ("en*", "bond0.7"))
    assert nat.families == (Family.IPV6,)
    assert nat.exclude == (Prefix.parse("10.0.0.0/8"), Prefix.parse("fd00::/8"))
    assert nat.ports is not None
    assert (nat.ports.first, nat.ports.last) == (20000, 20000)
    assert (nat.exempt_learned, nat.fully_random, nat.source) == (True, False, "Node")
    assert [each.pod_selector is None for each in nat.opt_out] == [True, False]


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
        ("{mtu: 1279}", "spec.mtu: 1279 is not an MTU (1280 to 65535)"),
        ("{mtu: '1500'}", "spec.mtu: '1500' is not an MTU (1280 to 65535): leave out the quotes"),
        (
            "{uplinks: ['eth0 ']}",
            "spec.uplinks[0]: 'eth0 ' is not a link's name, such as eth0 or en*: at most 15 characters",
        ),
        (
            "{outgoingNAT: {ports: {first: 9, last: 8}}}",
            "spec.outgoingNAT.ports.last: 8 is less than first, 9",
        ),
        (
            "{outgoingNAT: {optOut: [{}]}}",
            (
                "spec.outgoingNAT.optOut[0]: needs namespaceSelector, podSelector or both; for all pods set "
                "outgoingNAT.enabled to false"
            ),
        ),
        ("{nodeRoutes: OSPF}", "spec.nodeRoutes: 'OSPF' is not BGP or Direct"),
        ("{podCidrs: []}", "spec.podCidrs: unknown field; did you mean podCIDRs?"),
        (
            "{encapsulation: {mode: CrossSubnet}}",
            "spec.encapsulation.mode: 'CrossSubnet' is not Never, Fallback or Always",
        ),
        ("{encapsulation: {type: Geneve}}", "spec.encapsulation.type: 'Geneve' is not VXLAN or IPIP"),
        (
            "{encapsulation: {vni: 16777216}}",
            "spec.encapsulation.vni: 16777216 is not a VXLAN network identifier (1 to 16777215)",
        ),
        ("{encapsulation: {port: 0}}", "spec.encapsulation.port: 0 is not a UDP port (1 to 65535)"),
        (
            "{encapsulation: {overrides: [{name: cloud, mode: Always}, {name: cloud, mode: Never}]}}",
            "spec.encapsulation.overrides[1]: cloud is the name of another one, too",
        ),
        ("{encapsulation: {overrides: [{name: cloud}]}}", "spec.encapsulation.overrides[0].mode: is required"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_wanted(spec: str, wanted: str) -> None:
    assert refusals(HEAD + f"spec: {spec}") == [wanted]
