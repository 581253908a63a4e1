from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felix.nft.elements import PLAIN, ElementChange, Elements, Value
from felix.nft.enforcement import Change, Content, Difference, Enforcement, Report, SetContent
from felix.nft.faketable import FakeRuleTable
from felix.nft.table import Batch, Definition, Refusal, SetShape, SetText
from tests.felix.nft.contents import A6, CONTENT, POLICY, A, B, C, with_chain, with_set, without


@pytest.fixture
def fake() -> FakeRuleTable:
    return FakeRuleTable()


@pytest.fixture
async def kept(fake: FakeRuleTable) -> Enforcement:
    """The content is in the kernel; the log is empty."""
    enforcement = Enforcement(fake)
    assert not (await enforcement.sync(CONTENT)).refusals
    fake.written.clear()
    return enforcement


def holds(fake: FakeRuleTable, content: Content) -> bool:
    """Whether the fake has a content, to the letter."""
    stripped = {name: text.strip() for name, text in fake.chains.items()}
    return (
        stripped == {name: text.strip() for name, text in content.chains.items()}
        and fake.sets == {name: each.definition for name, each in content.sets.items()}
        and fake.elements == {name: each.elements for name, each in content.sets.items()}
    )


# Order: what is new and unused first, what leads there last


async def test_an_empty_kernel_is_closed_at_once_and_gets_the_maps_that_open_it_last(fake: FakeRuleTable) -> None:
    report = await Enforcement(fake).sync(CONTENT)
    assert report == Report((Difference("table", "is missing"),))
    assert holds(fake, CONTENT)
    skeleton, rest, sets, maps = fake.written
    assert isinstance(skeleton, Definition)
    assert {*skeleton.chains, *skeleton.sets} == {"forward", "from_pod", "from_pod4", "from_pod6"}
    assert isinstance(rest, Definition)
    assert {*rest.chains, *rest.sets} == {"db_in", "db4", "db6", "named4"}
    assert isinstance(sets, Batch)
    assert {change.set for change in sets.elements} == {"db4", "db6", "named4"}
    assert isinstance(maps, Batch)
    assert {change.set for change in maps.elements} == {"from_pod4", "from_pod6"}


async def test_a_change_adds_what_is_new_before_it_swaps_and_removes(kept: Enforcement, fake: FakeRuleTable) -> None:
    change = Change(
        chains={"other": "ip daddr @web4 accept\ncounter drop"},
        sets={"web4": SetContent(SetText("type ipv4_addr"), {A: PLAIN})},
        elements=[
            ElementChange("from_pod4", A, is_added=False),
            ElementChange("from_pod4", A, is_added=True, value=Value("jump", "other")),
            ElementChange("from_pod6", A6, is_added=False),
        ],
        chains_removed=["db_in"],
        sets_removed=["db4", "db6"],
    )
    assert await kept.change(change) == []
    structure, new_elements, swap = fake.written
    assert structure == Definition(sets={"web4": SetText("type ipv4_addr")}, chains=change.chains)
    assert new_elements == Batch([ElementChange("web4", A, is_added=True)])
    assert swap == Batch(change.elements, change.chains_removed, change.sets_removed)


async def test_a_change_of_elements_is_one_transaction(kept: Enforcement, fake: FakeRuleTable) -> None:
    change = Change(elements=[ElementChange("db4", A, is_added=True)])
    assert await kept.change(change) == []
    assert fake.written == [Batch(change.elements)]


async def test_elements_of_a_large_new_set_are_written_in_pieces(kept: Enforcement, fake: FakeRuleTable) -> None:
    many = {i.to_bytes(4): PLAIN for i in range(10_000)}
    await kept.change(Change(sets={"many": SetContent(SetText("type ipv4_addr"), many)}))
    assert len(fake.written) == 4
    assert fake.elements["many"] == many


# What is refused


@pytest.mark.parametrize("step", [0, 1, 2], ids=["structure", "elements of new sets", "swap"])
async def test_a_refused_step_ends_the_change_and_leaves_the_old_rules_in_force(
    kept: Enforcement, fake: FakeRuleTable, step: int
) -> None:
    change = Change(
        chains={"other": "ip daddr @web4 accept"},
        sets={"web4": SetContent(SetText("type ipv4_addr"), {A: PLAIN})},
        elements=[
            ElementChange("from_pod4", A, is_added=False),
            ElementChange("from_pod4", A, is_added=True, value=Value("jump", "other")),
        ],
    )
    after = Content(
        {**CONTENT.chains, **change.chains},
        {
            **CONTENT.sets,
            **change.sets,
            "from_pod4": CONTENT.sets["from_pod4"]._replace(elements={A: Value("jump", "other"), B: Value("accept")}),
        },
    )
    original = fake._transaction
    calls = 0

    async def transaction(each: Definition | Batch) -> list[Refusal]:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            fake.fail_next("Cannot allocate memory")
        return await original(each)

    fake._transaction = transaction
    assert await kept.change(change) == [Refusal("", "Cannot allocate memory")]
    assert calls == step + 1
    assert fake.elements["from_pod4"] == CONTENT.sets["from_pod4"].elements
    assert fake.chains["db_in"].strip() == POLICY
    # The old content: what the refused change left behind goes.
    assert not (await kept.sync(CONTENT)).refusals
    assert holds(fake, CONTENT)
    # The new one: what is there already is used.
    assert not (await kept.sync(after)).refusals
    assert holds(fake, after)


async def test_bad_text_in_a_change_names_the_chain(kept: Enforcement) -> None:
    change = Change(chains={"good": "accept", "bad": "ip saddr @absent accept"})
    assert await kept.change(change) == [Refusal("bad", "No such file or directory", "ip saddr @absent accept")]


async def test_bad_text_in_a_content_is_refused_before_anything_is_touched(
    kept: Enforcement, fake: FakeRuleTable
) -> None:
    report = await kept.sync(with_chain(without(CONTENT, "named4"), "bad", "goto absent"))
    assert report == Report((), (Refusal("bad", "No such file or directory", "goto absent"),))
    assert fake.written == []


async def test_what_a_sync_could_not_write_is_written_by_the_next(fake: FakeRuleTable) -> None:
    enforcement = Enforcement(fake)
    for _ in range(3):
        fake.fail_next("Cannot allocate memory")
        assert (await enforcement.sync(CONTENT)).refusals == (Refusal("", "Cannot allocate memory"),)
    assert not (await enforcement.sync(CONTENT)).refusals
    assert holds(fake, CONTENT)


# Restart and repair


async def test_a_restart_with_the_same_content_writes_nothing(kept: Enforcement, fake: FakeRuleTable) -> None:
    assert await kept.sync(CONTENT) == Report(())
    assert await Enforcement(fake).sync(CONTENT) == Report(())
    assert fake.written == []


async def test_a_restart_writes_only_what_differs(kept: Enforcement, fake: FakeRuleTable) -> None:  # noqa: ARG001 - it wrote the table
    grown = with_set(CONTENT, "db4", CONTENT.sets["db4"]._replace(elements={A: PLAIN, B: PLAIN}))
    report = await Enforcement(fake).sync(grown)
    assert report == Report((Difference("set db4", "lacks 1 elements and has 1 that it should not have"),))
    assert fake.written == [Batch([ElementChange("db4", C, is_added=False), ElementChange("db4", A, is_added=True)])]


async def test_elements_that_a_listing_left_out_are_not_missed(
    kept: Enforcement, fake: FakeRuleTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, readings = fake.read_elements, Counter[str]()

    async def read_elements(name: str, shape: SetShape) -> Elements:
        """Return what the kernel may of a large set that is just growing: all but some, each time others."""
        readings[name] += 1
        elements = list((await original(name, shape)).items())
        del elements[readings[name] % len(elements)]
        return dict(elements)

    monkeypatch.setattr(fake, "read_elements", read_elements)
    many = with_set(
        CONTENT, "db4", CONTENT.sets["db4"]._replace(elements={bytes([10, 0, 0, i]): PLAIN for i in range(99)})
    )
    monkeypatch.setitem(fake.elements, "db4", dict(many.sets["db4"].elements))
    assert [each for each in (await kept.sync(many)).differences if each.subject == "set db4"] == []
    assert readings["db4"] == 2


async def test_only_new_texts_are_rehearsed_in_full(kept: Enforcement, fake: FakeRuleTable) -> None:
    rehearsed: list[Definition] = []
    original = fake.rehearse

    async def rehearse(definition: Definition) -> object:
        rehearsed.append(definition)
        return await original(definition)

    fake.rehearse = rehearse
    await kept.sync(CONTENT)
    await kept.sync(CONTENT)
    assert len(rehearsed) == 1
    changed = with_chain(CONTENT, "db_in", "drop")
    assert (await kept.sync(changed)).differences == (Difference("chain db_in", "has other rules"),)
    assert len(rehearsed) == 2
    assert rehearsed[1].chains == {"forward": "", "from_pod": "", "db_in": "drop"}
    assert await kept.sync(changed) == Report(())
    assert len(kept._chain_shapes) == len(changed.chains)  # nothing is remembered of what is gone


async def test_calls_wait_for_each_other(fake: FakeRuleTable) -> None:
    enforcement = Enforcement(fake)
    changes = [Change(chains={f"c{i}": "accept"}, chains_removed=[f"c{i - 1}"] if i else []) for i in range(5)]
    report, *refusals = await asyncio.gather(enforcement.sync(CONTENT), *map(enforcement.change, changes))
    assert isinstance(report, Report)
    assert refusals == [[]] * 5
    assert holds(fake, with_chain(CONTENT, "c4", "accept"))


# Any order of contents, damages and faults ends in the last content

NAMES = ["a", "b", "c"]
contents = st.builds(
    lambda chains, sets, maps: Content(
        {"base": "type filter hook forward priority 0; policy accept;\nip saddr vmap @map"}
        | {f"c{name}": text for name, text in chains.items()},
        {f"s{name}": SetContent(SetText(kind), dict.fromkeys(keys, PLAIN)) for name, (kind, keys) in sets.items()}
        | {
            "map": SetContent(
                SetText("type ipv4_addr : verdict", is_map=True),
                {key: Value("jump", f"c{name}") for key, name in maps.items() if name in chains},
            )
        },
    ),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["accept", "drop", "tcp dport 80 accept"])),
    st.dictionaries(
        st.sampled_from(NAMES),
        st.tuples(st.sampled_from(["type ipv4_addr", "type ipv6_addr"]), st.sets(st.sampled_from([A, B, C]))),
    ),
    st.dictionaries(st.sampled_from([A, B, C]), st.sampled_from(NAMES)),
)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(contents, st.sampled_from(["", "restart", "flush", "fault"])), min_size=1, max_size=6))
def test_whatever_was_there_before_the_last_content_is_what_there_is(steps: list[tuple[Content, str]]) -> None:
    async def walk() -> None:
        fake = FakeRuleTable()
        enforcement = Enforcement(fake)
        for content, event in steps:
            match event:
                case "restart":
                    enforcement = Enforcement(fake)
                case "flush":
                    fake.flush()
                case "fault":
                    fake.fail_next("Cannot allocate memory")
            await enforcement.sync(content)
        fake._faults.clear()
        report = await enforcement.sync(steps[-1][0])
        assert report.refusals == ()
        assert holds(fake, steps[-1][0])
        assert await enforcement.sync(steps[-1][0]) == Report(())

    asyncio.run(walk())


GUARD = "type filter hook prerouting priority -310; policy accept;\nudp dport 4789 goto guard_from"
GUARD_FROM = "ip saddr @guard_peers accept\ncounter drop"
GUARDED = Content(
    {"guard": GUARD, "guard_from": GUARD_FROM},
    {"guard_peers": SetContent(SetText("type ipv4_addr"), {A: PLAIN, B: PLAIN})},
)


@pytest.mark.parametrize("way", ["change", "sync of nothing", "sync of a table"])
async def test_packets_meet_a_chain_only_when_the_sets_it_asks_are_filled(way: str) -> None:
    table = FakeRuleTable()
    enforcement = Enforcement(table)
    if way != "sync of nothing":
        assert await enforcement.sync(CONTENT)
    table.written.clear()
    if way == "change":
        assert not await enforcement.change(Change(chains=GUARDED.chains, sets=GUARDED.sets))
    else:
        both = CONTENT if way == "sync of a table" else Content({}, {})
        await enforcement.sync(
            replace(both, chains={**both.chains, **GUARDED.chains}, sets={**both.sets, **GUARDED.sets})
        )
    hooked = next(
        position
        for position, each in enumerate(table.written)
        if isinstance(each, Definition) and "guard" in each.chains
    )
    filled = [each for each in table.written[:hooked] if isinstance(each, Batch) for each in each.elements]
    assert {each.key for each in filled if each.set == "guard_peers"} == {A, B}
    assert table.chains["guard_from"]
