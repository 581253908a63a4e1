from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from agent.cni.attachments import Attachment, Slot
from agent.cni.conflist import NETWORK
from agent.cni.links import FakePodLinks
from agent.cni.podnetwork import (
    INTERNAL,
    TRY_AGAIN_LATER,
    UNKNOWN_CONTAINER,
    PodNetwork,
    RefusalError,
    Wired,
)
from agent.enforcement import NodePolicy
from agent.objects.kinds import Keyed
from inet.prefix import Family
from policy.nftskeleton import POD_INTERFACE_GROUP
from tests.agent.policy_world import PolicyWorld, enforcing, manifest

PATIENCE_S = 30.0


class CniWorld(PolicyWorld):
    """A node whose runtime wires pods: `x/NAME` of number N is behind link `vN`."""

    def __init__(self, family: Family) -> None:
        super().__init__(family)
        self.links = FakePodLinks()
        self.network = PodNetwork(self.policy, self.links)

    def wired(self, name: str, number: int, *, container: str = "c1", uid: str = "u1") -> Wired:
        if f"v{number}" not in self.links.links:
            self.links.wire(f"v{number}", self.address(number))
        return Wired(Slot(container, "eth0"), f"x/{name}", uid, (self.address(number),), f"v{number}")

    def unaddressed(self, name: str, uid: str = "u1", **labels: str) -> Keyed:
        return manifest("Pod", name, "x", labels=labels, spec={"nodeName": "n1"}, uid=uid)

    def start_add(self, wired: Wired) -> asyncio.Task[None]:
        return asyncio.create_task(self.network.add(wired, PATIENCE_S))


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[CniWorld]:
    built = CniWorld(request.param)
    async with enforcing(built):
        yield built


async def test_an_add_ends_when_the_pods_policy_is_in_the_kernel(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b", app="b"), world.allow("p", {"app": "b"}, {"app": "a"}))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    verdict = world.verdict("to", 3)
    assert verdict
    assert verdict.verdict == "jump"
    link = world.links.links["v3"]
    assert (link.group, link.alias) == (POD_INTERFACE_GROUP, "tortie x/b u1 c1/eth0")


async def test_a_pod_the_runtime_knows_first_is_waited_for_and_gets_nothing_until_then(world: CniWorld) -> None:
    await world.tell(*world.base())
    adding = world.start_add(world.wired("b", 3))
    await world.settle()
    assert not adding.done()
    assert world.verdict("to", 3) is None
    await world.tell(world.unaddressed("b"))
    await adding
    assert world.verdict("to", 3) is not None


async def test_the_pod_before_it_under_its_name_is_not_taken_for_it(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b", uid="u0", app="open"))
    adding = world.start_add(world.wired("b", 3))
    await world.settle()
    assert not adding.done()
    await world.tell(world.unaddressed("b", uid="u1", app="b"))
    await adding


async def test_an_add_waits_while_the_kernel_refuses_and_goes_on_when_it_does_not(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    world.kernel.table.fail_next("no room", 3)
    adding = world.start_add(world.wired("b", 3))
    await world.settle()
    assert not adding.done()
    assert "no room" in world.network.hindrance()
    for _ in range(4):
        await world.pass_time(60)
    await adding


async def test_an_add_before_objects_are_read_waits_for_them(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"), is_synced=False)
    adding = world.start_add(world.wired("b", 3))
    await world.settle()
    assert not adding.done()
    await world.tell()
    await adding


async def test_whoever_waits_too_long_is_told_for_what_and_forgotten(world: CniWorld) -> None:
    await world.tell(*world.base())
    with pytest.raises(
        RefusalError, match=r"x/b gets no network yet, after 0\.01 s: pod x/b is not known here"
    ) as said:
        await world.network.add(world.wired("b", 3), 0.01)
    assert said.value.code == TRY_AGAIN_LATER
    await world.tell(world.unaddressed("b"))
    assert world.verdict("to", 3) is None


async def test_a_node_that_cannot_enforce_takes_no_pod(world: CniWorld) -> None:
    network = PodNetwork(NodePolicy("n1", None, "nft is missing"), world.links)
    with pytest.raises(RefusalError, match="cannot enforce policy: nft is missing"):
        await network.add(world.wired("b", 3), PATIENCE_S)
    assert network.hindrance() == "nft is missing"


async def test_a_link_that_is_not_there_or_cannot_be_marked_is_said(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    wired = world.wired("b", 3)
    world.links.error = errno.EPERM
    with pytest.raises(RefusalError, match="link v3 of pod x/b: Operation not permitted") as said:
        await world.network.add(wired, PATIENCE_S)
    assert said.value.code == INTERNAL
    world.links.cut("v3")
    with pytest.raises(RefusalError, match="link v3 of pod x/b: No such device"):
        await world.network.add(wired, PATIENCE_S)
    await world.settle()
    assert world.verdict("to", 3) is None
    assert world.network.attachments == []


async def test_policy_does_not_wait_for_the_link_to_be_marked_but_the_answer_does(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    async with world.links.lock:
        adding = world.start_add(world.wired("b", 3))
        await asyncio.sleep(0)
        await world.settle()
        assert world.verdict("to", 3) is not None
        await world.network.look()  # does not take a link that is not marked yet for one that is gone
        assert len(world.network.attachments) == 1
        assert not adding.done()
    await adding
    assert world.links.links["v3"].group == POD_INTERFACE_GROUP


async def test_an_add_whose_link_cannot_be_marked_in_time_is_refused_and_leaves_nothing(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    async with world.links.lock:
        with pytest.raises(RefusalError, match="v3 waits for the kernel to mark it") as said:
            await world.network.add(world.wired("b", 3), 0.05)
    assert said.value.code == TRY_AGAIN_LATER
    await world.settle()
    assert world.network.attachments == []
    assert world.verdict("to", 3) is None


async def test_the_same_add_again_is_answered_again(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    for _ in range(2):
        await world.network.add(world.wired("b", 3), PATIENCE_S)
    assert len(world.network.attachments) == 1


async def test_a_sandbox_deleted_while_it_is_added_is_refused_at_once_and_leaves_nothing(world: CniWorld) -> None:
    await world.tell(*world.base())
    adding = world.start_add(world.wired("b", 3))
    await world.settle()
    world.network.delete(Slot("c1", "eth0"))
    with pytest.raises(RefusalError, match="container c1 of pod x/b was deleted, or its network made anew") as said:
        await adding
    assert said.value.code == TRY_AGAIN_LATER
    await world.tell(world.unaddressed("b"))
    assert world.verdict("to", 3) is None


async def test_a_sandbox_wired_anew_is_not_cut_off_by_the_end_of_its_first_add(world: CniWorld) -> None:
    await world.tell(*world.base())
    first = world.start_add(world.wired("b", 3))
    await world.settle()
    second = world.start_add(world.wired("b", 4))
    with pytest.raises(RefusalError, match="made anew"):
        await first
    await world.tell(world.unaddressed("b"))
    await second
    assert (world.verdict("to", 3), world.verdict("to", 4) is None) == (None, False)


async def test_an_address_given_to_another_sandbox_ends_the_add_before(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    first = world.start_add(world.wired("a", 3))
    await world.settle()
    await world.network.add(world.wired("b", 3, container="c2"), PATIENCE_S)
    with pytest.raises(RefusalError, match="made anew"):
        await first
    assert world.verdict("to", 3) is not None


async def test_the_gateway_is_settled_for_pods_with_ipv6_and_harms_nobody_where_it_fails(world: CniWorld) -> None:
    await world.tell(*world.base())
    world.links.settle_error = errno.EPERM
    with capture_logs() as said:
        adding = world.start_add(world.wired("b", 3))
        await world.settle()
        has_ipv6 = world.family is Family.IPV6
        # As soon as the link is marked: what writes policy takes longer.
        assert world.links.settled == ([world.links.find("v3")] if has_ipv6 else [])
        assert not adding.done()
        await world.tell(world.unaddressed("b"))
        await adding
    assert ("cni.gateway_unsettled" in {each["event"] for each in said}) is has_ipv6


async def test_many_adds_at_once_all_end(world: CniWorld) -> None:
    await world.tell(*world.base(), *(world.unaddressed(f"p{n}", uid=f"u{n}") for n in range(2, 52)))
    wired = [world.wired(f"p{n}", n, container=f"c{n}", uid=f"u{n}") for n in range(2, 52)]
    await asyncio.gather(*(world.network.add(each, PATIENCE_S) for each in wired))
    assert all(world.verdict("from", n) for n in range(2, 52))


async def test_what_the_api_says_later_changes_nothing_for_the_pod(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    writes = len(world.kernel.table.written)
    await world.tell(manifest("Pod", "b", "x", uid="u1", spec={"nodeName": "n1"}, status={"podIP": world.text(3)}))
    assert len(world.kernel.table.written) == writes
    assert world.verdict("to", 3) is not None


async def test_a_deleted_sandbox_gets_nothing_even_while_its_object_lives_on(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    for _ in range(2):
        world.network.delete(Slot("c1", "eth0"))
    await world.tell(manifest("Pod", "b", "x", uid="u1", spec={"nodeName": "n1"}, status={"podIP": world.text(3)}))
    assert world.verdict("to", 3) is None


async def test_an_address_given_to_the_next_pod_is_judged_by_what_that_one_may(world: CniWorld) -> None:
    stale = manifest("Pod", "a", "x", uid="u0", spec={"nodeName": "n1"}, status={"podIP": world.text(3)})
    await world.tell(*world.base(), stale, world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    verdict = world.verdict("to", 3)
    assert verdict
    assert verdict.comment == "x/b"


async def test_gc_forgets_what_the_runtime_no_longer_knows_of_our_network(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("a"), world.unaddressed("b"))
    await world.network.add(world.wired("a", 2), PATIENCE_S)
    await world.network.add(world.wired("b", 3, container="c2"), PATIENCE_S)
    world.network.keep(set(), "another")
    await world.settle()
    assert world.verdict("to", 2) is not None
    world.network.keep({Slot("c2", "eth0")}, NETWORK)
    await world.settle()
    assert (world.verdict("to", 2), world.verdict("to", 3) is None) == (None, False)


async def test_a_new_agent_knows_the_pods_of_the_one_before(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("a"), world.unaddressed("b"))
    await world.network.add(world.wired("a", 2, container="c0"), PATIENCE_S)
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    again = CniWorld(world.family)
    again.links = world.links
    again.network = PodNetwork(again.policy, world.links)
    await again.network.adopt()
    async with enforcing(again):
        await again.tell(*again.base(), again.unaddressed("a"), again.unaddressed("b"))
        assert again.verdict("to", 2) is not None
        assert again.verdict("to", 3) is not None
        await again.network.check(again.wired("b", 3))


async def test_a_link_gone_without_a_del_is_forgotten(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    world.links.cut("v3")
    await world.network.look()
    await world.settle()
    assert world.network.attachments == []
    assert world.verdict("to", 3) is None


async def test_a_link_whose_number_is_anothers_by_now_is_not_marked(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    world.links.links["uplink"] = world.links.links.pop("v3")._replace(group=0, alias="to tor-1")
    await world.network.look()
    assert world.links.links["uplink"].group == 0
    assert world.network.attachments == []


async def test_a_link_that_somebody_unmarked_is_marked_again(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    world.links.links["v3"] = world.links.links["v3"]._replace(group=0)
    await world.network.look()
    assert world.links.links["v3"].group == POD_INTERFACE_GROUP


async def test_check_finds_what_is_not_as_it_was(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    wired = world.wired("b", 3)

    async def expect(match: str, code: int) -> None:
        with pytest.raises(RefusalError, match=match) as said:
            await world.network.check(wired)
        assert said.value.code == code

    await expect("no pod is known of container c1", UNKNOWN_CONTAINER)
    await world.network.add(wired, PATIENCE_S)
    await world.network.check(wired)
    whole = world.links.links["v3"]
    world.links.links["v3"] = whole._replace(group=0)
    await expect("v3 is not in interface group 97", INTERNAL)
    world.links.links["v3"] = whole._replace(addresses=())
    await expect("no route leads to 1 of", INTERNAL)
    world.links.links["v3"] = whole
    await world.tell(gone=[world.unaddressed("b")])
    await expect("policy of pod x/b is not in force: pod x/b is not known", TRY_AGAIN_LATER)
    world.policy.attach(Attachment(wired.slot, "x/other", "", wired.addresses, 10))
    await expect("container c1 is x/other", INTERNAL)


async def test_check_says_that_rules_somebody_removed_are_missing_until_they_are_back(world: CniWorld) -> None:
    await world.tell(*world.base(), world.unaddressed("b"))
    await world.network.add(world.wired("b", 3), PATIENCE_S)
    world.kernel.table.fail_next("no room", 3)
    world.kernel.flush_ruleset()
    await world.settle()
    with pytest.raises(RefusalError, match=r"policy of pod x/b is not in force: .*no room") as said:
        await world.network.check(world.wired("b", 3))
    assert said.value.code == TRY_AGAIN_LATER
    for _ in range(4):
        await world.pass_time(60)
    await world.network.check(world.wired("b", 3))
    assert world.verdict("to", 3) is not None
