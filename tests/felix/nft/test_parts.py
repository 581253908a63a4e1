from __future__ import annotations

from felix.nft.elements import PLAIN, ElementChange, Interval
from felix.nft.enforcement import Change, Content, SetContent
from felix.nft.parts import NOTHING, Parts
from felix.nft.table import Refusal, SetText

SET = SetText("type ipv4_addr; flags interval")
A, B = (Interval(bytes([10, number, 0, 0]), bytes([10, number, 255, 255])) for number in (1, 2))


def part(*elements: Interval, chain: str = "ip daddr @s accept") -> Content:
    return Content({"c": chain}, {"s": SetContent(SET, dict.fromkeys(elements, PLAIN))})


def test_everybody_who_is_expected_is_waited_for() -> None:
    parts = Parts()
    assert parts.is_complete
    parts.expect("nat")
    assert not parts.is_complete
    assert parts.put("nat", NOTHING), "others may begin now"
    assert parts.is_complete
    assert not parts.put("nat", NOTHING)


def test_saying_the_same_again_is_no_change() -> None:
    parts = Parts()
    assert parts.put("nat", part(A))
    assert not parts.put("nat", part(A))
    assert not parts.put("tunnel", NOTHING)


def test_what_was_written_needs_no_writing() -> None:
    parts = Parts()
    parts.put("nat", part(A))
    assert parts.change() == Change(chains=dict(part().chains), sets=dict(part(A).sets))
    parts.written(parts.content)
    assert parts.change() == Change()


def test_other_elements_are_a_change_of_elements_alone() -> None:
    parts = Parts()
    parts.put("nat", part(A))
    parts.written(parts.content)
    parts.put("nat", part(B))
    change = parts.change()
    assert change is not None
    assert change.elements == (ElementChange("s", A, is_added=False), ElementChange("s", B, is_added=True))
    assert not change.chains
    assert not change.sets


def test_other_rules_in_a_chain_that_is_there_take_a_sync() -> None:
    parts = Parts()
    parts.put("nat", part(A))
    parts.written(parts.content)
    parts.put("nat", part(A, chain="ip daddr @s drop"))
    assert parts.change() is None


def test_an_owner_that_wants_nothing_any_more_has_its_own_removed_and_no_other() -> None:
    parts = Parts()
    parts.put("nat", part(A))
    parts.put("tunnel", Content({"t": "accept"}, {}))
    parts.written(parts.content)
    parts.put("nat", NOTHING)
    assert parts.change() == Change(chains_removed=("c",), sets_removed=("s",))


def test_a_part_that_the_kernel_refuses_is_left_out_until_it_is_another_or_is_tried_again() -> None:
    parts = Parts()
    parts.put("nat", part(A))
    parts.put("tunnel", Content({"t": "accept"}, {}))
    assert not parts.isolate([Refusal("egress_ok", "no")])
    assert parts.isolate([Refusal("c", "Operation not supported", "masquerade")])
    assert parts.content.chains == {"t": "accept"}
    assert parts.refused == {"nat": "c: masquerade: Operation not supported"}
    parts.put("nat", part(B))
    assert "c" in parts.content.chains
    parts.isolate([Refusal("s", "no")])
    assert parts.retry()
    assert "c" in parts.content.chains
    assert not parts.retry()
