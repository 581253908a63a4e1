from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.cni.attachments import ALIAS_LIMIT, Attachment, Attachments, Slot, alias_of, from_alias
from inet.prefix import Family
from policy.objects import Pod


def packed(family: Family, number: int) -> bytes:
    return ip_address(f"10.42.0.{number}" if family is Family.IPV4 else f"fd42::{number}").packed


def wired(*addresses: bytes, pod: str = "shop/front", container: str = "c1", uid: str = "u1") -> Attachment:
    return Attachment(Slot(container, "eth0"), pod, uid, addresses, link=7)


def pod(*addresses: bytes, name: str = "front", uid: str = "u1", node: str = "n1") -> Pod:
    return Pod("shop", name, {}, addresses, node=node, uid=uid)


def test_a_pod_has_the_addresses_it_is_wired_with_before_its_object_names_any(family: Family) -> None:
    mine = Attachments("n1")
    assert mine.resolve(pod()).addresses == ()
    (changed,) = mine.add(wired(packed(family, 2)))
    assert changed.addresses == (packed(family, 2),)


def test_it_makes_no_difference_whether_object_or_wire_comes_first(family: Family) -> None:
    mine = Attachments("n1")
    assert mine.add(wired(packed(family, 2))) == []
    assert mine.resolve(pod(packed(family, 9))).addresses == (packed(family, 2),)


def test_a_pod_has_every_address_of_all_its_sandboxes() -> None:
    mine = Attachments("n1")
    mine.add(wired(packed(Family.IPV4, 2), packed(Family.IPV6, 2)))
    mine.add(wired(packed(Family.IPV4, 3), container="c2"))
    expected = (packed(Family.IPV4, 2), packed(Family.IPV6, 2), packed(Family.IPV4, 3))
    assert mine.resolve(pod()).addresses == expected


def test_the_pod_before_it_under_its_name_is_another_pod(family: Family) -> None:
    mine = Attachments("n1")
    old = pod(packed(family, 9), uid="u0")
    new = wired(packed(family, 2))
    mine.resolve(old)
    (still,) = mine.add(new)
    assert still.addresses == (packed(family, 9),)
    assert "only the one before it" in mine.stranger(new)
    assert mine.resolve(pod()).addresses == (packed(family, 2),)
    assert mine.stranger(new) == ""


def test_a_uid_that_nobody_names_is_no_reason_to_doubt(family: Family) -> None:
    mine = Attachments("n1")
    mine.add(wired(packed(family, 2), uid=""))
    assert mine.resolve(pod()).addresses == (packed(family, 2),)
    other = Attachments("n1")
    other.add(wired(packed(family, 2)))
    assert other.resolve(pod(uid="")).addresses == (packed(family, 2),)


def test_an_address_taken_away_is_the_pods_no_longer_whatever_its_object_says(family: Family) -> None:
    mine = Attachments("n1")
    told = pod(packed(family, 2))
    mine.resolve(told)
    mine.add(wired(packed(family, 2)))
    (changed,) = mine.remove([Slot("c1", "eth0")])
    assert changed.addresses == ()
    assert mine.resolve(told).addresses == ()
    assert not mine.has(packed(family, 2))


def test_the_next_pod_of_a_name_may_have_the_address_that_was_taken_away(family: Family) -> None:
    mine = Attachments("n1")
    mine.resolve(pod(packed(family, 2)))
    mine.add(wired(packed(family, 2)))
    mine.remove([Slot("c1", "eth0")])
    assert mine.resolve(pod(packed(family, 2), uid="u2")).addresses == (packed(family, 2),)


def test_a_sandbox_made_anew_with_the_address_it_had_has_it(family: Family) -> None:
    mine = Attachments("n1")
    mine.resolve(pod(packed(family, 2)))
    mine.add(wired(packed(family, 2)))
    mine.remove([Slot("c1", "eth0")])
    (changed,) = mine.add(wired(packed(family, 2), container="c2"))
    assert changed.addresses == (packed(family, 2),)


def test_an_address_belongs_to_whoever_is_wired_to_it(family: Family) -> None:
    mine = Attachments("n1")
    mine.resolve(pod(packed(family, 2), name="late", uid="u9"))
    mine.resolve(pod())
    changed = {each.name: each.addresses for each in mine.add(wired(packed(family, 2)))}
    assert changed == {"front": (packed(family, 2),), "late": ()}
    back = {each.name: each.addresses for each in mine.remove([Slot("c1", "eth0")])}
    assert back == {"front": (), "late": (packed(family, 2),)}


def test_whoever_was_wired_to_an_address_before_is_gone(family: Family) -> None:
    mine = Attachments("n1")
    mine.add(wired(packed(family, 2), pod="shop/old", container="c0"))
    mine.add(wired(packed(family, 2)))
    assert [each.pod for each in mine.all] == ["shop/front"]


def test_pods_of_other_nodes_are_as_their_objects_say(family: Family) -> None:
    mine = Attachments("n1")
    mine.add(wired(packed(family, 2)))
    there = pod(packed(family, 2), node="n2", name="other")
    assert mine.resolve(there) is there


def test_a_pod_that_no_manifest_gives_a_node_is_where_it_is_wired(family: Family) -> None:
    mine = Attachments("n1")
    mine.resolve(pod(node=""))
    (changed,) = mine.add(wired(packed(family, 2)))
    assert changed.node == "n1"


def test_a_pod_nobody_knows_is_said_to_be_a_stranger(family: Family) -> None:
    mine = Attachments("n1")
    mine.resolve(pod())
    mine.forget("shop/front")
    assert mine.stranger(wired(packed(family, 2))) == "pod shop/front is not known here yet"


def test_an_alias_tells_everything_that_a_new_agent_has_to_know(family: Family) -> None:
    before = wired(packed(family, 2), container="f" * 64, uid="0f0f0f0f-0000-4000-8000-000000000000")
    assert from_alias(alias_of(before), before.addresses, 7) == before
    nameless = wired(packed(family, 2), uid="")
    assert from_alias(alias_of(nameless), nameless.addresses, 7) == nameless


def test_the_longest_names_that_controllers_make_fit_into_an_alias() -> None:
    longest = wired(pod=f"{'n' * 63}/{'p' * 63}", container="f" * 64, uid="u" * 36)
    longest = Attachment(Slot("f" * 64, "e" * 15), longest.pod, longest.uid, (), 7)
    assert 0 < len(alias_of(longest)) <= ALIAS_LIMIT
    assert alias_of(wired(pod=f"{'n' * 63}/{'p' * 200}", container="f" * 64, uid="u" * 36)) == ""


@pytest.mark.parametrize("alias", ["", "uplink to tor-1", "tortie vxlan", "tortie a b c", "tortie shop/a u c1"])
def test_other_peoples_aliases_are_none_of_ours(alias: str) -> None:
    assert from_alias(alias, (), 7) is None
