from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent.cni.attachments import Attachment, Slot
from agent.datastore import Batch as Objects
from agent.enforcement import NodePolicy
from agent.policy_table import content_of
from felix.monitor import LinkChanged
from felix.nft.counters import RuleCount
from felix.nft.elements import PLAIN
from felix.nft.enforcement import Content, SetContent
from felix.nft.table import Batch, Definition, Refusal, SetText
from inet.prefix import Family
from policy.explain import combine
from policy.nftskeleton import CHAINS
from tests.agent.policy_world import FakePolicyKernel, PolicyWorld, enforcing, manifest


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[PolicyWorld]:
    async with enforcing(PolicyWorld(request.param)) as built:
        yield built


async def test_a_node_with_neither_pods_nor_policies_is_left_alone(world: PolicyWorld) -> None:
    await world.tell(world.node())
    assert not world.kernel.table.written
    assert (world.policy.is_wanted, world.policy.error) == (False, "")


async def test_nothing_is_written_before_all_objects_are_read(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2), is_synced=False)
    assert not world.kernel.table.written
    assert world.policy.error == "not written yet"
    await world.tell()
    assert world.policy.is_in_kernel
    assert world.verdict("to", 2) is not None


async def test_nothing_is_written_before_there_is_a_node_object(world: PolicyWorld) -> None:
    await world.tell(world.namespace(), world.pod("a", 2))
    assert not world.kernel.table.written


async def test_a_pod_without_policy_is_allowed_everything_and_others_what_their_chain_says(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2, app="a"), world.pod("b", 3, app="b"))
    await world.tell(world.allow("only-a", {"app": "b"}, {"app": "a"}))
    free, judged = world.verdict("to", 2), world.verdict("to", 3)
    assert free
    assert (free.verdict, free.comment) == ("accept", "x/a")
    assert judged
    assert judged.verdict == "jump"
    assert judged.chain in world.kernel.table.chains


async def test_the_kernel_has_what_the_engine_says_after_any_change(world: PolicyWorld) -> None:
    a, b = world.pod("a", 2, app="a"), world.pod("b", 3, app="b")
    allow = world.allow("p", {"app": "b"}, {"app": "a"}, ports=[{"port": 80}, {"port": 443}])
    await world.tell(*world.base(), a, b, allow)
    await world.tell(world.pod("a", 2, app="c"), world.pod("c", 4, app="a"))
    await world.tell(world.allow("p", {"app": "b"}, {"app": "a"}, {"app": "c"}), gone=[a])
    content, table = content_of(world.policy.engine.ruleset), world.kernel.table
    assert table.chains.keys() == content.chains.keys()
    assert {name: dict(each.elements) for name, each in content.sets.items()} == table.elements


async def test_a_restart_with_the_same_objects_writes_nothing(world: PolicyWorld) -> None:
    objects = [*world.base(), world.pod("a", 2, app="a"), world.allow("p", {"app": "a"}, {"app": "a"})]
    await world.tell(*objects)
    before = list(world.kernel.table.written)
    async with enforcing(PolicyWorld(world.family, world.kernel)) as restarted:
        await restarted.tell(*objects)
        assert restarted.policy.is_in_kernel
    written = world.kernel.table.written[len(before) :]
    assert not any(each for each in written if isinstance(each, Definition) or each)


async def test_a_table_of_before_is_kept_up_even_if_nobody_speaks_of_pods_any_more(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2))
    async with enforcing(PolicyWorld(world.family, world.kernel)) as restarted:
        await restarted.tell(restarted.node())
        assert restarted.policy.is_in_kernel
        assert restarted.verdict("to", 2) is None


async def test_a_label_change_writes_one_element(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2), world.pod("b", 3, app="b"))
    await world.tell(world.allow("p", {"app": "b"}, {"app": "a"}))
    before = len(world.kernel.table.written)
    await world.tell(world.pod("a", 2, app="a"))
    (batch,) = world.kernel.table.written[before:]
    assert isinstance(batch, Batch)
    assert [(each.key, each.is_added) for each in batch.elements] == [(world.address(2), True)]


async def test_a_table_flushed_by_someone_else_is_restored_and_counted(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2))
    world.kernel.flush_ruleset()
    await world.settle()
    assert world.verdict("to", 2) is not None
    assert world.policy.repaired == 1


async def test_what_closes_a_node_is_restored_before_anything_else(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2, app="a"), world.allow("p", {"app": "a"}, {"app": "a"}))
    before = len(world.kernel.table.written)
    world.kernel.flush_ruleset()
    await world.settle()
    skeleton, rest, *elements = world.kernel.table.written[before:]
    assert isinstance(skeleton, Definition)
    assert skeleton.chains.keys() == CHAINS.keys()
    assert isinstance(rest, Definition)
    assert rest.chains
    assert not rest.chains.keys() & CHAINS.keys()
    leading = [each for batch in elements if isinstance(batch, Batch) for each in batch.elements if each.value.verdict]
    assert leading
    last = elements[-1]
    assert isinstance(last, Batch)
    assert set(leading) <= set(last.elements), "elements that lead somewhere come when it is all there"


async def test_after_a_repair_every_connection_is_judged_again_and_twice(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2), world.pod("b", 3, app="b"))
    await world.tell(world.allow("p", {"app": "b"}, {"app": "c"}))
    await world.pass_time(10)
    world.kernel.connections = [world.flow(2, 3)]
    world.kernel.flush_ruleset()
    await world.settle()
    assert world.kernel.cut_ones == [world.flow(2, 3)]
    world.kernel.connections = [world.flow(4, 3)]
    await world.pass_time(0.2)
    assert world.kernel.cut_ones == [world.flow(2, 3), world.flow(4, 3)]


async def test_a_change_made_unheard_is_found_by_the_audit(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2))
    world.kernel.table.flush()
    await world.pass_time(301)
    assert world.verdict("to", 2) is not None
    assert world.policy.repaired == 1


async def test_a_change_of_ours_that_an_audit_writes_is_no_repair_and_harm_beside_it_is(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2, app="a"), world.allow("p", {"app": "a"}, {"app": "b"}))
    world.time += 301
    await world.tell(world.pod("b", 3, app="b"), world.allow("p", {"app": "a"}, {"app": "b"}, {"app": "c"}))
    assert world.verdict("to", 3) is not None
    assert world.policy.repaired == 0
    world.time += 301
    world.kernel.table.flush()
    await world.tell(world.pod("b", 3, app="c"))
    assert world.policy.repaired == 1


async def test_who_waits_for_the_table_is_told_once_each_time_it_has_come_to_be(world: PolicyWorld) -> None:
    told: list[bool] = []
    world.policy.on_written = lambda: told.append(world.policy.is_in_kernel)
    world.kernel.table.fail_next("no memory")
    await world.tell(*world.base(), world.pod("a", 2))
    assert (told, world.policy.error) == ([], "the kernel refused it: no memory")
    world.time += 60
    world.policy.wake()
    await world.settle()
    assert told == [True]
    await world.tell(world.pod("b", 3))
    assert told == [True]


async def test_a_refused_change_leaves_the_old_rules_and_is_tried_again(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2))
    world.kernel.table.fail_next("no memory", times=2)
    await world.tell(world.pod("b", 3))
    assert world.verdict("to", 2) is not None
    assert world.verdict("to", 3) is None
    assert world.policy.error == "the kernel refused it: no memory"
    await world.pass_time(0.3)
    assert world.verdict("to", 3) is not None
    assert world.policy.error == ""
    assert world.policy.repaired == 0


class Picky(FakePolicyKernel):
    """Refuses rules about one port, by the line that has it."""

    def __init__(self, port: str) -> None:
        super().__init__()
        take = self.table.define

        async def define(definition: Definition) -> list[Refusal]:
            for name, text in definition.chains.items():
                for line in text.splitlines():
                    if f"dport {port} " in line:
                        return [Refusal(name, "not supported", line)]
            return await take(definition)

        self.table.define = define  # type: ignore[method-assign] # a fault


async def test_a_policy_that_the_kernel_refuses_harms_only_itself_and_opens_nothing(world: PolicyWorld) -> None:
    async with enforcing(PolicyWorld(world.family, Picky("666"))) as picky:
        good = picky.allow("good", {"app": "b"}, {"app": "a"})
        bad = picky.allow("bad", {"app": "c"}, {"app": "a"}, ports=[{"port": 666}])
        await picky.tell(*picky.base(), picky.pod("b", 3, app="b"), picky.pod("c", 4, app="c"), good, bad)
        assert picky.policy.is_in_kernel
        (problem,) = picky.policy.problems
        assert problem.startswith("NetworkPolicy x/bad: the kernel refuses it: ")
        assert "its pods get nothing" in problem
        closed = picky.verdict("to", 4)
        assert closed
        assert closed.verdict == "jump"
        assert "goto deny_ingress" in picky.kernel.table.chains[closed.chain]
        assert "accept" not in picky.kernel.table.chains[closed.chain]
        await picky.tell(picky.allow("bad", {"app": "c"}, {"app": "a"}))
        assert picky.policy.problems == []


async def test_the_last_good_version_of_a_refused_policy_stays_in_force(world: PolicyWorld) -> None:
    async with enforcing(PolicyWorld(world.family, Picky("666"))) as picky:
        await picky.tell(*picky.base(), picky.pod("c", 4, app="c"), picky.allow("p", {"app": "c"}, {"app": "a"}))
        before = picky.verdict("to", 4)
        await picky.tell(picky.allow("p", {"app": "c"}, {"app": "a"}, ports=[{"port": 666}]))
        assert picky.policy.is_in_kernel
        assert picky.verdict("to", 4) == before
        assert "The last good version stays in force." in picky.policy.problems[0]


async def test_a_new_deny_cuts_what_it_denies_and_nothing_else(world: PolicyWorld) -> None:
    pods = [world.pod("a", 2, app="a"), world.pod("b", 3, app="b"), world.pod("c", 4, app="c")]
    await world.tell(*world.base(), *pods)
    allowed, denied, other = world.flow(2, 3), world.flow(4, 3), world.flow(4, 2)
    world.kernel.connections = [allowed, denied, other]
    await world.tell(world.allow("p", {"app": "b"}, {"app": "a"}))
    assert world.kernel.cut_ones == [denied]
    await world.tell(world.pod("a", 2, app="no-more"))
    assert world.kernel.cut_ones == [denied, allowed]
    assert world.policy.cutter.count == 2


async def test_a_connection_that_shows_only_after_the_change_is_cut_by_the_second_look(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2), world.pod("b", 3, app="b"))
    await world.tell(world.allow("p", {"app": "b"}))
    world.kernel.connections = [world.flow(2, 3)]
    await world.pass_time(0.2)
    assert world.kernel.cut_ones == [world.flow(2, 3)]


async def test_what_the_node_itself_has_with_its_pods_is_never_cut(world: PolicyWorld) -> None:
    world.kernel.own = {world.address(1)}
    world.kernel.connections = [world.flow(1, 3), world.flow(3, 1)]
    await world.tell(*world.base(), world.pod("b", 3, app="b"))
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    await world.tell(manifest("NetworkPolicy", "deny-all", "x", spec=spec))
    assert world.kernel.cut_ones == []


async def test_a_pod_that_is_gone_leaves_no_connection_for_the_next_with_its_address(world: PolicyWorld) -> None:
    a, b = world.pod("a", 2), world.pod("b", 3)
    await world.tell(*world.base(), a, b)
    world.kernel.connections = [world.flow(2, 3), world.flow(3, 9)]
    await world.tell(gone=[a])
    assert world.kernel.cut_ones == [world.flow(2, 3)]


async def test_what_comes_and_goes_elsewhere_is_not_remembered(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2, app="a"))
    for number in range(20):
        elsewhere = manifest("Pod", f"p{number}", "x", spec={"nodeName": "n2"})
        nobody = world.allow(f"p{number}", {"app": "nobody"})
        await world.tell(elsewhere, nobody)
        await world.tell(gone=[elsewhere, nobody])
    assert not world.policy._quarantine._new
    assert not world.policy._quarantine._good


async def test_the_links_of_pods_are_marked_as_soon_as_they_are_there(world: PolicyWorld) -> None:
    world.kernel.links = {world.address(2): 12}
    await world.tell(*world.base(), world.pod("a", 2), world.pod("b", 3))
    assert (world.kernel.marked, world.policy.unlinked) == ({12}, 1)
    world.kernel.links[world.address(3)] = 13
    world.policy.hear([LinkChanged(13, "veth13", is_up=True)])
    await world.settle()
    assert (world.kernel.marked, world.policy.unlinked) == ({12, 13}, 0)


async def test_news_of_links_is_no_work_where_the_runtime_tells_of_every_pod(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2))
    world.policy.attach(Attachment(Slot("c1", "eth0"), "x/a", "", (world.address(2),), 12))
    await world.settle()
    rounds = world.policy._rounds
    world.policy.hear([LinkChanged(13, "veth13", is_up=True)])
    await world.settle()
    assert world.policy._rounds == rounds
    await world.tell(world.pod("b", 3))
    world.policy.hear([LinkChanged(13, "veth13", is_up=True)])
    await world.settle()
    assert world.policy._rounds == rounds + 2


async def test_the_node_object_s_last_version_stays_in_force(world: PolicyWorld) -> None:
    node = world.node()
    await world.tell(*world.base(), world.pod("a", 2))
    await world.tell(gone=[node])
    name = f"local_pod_cidr{4 if world.family is Family.IPV4 else 6}"
    assert world.kernel.table.elements[name]


async def test_domain_names_are_a_problem_for_people(world: PolicyWorld) -> None:
    rule = {"action": "Accept", "to": [{"domainNames": ["example.com"]}]}
    spec = {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}, "egress": [rule]}
    policy = manifest("ClusterNetworkPolicy", "web", spec=spec)
    await world.tell(*world.base(), policy)
    assert ["ClusterNetworkPolicy web" in each and "not enforced" in each for each in world.policy.problems] == [True]
    await world.tell(gone=[policy])
    assert world.policy.problems == []


async def test_without_a_kernel_that_can_a_node_that_needs_policy_says_why_not() -> None:
    world = PolicyWorld(Family.IPV4)
    world.policy = NodePolicy("n1", None, "libnftables.so.1 is too old")
    pod = world.pod("a", 2)
    world.policy.take(Objects({pod.key: pod}, frozenset(), (), full_lists=1))
    assert world.policy.error == "libnftables.so.1 is too old"


async def test_an_explanation_counts_the_packets_that_were_judged_alike(world: PolicyWorld) -> None:
    await world.tell(*world.base(), world.pod("a", 2, app="a"), world.pod("b", 3, app="b"))
    await world.tell(world.allow("p", {"app": "b"}, {"app": "c"}))
    judged = world.verdict("to", 3)
    assert judged
    world.kernel.counted[judged.chain] = [
        RuleCount("NetworkPolicy x/p rule 1", 7, 420),
        RuleCount("no rule of x/p", 41, 2460),
    ]
    story = combine(await world.policy.explain("x/a", "x/b", "80/TCP", None))
    assert (story.verdict, story.tiers[-1].packets) == ("deny", 41)


BESIDE = Content(
    {"nat_out": "ip saddr @nat_pods accept"},
    {"nat_pods": SetContent(SetText("type ipv4_addr"), {b"\x0a\x2a\0\x02": PLAIN})},
)


async def test_a_part_beside_policy_is_in_the_table_without_any_policy_and_no_pod_is_cut_off_by_it(
    world: PolicyWorld,
) -> None:
    world.policy.expect("nat")
    await world.tell(world.node())
    assert not world.kernel.table.written
    world.policy.contribute("nat", BESIDE)
    await world.settle()
    assert world.kernel.table.chains.keys() == {"nat_out"}
    assert (world.policy.is_wanted, world.policy.error) == (False, "")
    await world.tell(*world.base(), world.pod("a", 2))
    assert world.verdict("to", 2)
    assert "nat_out" in world.kernel.table.chains


async def test_a_restart_with_the_same_part_and_no_policy_writes_nothing(world: PolicyWorld) -> None:
    world.policy.contribute("nat", BESIDE)
    await world.tell(world.node())
    before = len(world.kernel.table.written)
    async with enforcing(PolicyWorld(world.family, world.kernel)) as restarted:
        restarted.policy.expect("nat")
        await restarted.tell(restarted.node())
        assert "nat_out" in world.kernel.table.chains, "its owner has not spoken yet"
        restarted.policy.contribute("nat", BESIDE)
        await restarted.settle()
        assert not restarted.policy.is_wanted
        assert restarted.policy.repaired == 0
    assert not any(each for each in world.kernel.table.written[before:] if isinstance(each, Definition) or each)
    assert world.kernel.table.chains.keys() == {"nat_out"}


async def test_what_a_former_life_had_beside_policy_goes_when_nobody_wants_it(world: PolicyWorld) -> None:
    world.policy.contribute("nat", BESIDE)
    await world.tell(world.node())
    async with enforcing(PolicyWorld(world.family, world.kernel)) as restarted:
        restarted.policy.expect("nat")
        restarted.policy.contribute("nat", Content({}, {}))
        await restarted.tell(restarted.node())
    assert not world.kernel.table.chains


async def test_a_part_that_the_kernel_refuses_leaves_policy_in_force_and_is_said(world: PolicyWorld) -> None:
    world.policy.contribute("nat", Content({"nat_out": "jump nowhere"}, {}))
    await world.tell(*world.base(), world.pod("a", 2))
    assert world.policy.is_in_kernel
    assert world.verdict("to", 2)
    assert [each for each in world.policy.problems if each.startswith("nat is not in force")]
    world.policy.contribute("nat", BESIDE)
    await world.settle()
    assert "nat_out" in world.kernel.table.chains
    assert not world.policy.problems


async def test_elements_of_a_part_change_without_any_list(world: PolicyWorld) -> None:
    world.policy.contribute("nat", BESIDE)
    await world.tell(world.node())
    before = len(world.kernel.table.written)
    other = SetContent(SetText("type ipv4_addr"), {b"\x0a\x2a\0\x03": PLAIN})
    world.policy.contribute("nat", Content(BESIDE.chains, {"nat_pods": other}))
    await world.settle()
    assert world.kernel.table.elements["nat_pods"] == {b"\x0a\x2a\0\x03": PLAIN}
    assert [type(each) for each in world.kernel.table.written[before:]] == [Batch]
