from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.objects import BGPNodeProfile
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: BGPNodeProfile\nmetadata: {name: rack-a}\n"


def test_a_profile_says_only_what_it_says() -> None:
    spec = accepted(BGPNodeProfile, HEAD + "spec: {nodeSelector: {matchLabels: {rack: a}}, localASN: 65001}").spec

    assert spec.node_selector.match_labels == {"rack": "a"}
    assert spec.local_asn == 65001
    assert (spec.router_id, spec.source_addresses, spec.transit) == (None, (), False)


def test_a_profile_may_give_one_address_of_each_family() -> None:
    spec = accepted(
        BGPNodeProfile, HEAD + "spec: {routerID: 10.0.0.1, sourceAddresses: [172.16.1.11, 'fd00::11'], transit: true}"
    ).spec

    assert spec.router_id == ip_address("10.0.0.1")
    assert spec.source_addresses == (ip_address("172.16.1.11"), ip_address("fd00::11"))
    assert spec.transit


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("{routerID: 0.0.0.0}", "spec.routerID: 0.0.0.0 is not a router id: an IPv4 address other than 0.0.0.0"),
        ("{routerID: 1}", "spec.routerID: 1 is not a router id: an IPv4 address other than 0.0.0.0"),
        ("{routerID: 'fd00::1'}", "spec.routerID: 'fd00::1' is not a router id: an IPv4 address other than 0.0.0.0"),
        (
            "{sourceAddresses: [172.16.1.11, 'fd00::1', 172.16.1.12]}",
            "spec.sourceAddresses[2]: 172.16.1.12 is a second IPv4 address",
        ),
        (
            "{sourceAddresses: ['fd00::1', 'fd00::2']}",
            "spec.sourceAddresses[1]: fd00::2 is a second IPv6 address",
        ),
        ("{nodeSelector: {rack: a}}", "spec.nodeSelector.rack: unknown field"),
        ("{nodeSelector: rack=a}", "spec.nodeSelector: 'rack=a' is not a mapping"),
        ("{routeReflector: {}}", "spec.routeReflector: unknown field"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_wanted(spec: str, wanted: str) -> None:
    assert refusals(HEAD + f"spec: {spec}") == [wanted]
