from __future__ import annotations

import json

import msgspec
import pytest

from policy.objects import NamedPort
from policy.resident import Resident

POD = Resident("10.42.1.9", "Pod", "shop/db-0", "n1", {"app": "db"}, {"team": "web"}, (NamedPort("pg", 6, 5432),))
NODE = Resident("fd16:1::12", "Node", "n2", "n2", {"zone": "b"})
STRANGER = Resident("2001:db8::9")


@pytest.mark.parametrize(
    ("resident", "text", "short", "namespace"),
    [
        (POD, "shop/db-0 (10.42.1.9, n1)", "db-0", "shop"),
        (msgspec.structs.replace(POD, node=""), "shop/db-0 (10.42.1.9)", "db-0", "shop"),
        (NODE, "n2 (fd16:1::12)", "n2", ""),
        (STRANGER, "2001:db8::9", "2001:db8::9", ""),
    ],
    ids=["pod", "pod of no node", "node", "stranger"],
)
def test_an_end_of_a_packet_is_named_as_people_know_it(
    resident: Resident, text: str, short: str, namespace: str
) -> None:
    assert (str(resident), resident.short_name, resident.namespace) == (text, short, namespace)


def test_its_json_is_spelled_as_manifests_are() -> None:
    said = json.loads(msgspec.json.encode(POD))
    assert said == {
        "address": "10.42.1.9",
        "kind": "Pod",
        "name": "shop/db-0",
        "node": "n1",
        "labels": {"app": "db"},
        "namespaceLabels": {"team": "web"},
        "ports": [["pg", 6, 5432]],
    }


@pytest.mark.parametrize("resident", [POD, NODE, STRANGER], ids=["pod", "node", "stranger"])
def test_it_survives_the_way_from_the_agent_to_the_command_line(resident: Resident) -> None:
    assert msgspec.json.decode(msgspec.json.encode(resident), type=Resident) == resident


def test_nobody_known_has_neither_name_nor_labels() -> None:
    assert (STRANGER.kind, STRANGER.name, STRANGER.node, STRANGER.labels, STRANGER.ports) == ("", "", "", {}, ())
    assert STRANGER.namespace_labels is None
    assert Resident("10.0.0.1").labels is not STRANGER.labels


def test_nobody_changes_who_somebody_is() -> None:
    with pytest.raises(AttributeError):
        POD.node = "n2"
