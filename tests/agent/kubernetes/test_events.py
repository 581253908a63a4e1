from __future__ import annotations

from agent.kubernetes.events import AGAIN_S, BURST, Complaint, Pace, complaints, event, tells
from agent.objects import Key, Problem

PEER = Key("BGPPeer", "", "tor")
NODES = [f"n{number}" for number in range(200)]


def problem(name: str, field: str = "spec.peerASN", message: str = "0 is not an AS number") -> Problem:
    return Problem(kind="BGPPeer", name=name, field=field, message=message, consequence="It is ignored.")


def test_all_that_is_wrong_with_an_object_is_one_complaint() -> None:
    (complaint,) = complaints([problem("tor"), problem("tor", "spec.port", "0 is not a port")])
    assert complaint.about == PEER
    assert complaint.note == (
        "spec.peerASN: 0 is not an AS number. It is ignored.\nspec.port: 0 is not a port. It is ignored."
    )


def test_what_is_no_object_of_the_api_gets_no_event() -> None:
    assert (
        complaints([Problem(message="most objects are gone"), Problem(kind="CustomResourceDefinition", name="x")]) == []
    )


def test_a_note_is_no_longer_than_the_server_takes() -> None:
    (complaint,) = complaints([problem("tor", message="x" * 5000)])
    assert len(complaint.note) == 1024


def test_three_nodes_tell_and_others_take_over() -> None:
    complaint = Complaint(PEER, "wrong")
    tellers = [node for node in NODES if tells(node, complaint, NODES)]
    assert len(tellers) == 3
    left = [node for node in NODES if node != tellers[0]]
    assert {node for node in left if tells(node, complaint, left)} > set(tellers[1:])


def test_different_objects_are_told_of_by_different_nodes() -> None:
    every = [Complaint(Key("BGPPeer", "", f"p{number}"), "wrong") for number in range(100)]
    told = {node: sum(tells(node, each, NODES) for each in every) for node in NODES}
    assert max(told.values()) < 10


def test_equal_complaints_have_one_name_and_others_another() -> None:
    assert Complaint(PEER, "a").name == Complaint(PEER, "a").name
    assert Complaint(PEER, "a").name != Complaint(PEER, "b").name
    assert len(Complaint(Key("BGPPeer", "", "x" * 253), "a").name) <= 253


def test_an_event_of_a_cluster_scoped_object_is_in_default_and_points_at_it() -> None:
    made = event(Complaint(PEER, "wrong"), "uid-1", "n1", "2026-11-21T12:00:00.000000Z")
    assert made["metadata"]["namespace"] == "default"
    assert made["regarding"] == {"apiVersion": "tortie.dev/v1alpha1", "kind": "BGPPeer", "name": "tor", "uid": "uid-1"}
    assert event(Complaint(Key("NetworkPolicy", "shop", "a"), "x"), "", "n1", "")["metadata"]["namespace"] == "shop"


def test_a_flood_of_bad_objects_is_told_at_a_pace() -> None:
    pace = Pace()
    wanted = {str(number): Complaint(Key("BGPPeer", "", str(number)), "wrong") for number in range(100)}
    assert len(pace.due(wanted, 1000.0)) == BURST
    assert pace.due(wanted, 1001.0) == []
    assert len(pace.due(wanted, 1051.0)) == 5


def test_what_stands_is_told_again_after_an_hour_and_what_is_mended_is_forgotten() -> None:
    pace = Pace()
    wanted = {"a": Complaint(PEER, "wrong")}
    assert pace.due(wanted, 1000.0) == [wanted["a"]]
    assert pace.due(wanted, 1000.0 + AGAIN_S - 1) == []
    assert pace.due(wanted, 1000.0 + AGAIN_S) == [wanted["a"]]
    assert pace.due({}, 1000.0 + AGAIN_S + 1) == []
    assert pace.due(wanted, 1000.0 + AGAIN_S + 2) == [wanted["a"]]
