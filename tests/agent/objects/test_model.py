from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from agent.objects import BGPPeer, Key, Metadata, NetworkConfiguration, Node
from agent.objects.model import camel_case
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: NetworkConfiguration\n"


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("pod_cidrs", "podCIDRs"),
        ("cidr", "cidr"),
        ("local_asn", "localASN"),
        ("router_id", "routerID"),
        ("hold_time_seconds", "holdTimeSeconds"),
        ("import_", "import"),
        ("ttl_security", "ttlSecurity"),
    ],
)
def test_fields_are_spelled_as_kubernetes_spells_them(name: str, spelled: str) -> None:
    assert camel_case(name) == spelled


def test_a_manifest_cannot_use_our_inner_names() -> None:
    assert refusals(HEAD + "metadata: {name: default}\nspec: {pod_cidrs: []}") == [
        "spec.pod_cidrs: unknown field; did you mean podCIDRs?"
    ]


def test_null_is_absent_but_an_unknown_field_stays_unknown() -> None:
    assert accepted(NetworkConfiguration, HEAD + "metadata: {name: default, labels: }\nspec: {podCIDRs: }")
    assert refusals(HEAD + "metadata: {name: default}\nspec: {podCidr: }") == [
        "spec.podCidr: unknown field; did you mean podCIDRs?"
    ]


def test_what_kubernetes_adds_to_metadata_is_no_unknown_field() -> None:
    item = accepted(
        NetworkConfiguration,
        HEAD + "metadata: {name: default, uid: u1, generation: 3, resourceVersion: '7', annotations: {a: b},"
        " managedFields: [], finalizers: [], ownerReferences: [], deletionTimestamp: 2026-11-21T12:00:00Z}",
    )

    assert item.metadata.uid == "u1"
    assert item.metadata.deletion_timestamp == datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ("{name: default, lables: {}}", "metadata.lables: unknown field; did you mean labels?"),
        (
            "{name: default, creationTimestamp: 2026-11-21T12:00:00}",
            "metadata.creationTimestamp: '2026-11-21T12:00:00' is not a time such as 2026-11-21T12:00:00Z",
        ),
        (
            "{name: default, creationTimestamp: 5}",
            "metadata.creationTimestamp: 5 is not a time such as 2026-11-21T12:00:00Z",
        ),
        ("{name: default, labels: {rack: yes}}", "metadata.labels.rack: true is not a string: put it in quotes"),
    ],
)
def test_bad_metadata_is_refused(metadata: str, wanted: str) -> None:
    assert refusals(HEAD + f"metadata: {metadata}") == [wanted]


@pytest.mark.parametrize("name", ["Tor-1", "tor_1", "-tor", "tor.", "a" * 254, "tor 1", "töre"])
def test_a_name_kubernetes_would_refuse_is_refused(name: str) -> None:
    (refusal,) = refusals(f"apiVersion: v1\nkind: Node\nmetadata: {{name: '{name}'}}")

    assert refusal.startswith("metadata.name: ")
    assert refusal.endswith(
        "is not a name: lower-case letters, digits, '-' and '.', at most 253, a letter or digit first and last"
    )


@pytest.mark.parametrize("name", ["n1", "ip-10-0-0-1.eu.compute.internal", "1", "a" * 253])
def test_a_name_kubernetes_takes_is_taken(name: str) -> None:
    assert accepted(Node, f"apiVersion: v1\nkind: Node\nmetadata: {{name: '{name}'}}").key == Key("Node", "", name)


def peer(name: str, created: datetime | None) -> BGPPeer:
    content = {"metadata": Metadata(name=name, creation_timestamp=created), "spec": {"peer": {"nodeSelector": {}}}}
    return BGPPeer.model_validate(content)


def test_the_older_object_is_senior_then_the_name_decides_and_files_have_no_age() -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    same_moment = noon.astimezone(timezone(timedelta(hours=2)))
    peers = [peer("a", noon), peer("c", None), peer("b", None), peer("x", noon - timedelta(1)), peer("0", same_moment)]

    assert [each.name for each in sorted(peers, key=lambda each: each.seniority)] == ["b", "c", "x", "0", "a"]


def test_equal_manifests_are_equal_objects() -> None:
    assert peer("a", None) == peer("a", None)
    assert peer("a", None) != peer("b", None)


def test_a_key_names_the_object_for_people() -> None:
    assert str(Key("BGPPeer", "", "tor-1")) == "BGPPeer tor-1"
    assert str(Key("Secret", "tortie-system", "bgp")) == "Secret tortie-system/bgp"
