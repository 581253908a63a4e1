from __future__ import annotations

import pytest

from agent.datastore.manifest_file import MAX_BYTES, ManifestFile, read_manifests
from agent.objects import Key

GOOD = """\
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {name: good}
spec: {peer: {address: 172.16.1.1}, peerASN: 65100}
"""


def read(text: str) -> ManifestFile:
    return read_manifests("d/a.yaml", text.encode())


def lines(file: ManifestFile) -> list[str]:
    return [str(problem) for problem in (*file.problems, *(each for found in file.found for each in found.problems))]


def test_a_file_holds_any_number_of_objects_and_they_know_their_line() -> None:
    file = read("---\n" + GOOD + "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n")

    assert [(str(found.key), found.line, found.item is not None) for found in file.found] == [
        ("BGPPeer good", 2, True),
        ("Node n1", 7, True),
    ]
    assert file.is_whole
    assert lines(file) == []


def test_json_is_read_like_yaml() -> None:
    file = read(
        '{"apiVersion": "v1",\n\t"kind": "Node",\n\t"metadata": {"name": "n1"},\n\t"spec": {"podCIDRs": ["x"]}}'
    )

    assert lines(file) == [
        "d/a.yaml:4: Node n1: spec.podCIDRs[0]: 'x' is not a prefix such as 10.42.0.0/24 or fd42::/64"
    ]


def test_a_list_as_kubectl_prints_it_is_its_items() -> None:
    file = read(
        """\
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1}}
- apiVersion: v1
  kind: Node
  metadata: {name: n2}
  spec:
    podCIDRs: [10.42.0.1/24]
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: x}
"""
    )

    assert [(str(found.key), found.line) for found in file.found] == [("Node n1", 4), ("Node n2", 5)]
    assert lines(file) == [
        "d/a.yaml:9: Node n2: spec.podCIDRs[0]: '10.42.0.1/24' has host bits set: the prefix is 10.42.0.0/24"
    ]


def test_a_bad_object_is_refused_alone_with_the_line_of_each_field() -> None:
    file = read(
        GOOD
        + """\
---
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata:
  name: bad
spec:
  peer:
    address: 172.16.1.1
  peerASN: 4294967296
  prot: 179
  shutdown:
"""
        + "---\n"
        + GOOD.replace("good", "other")
    )

    assert [found.item is not None for found in file.found] == [True, False, True]
    assert file.found[1].key == Key("BGPPeer", "", "bad")
    assert file.is_whole
    assert lines(file) == [
        "d/a.yaml:13: BGPPeer bad: spec.peerASN: 4294967296 is not an AS number (1 to 4294967295)",
        "d/a.yaml:14: BGPPeer bad: spec.prot: unknown field; did you mean port?",
    ]


def test_a_field_set_twice_refuses_its_object_alone() -> None:
    file = read(
        GOOD + "---\n" + GOOD.replace("good", "twice").replace("}, peer", "},\n peer: {}, peer") + "---\n" + GOOD
    )

    assert [found.item is not None for found in file.found] == [True, False, True]
    assert lines(file) == ["d/a.yaml:10: BGPPeer twice: spec.peer: is set twice, first in line 9"]


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ("just text", "d/a.yaml:6: 'just text' is not an object: apiVersion, kind, metadata ..."),
        ("kind: BGPPeer\n", "d/a.yaml:6: BGPPeer: apiVersion: is required: a BGPPeer is of tortie.dev/v1alpha1"),
        (
            "apiVersion: tortie.dev/v1alpha1\nkind: BGPPer\nmetadata: {name: x}\n",
            "d/a.yaml:7: BGPPer: kind: 'BGPPer' is not a kind that is read; did you mean BGPPeer?",
        ),
        (
            "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata:\n  nmae: x\n",
            "d/a.yaml:8: BGPPeer: metadata.name: is required",
        ),
        (
            "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata:\n  name: x\n  namespace: y\n",
            "d/a.yaml:10: BGPPeer: metadata.namespace: a BGPPeer has no namespace: leave it out",
        ),
    ],
)
def test_with_an_object_nobody_can_name_the_file_is_not_whole(document: str, line: str) -> None:
    file = read(GOOD + "---\n" + document)

    assert [str(found.key) for found in file.found] == ["BGPPeer good"]
    assert not file.is_whole
    assert lines(file) == [line]


@pytest.mark.parametrize(
    "document",
    [
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {whatever: 1}\n",
        "apiVersion: tortie.dev/v1alpha1\nkind: NodeRoutingStatus\nmetadata: {name: n1}\n",
        "# a comment\n",
        "",
    ],
)
def test_what_is_not_read_is_no_problem(document: str) -> None:
    file = read(GOOD + "---\n" + document)

    assert [str(found.key) for found in file.found] == ["BGPPeer good"]
    assert file.is_whole
    assert lines(file) == []


@pytest.mark.parametrize("raw", [b"", b"\n", b"  \n\n"])
def test_an_empty_file_says_nothing_one_could_rely_on(raw: bytes) -> None:
    assert read_manifests("a.yaml", raw) == ManifestFile(is_whole=False)


def test_a_half_written_file_says_nothing_one_could_rely_on() -> None:
    file = read(GOOD + "---\n" + GOOD[:50])

    assert file.found == ()
    assert not file.is_whole
    assert lines(file) == ["d/a.yaml:8: not YAML: a ':' is missing"]


def test_a_huge_file_is_not_even_parsed() -> None:
    file = read_manifests("a.yaml", b"[" * (MAX_BYTES + 1))

    assert lines(file) == ["a.yaml: is larger than 4 MiB: split it"]
