from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from felix.nft import clamp, masquerade, serviceguard
from felix.nft.elements import PLAIN, ElementChange, Elements, Interval, Value, concatenate
from felix.nft.enforcement import Change, Content, Difference, Enforcement, Report, SetContent
from felix.nft.faketable import FakeRuleTable
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.masquerade import Masquerade
from felix.nft.table import Batch, Definition, Refusal, SetShape, SetText
from inet.prefix import Family, Prefix

A, B, C = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
A6, B6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"

FORWARD = """type filter hook forward priority filter; policy accept;
ct state established,related accept
iifgroup 97 goto from_pod
oifgroup 97 counter drop comment "closed"
"""
FROM_POD = "ip saddr vmap @from_pod4\nip6 saddr vmap @from_pod6\ncounter drop"
POLICY = 'ip daddr @db4 tcp dport 5432 counter accept comment "shop/db rule 1"\nip6 daddr @db6 accept\ncounter drop'

CONTENT = Content(
    {"forward": FORWARD, "from_pod": FROM_POD, "db_in": POLICY},
    {
        "from_pod4": SetContent(
            SetText("type ipv4_addr : verdict", is_map=True), {A: Value("jump", "db_in", "shop/a"), B: Value("accept")}
        ),
        "from_pod6": SetContent(
            SetText("type ipv6_addr : verdict", is_map=True), {A6: Value("jump", "db_in", "shop/a")}
        ),
        "db4": SetContent(SetText('type ipv4_addr\ncomment "pods of db"'), {B: PLAIN, C: PLAIN}),
        "db6": SetContent(SetText("type ipv6_addr; flags interval"), {Interval(A6, B6): PLAIN}),
        "named4": SetContent(
            SetText("type ipv4_addr . inet_proto . inet_service"), {concatenate(A, b"\6", b"\0\x50"): PLAIN}
        ),
    },
    skeleton={"forward", "from_pod", "from_pod4", "from_pod6"},
)


def with_chain(content: Content, name: str, text: str) -> Content:
    return replace(content, chains={**content.chains, name: text})


def with_set(content: Content, name: str, each: SetContent) -> Content:
    return replace(content, sets={**content.sets, name: each})


def without(content: Content, name: str) -> Content:
    return replace(
        content,
        chains={key: text for key, text in content.chains.items() if key != name},
        sets={key: each for key, each in content.sets.items() if key != name},
    )


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


DAMAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "everything flushed": ("flush ruleset", ("table is missing",)),
    "table deleted": ("delete table inet tortie", ("table is missing",)),
    "table asleep": ("add table inet tortie { flags dormant; }", ("table has other flags",)),
    "rule added": ("insert rule inet tortie forward accept", ("chain forward has other rules",)),
    "rule added with a set of its own": (
        "insert rule inet tortie forward tcp dport { 22, 80 } accept",
        ("chain forward has other rules",),
    ),
    "all rules of a chain gone": ("flush chain inet tortie db_in", ("chain db_in has other rules",)),
    "hook removed": (
        "flush chain inet tortie forward\ndelete chain inet tortie forward",
        ("chain forward is missing",),
    ),
    "policy of a hook changed": (
        "add chain inet tortie forward { policy drop; }",
        ("chain forward has another hook or comment",),
    ),
    "element deleted": (
        "delete element inet tortie from_pod4 { 10.0.0.1 }",
        ("set from_pod4 lacks 1 elements and has 0 that it should not have",),
    ),
    "elements added": (
        "add element inet tortie db4 { 10.9.0.1, 10.9.0.2 }",
        ("set db4 lacks 0 elements and has 2 that it should not have",),
    ),
    "verdict changed": (
        "delete element inet tortie from_pod6 { fd00::1 }\nadd element inet tortie from_pod6 { fd00::1 : accept }",
        ("set from_pod6 lacks 1 elements and has 1 that it should not have",),
    ),
    "interval widened": (
        "add element inet tortie db6 { fd01::/16 }",
        ("set db6 lacks 0 elements and has 1 that it should not have",),
    ),
    "a map emptied": (
        "flush map inet tortie from_pod4",
        ("set from_pod4 lacks 2 elements and has 0 that it should not have",),
    ),
    "things of somebody": (
        """add set inet tortie extra { type ipv4_addr; }
add chain inet tortie debug
add rule inet tortie debug ip saddr @extra accept
insert rule inet tortie from_pod jump debug""",
        ("chain debug is too much", "chain from_pod has other rules", "set extra is too much"),
    ),
    "a set of another type": (
        "delete set inet tortie named4\nadd set inet tortie named4 { type ipv6_addr; }",
        ("set named4 has another type or comment",),
    ),
    "rules replaced by others": (
        "flush chain inet tortie forward\nadd rule inet tortie forward jump from_pod\nflush chain inet tortie from_pod",
        ("chain forward has other rules", "chain from_pod has other rules"),
    ),
}


@pytest.mark.kernel
@pytest.mark.parametrize(("command", "findings"), DAMAGES.values(), ids=DAMAGES)
async def test_a_change_by_hand_is_found_and_repaired(
    kernel_table: KernelRuleTable, nft: Callable[..., str], command: str, findings: tuple[str, ...]
) -> None:
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    good = nft("-s", "list", "table", "inet", "tortie")
    nft(text=command)
    report = await enforcement.sync(CONTENT)
    assert sorted(map(str, report.differences)) == sorted(findings)
    assert report.refusals == ()
    assert sections(nft("-s", "list", "table", "inet", "tortie")) == sections(good)
    assert await enforcement.sync(CONTENT) == Report(())


def sections(listing: str) -> set[str]:
    """Return the chains and sets of a listing, in no order: a repaired one comes last."""
    return {block.rstrip("\n\t }") for block in listing.removeprefix("table inet tortie {\n").split("\n\n")}


@pytest.mark.kernel
async def test_an_unchanged_restart_writes_nothing_to_the_kernel(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    await Enforcement(kernel_table).sync(CONTENT)
    before = nft("-a", "list", "ruleset")
    assert await Enforcement(kernel_table).sync(CONTENT) == Report(())
    assert nft("-a", "list", "ruleset") == before  # with handles: nothing was made anew


EVERY_PREFIX = tuple(map(Prefix.parse, ("10.42.0.0/16", "fd42::/48")))
NAT = Masquerade(EVERY_PREFIX, EVERY_PREFIX, EVERY_PREFIX, EVERY_PREFIX, frozenset((A, A6)))
ADDRESSES = {Family.IPV4: bytes((192, 0, 2, 1)), Family.IPV6: bytes((0x20, 1, *13 * [0], 1))}
PARTS = {
    "segments": clamp.render(["eth0"]),
    "services": serviceguard.render(EVERY_PREFIX),
    "NAT": masquerade.render(NAT),
    "NAT by ports": masquerade.render(replace(NAT, ports=(1024, 65535))),
    "NAT, ports as they are": masquerade.render(replace(NAT, fully_random=False)),
    "NAT to an address": masquerade.render(replace(NAT, addresses=ADDRESSES)),
    "NAT to an address, ports as they are": masquerade.render(replace(NAT, fully_random=False, addresses=ADDRESSES)),
    "NAT to an address by ports": masquerade.render(replace(NAT, ports=(1024, 65535), addresses=ADDRESSES)),
    "priorities": Content(
        {
            f"{name}_{number}": f"type filter hook prerouting priority {name}{sign}; policy drop;\naccept"
            for name in ("raw", "mangle", "filter", "security")
            for number, sign in enumerate(("", " + 5", " - 5"))
        }
        | {"numbered": "type nat hook postrouting priority -7;", "remarkable": 'comment "it"\naccept comment "that"'},
        {"marks": SetContent(SetText('type mark\ncomment "set"'), {})},
    ),
}


@pytest.mark.kernel
@pytest.mark.parametrize("content", PARTS.values(), ids=PARTS)
async def test_what_was_written_is_found_to_be_what_is_wanted(kernel_table: KernelRuleTable, content: Content) -> None:
    """The kernel's words for a rule may be others than the compiler's: every rule we write is to be tried here."""
    assert not (await Enforcement(kernel_table).sync(content)).refusals
    assert await Enforcement(kernel_table).sync(content) == Report(())


@pytest.mark.kernel
async def test_foreign_tables_stay_as_they_are(kernel_table: KernelRuleTable, nft: Callable[..., str]) -> None:
    nft(
        text="""table ip tortie {
 chain forward { type filter hook forward priority 0; policy accept; counter; }
}
table ip6 other {
 set s { type ipv6_addr; flags interval; elements = { fd00::/8 } }
 chain db_in { ip6 saddr @s drop; }
}
table inet kube-proxy {
 map m { type ipv4_addr : verdict; elements = { 10.0.0.1 : drop } }
}
"""
    )
    foreign = nft("-a", "list", "ruleset")
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    await enforcement.sync(with_set(CONTENT, "db4", SetContent(SetText("type ipv6_addr"), {A6: PLAIN})))
    await enforcement.sync(with_chain(CONTENT, "db_in", "drop"))
    await enforcement.change(Change(chains={"new": "drop"}, chains_removed=["new"]))
    assert nft("-a", "list", "ruleset").startswith(foreign)
    nft("delete", "table", "inet", "tortie")
    assert nft("-a", "list", "ruleset") == foreign


@pytest.mark.kernel
async def test_a_set_of_another_type_is_replaced_while_pods_get_nothing(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    other = with_set(
        with_chain(CONTENT, "db_in", "ip6 daddr @db4 drop\nip6 daddr @db6 accept"),
        "db4",
        SetContent(SetText("type ipv6_addr"), {A6: PLAIN}),
    )
    seen: list[tuple[str, str]] = []
    original = kernel_table.write

    async def write(batch: Batch) -> list[Refusal]:
        seen.append((nft("list", "map", "inet", "tortie", "from_pod4"), nft("list", "set", "inet", "tortie", "db6")))
        return await original(batch)

    kernel_table.write = write
    report = await enforcement.sync(other)
    assert (report.differences[-1], report.refusals) == (
        Difference("set db4", "has another type or comment"),
        (),
    )
    assert seen
    assert all("elements" not in pods and "elements" in others for pods, others in seen)
    assert await enforcement.sync(other) == Report(())


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
