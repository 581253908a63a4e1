from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.objects import BGPPeer
from agent.objects.label_selector import LabelSelector
from inet.prefix import Family, Prefix
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor-1}\n"


@pytest.mark.parametrize("address", ["172.16.1.1", "fd00:16:1::1", "fe80::1%eth0"])
def test_a_peer_needs_no_more_than_an_address_and_its_as(address: str) -> None:
    spec = accepted(BGPPeer, HEAD + f"spec: {{peer: {{address: '{address}'}}, peerASN: 65100}}").spec

    assert spec.peer.address == ip_address(address)
    assert spec.peer_asn == 65100
    assert spec.node_selector == LabelSelector()
    assert (spec.port, spec.next_hop, spec.allow_own_asn) == (179, "Auto", 0)
    assert (spec.timers, spec.families, spec.shutdown, spec.password_secret_ref) == (None, None, None, None)
    assert (spec.import_.accept, spec.import_.max_prefixes) == ((), None)


def test_every_field_comes_out_as_the_type_the_rest_works_with() -> None:
    spec = accepted(
        BGPPeer,
        HEAD
        + """
spec:
  nodeSelector: {matchLabels: {rack: a}}
  peer: {address: 172.16.1.1}
  peerASN: External
  port: 1790
  passwordSecretRef: {name: bgp, key: tor}
  timers: {holdTimeSeconds: 9}
  multihop: {ttl: 4}
  sourceAddress: 172.16.1.11
  families: [IPv6, IPv4]
  nextHop: Self
  allowOwnASN: 2
  import: {accept: [{cidr: 0.0.0.0/0, maxLength: 0}, {cidr: "fd42::/48", minLength: 64}], maxPrefixes: 1000}
  shutdown: {message: cable work}
""",
    ).spec

    assert spec.node_selector.match_labels == {"rack": "a"}
    assert spec.peer_asn == "External"
    assert spec.families == (Family.IPV6, Family.IPV4)
    assert spec.source_address == ip_address("172.16.1.11")
    assert (spec.timers.hold_time_seconds, spec.timers.keepalive_time_seconds) == (9, 3)
    assert [(each.cidr, each.min_length, each.max_length) for each in spec.import_.accept] == [
        (Prefix.parse("0.0.0.0/0"), 0, 0),
        (Prefix.parse("fd42::/48"), 64, 128),
    ]
    assert spec.shutdown.message == "cable work"


def test_nodes_as_peers_need_no_as() -> None:
    peer = accepted(BGPPeer, HEAD + "spec: {peer: {nodeSelector: {matchLabels: {role: spine}}}}").spec.peer

    assert peer.address is None
    assert peer.node_selector.match_labels == {"role": "spine"}


PEER = "peer: {address: 172.16.1.1}, peerASN: 65100"


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        pytest.param(None, "spec: is required", id="no spec"),
        pytest.param("{peerASN: 1}", "spec.peer: is required", id="no peer"),
        pytest.param(
            "{peer: {}, peerASN: 1}", "spec.peer: needs exactly one of address and nodeSelector", id="neither"
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1, nodeSelector: {}}}",
            "spec.peer: needs exactly one of address and nodeSelector",
            id="both",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.256}, peerASN: 1}",
            "spec.peer.address: '172.16.1.256' is not an IPv4 or IPv6 address",
            id="no address",
        ),
        pytest.param(
            "{peer: {address: 'fe80::1'}, peerASN: 1}",
            "spec.peer.address: fe80::1 is link-local: say on which interface, as in fe80::1%eth0",
            id="link-local without interface",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}}", "spec.peerASN: is required with peer.address", id="address without AS"
        ),
        pytest.param(
            "{peer: {nodeSelector: {}}, peerASN: 1}",
            "spec.peerASN: is known for nodes (peer.nodeSelector): leave it out",
            id="nodes with AS",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}, peerASN: 4294967296}",
            "spec.peerASN: 4294967296 is not an AS number (1 to 4294967295)",
            id="AS too large",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}, peerASN: 0}",
            "spec.peerASN: 0 is not an AS number (1 to 4294967295)",
            id="AS 0",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}, peerASN: 23456}",
            "spec.peerASN: 23456 is not an AS number: it is AS_TRANS, a placeholder (RFC 6793 section 9)",
            id="AS_TRANS",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}, peerASN: internal}",
            "spec.peerASN: 'internal' is not an AS number (1 to 4294967295), Internal or External",
            id="AS in words that are not ours",
        ),
        pytest.param(
            "{peer: {address: 172.16.1.1}, peerASN: [Internal]}",
            "spec.peerASN: a list is not an AS number (1 to 4294967295)",
            id="AS a list",
        ),
        pytest.param(
            f"{{{PEER}, ttlSecurity: {{hops: 1}}, multihop: {{ttl: 4}}}}",
            "spec.multihop: excludes ttlSecurity: leave one of them out",
            id="near and far",
        ),
        pytest.param(
            f"{{{PEER}, ttlSecurity: {{hops: 255}}}}",
            "spec.ttlSecurity.hops: 255 is not a number of hops (1 to 254)",
            id="hops",
        ),
        pytest.param(f"{{{PEER}, multihop: {{ttl: 1}}}}", "spec.multihop.ttl: 1 is not a TTL (2 to 255)", id="TTL"),
        pytest.param(
            f"{{{PEER}, sourceAddress: 'fd00::1'}}",
            "spec.sourceAddress: fd00::1 is not of the family of 172.16.1.1",
            id="source of the other family",
        ),
        pytest.param(f"{{{PEER}, families: []}}", "spec.families: names no family: leave it out", id="no family"),
        pytest.param(f"{{{PEER}, families: [IPv4, IPv4]}}", "spec.families: names a family twice", id="a family twice"),
        pytest.param(f"{{{PEER}, families: [ipv4]}}", "spec.families[0]: 'ipv4' is not IPv4 or IPv6", id="family"),
        pytest.param(
            f"{{{PEER}, nextHop: self}}", "spec.nextHop: 'self' is not Auto, Self or Unchanged", id="next hop"
        ),
        pytest.param(
            f"{{{PEER}, port: '179'}}",
            "spec.port: '179' is not a TCP port (1 to 65535): leave out the quotes",
            id="a number in quotes",
        ),
        pytest.param(
            f"{{{PEER}, allowOwnASN: true}}", "spec.allowOwnASN: true is not a number of times (0 to 10)", id="a switch"
        ),
        pytest.param(
            f"{{{PEER}, shutdown: {{message: {'x' * 129}}}}}",
            "spec.shutdown.message: '" + "x" * 59 + "…' is too long: at most 128 characters",
            id="shutdown message",
        ),
        pytest.param(
            f"{{{PEER}, import: {{accept: [{{cidr: 10.0.0.1/8}}]}}}}",
            "spec.import.accept[0].cidr: '10.0.0.1/8' has host bits set: the prefix is 10.0.0.0/8",
            id="host bits",
        ),
        pytest.param(
            f"{{{PEER}, timers: {{holdTimeSeconds: 2}}}}",
            "spec.timers.holdTimeSeconds: 2 is not a hold time: 0, or at least 3 seconds",
            id="hold time",
        ),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_wanted(spec: str | None, wanted: str) -> None:
    assert refusals(HEAD + (f"spec: {spec}" if spec else "")) == [wanted]


def test_all_that_is_wrong_is_said_at_once() -> None:
    assert refusals(HEAD + "spec: {peer: {address: x}, peerASN: 0, port: 0}") == [
        "spec.peer.address: 'x' is not an IPv4 or IPv6 address",
        "spec.peerASN: 0 is not an AS number (1 to 4294967295)",
        "spec.port: 0 is not a TCP port (1 to 65535)",
    ]
