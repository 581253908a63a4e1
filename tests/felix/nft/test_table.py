"""The contract of `felix.nft.table.RuleTable`, held by the kernel's table and the fake."""

from __future__ import annotations

import pytest

from felix.nft.elements import PLAIN, ElementChange, Key, Value
from felix.nft.faketable import FakeRuleTable
from felix.nft.table import Batch, Definition, Refusal, RuleTable, SetText, Structure

ADDRESSES = SetText("type ipv4_addr")
VERDICTS = SetText("type ipv4_addr : verdict", is_map=True)
A, B, C = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
BASE = "type filter hook forward priority filter; policy accept;\nip saddr vmap @pods\nip saddr @others goto two\n"
START = Definition(
    sets={"pods": VERDICTS, "others": ADDRESSES},
    chains={"forward": BASE, "one": "accept", "two": "counter drop"},
)


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
async def table(request: pytest.FixtureRequest) -> RuleTable:
    table: RuleTable = FakeRuleTable() if request.param == "fake" else request.getfixturevalue("kernel_table")
    assert await table.define(START) == []
    return table


def add(set_name: str, key: bytes, verdict: str = "", chain: str = "") -> ElementChange:
    return ElementChange(set_name, key, is_added=True, value=Value(verdict, chain))


def delete(set_name: str, key: bytes) -> ElementChange:
    return ElementChange(set_name, key, is_added=False)


async def structure(table: RuleTable) -> Structure:
    found = await table.read()
    assert found is not None
    return found


async def elements(table: RuleTable, name: str) -> dict[Key, Value]:
    return dict(await table.read_elements(name, (await structure(table)).sets[name]))


@pytest.mark.parametrize("kind", ["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
async def test_where_nothing_was_written_there_is_no_table(kind: str, request: pytest.FixtureRequest) -> None:
    table: RuleTable = FakeRuleTable() if kind == "fake" else request.getfixturevalue("kernel_table")
    assert await table.read() is None


async def test_what_was_defined_is_read_back(table: RuleTable) -> None:
    found = await structure(table)
    assert set(found.chains) == {"forward", "one", "two"}
    assert {name: shape.is_map for name, shape in found.sets.items()} == {"pods": True, "others": False}
    assert found.flags == 0


async def test_a_rehearsal_foretells_what_will_be_read_and_writes_nothing(table: RuleTable) -> None:
    before = await structure(table)
    assert await table.rehearse(START) == before
    more = Definition(sets={**START.sets, "more": ADDRESSES}, chains={**START.chains, "three": "ip saddr @more accept"})
    foretold = await table.rehearse(more)
    assert await structure(table) == before
    assert await table.define(Definition(sets={"more": ADDRESSES}, chains={"three": "ip saddr @more accept"})) == []
    assert await structure(table) == foretold


async def test_other_rules_other_hooks_and_other_types_have_other_shapes(table: RuleTable) -> None:
    other = await table.rehearse(
        Definition(
            sets={"pods": SetText("type ipv6_addr : verdict", is_map=True), "others": ADDRESSES},
            chains={
                "forward": "type filter hook forward priority filter; policy drop;\nip saddr @others goto two\n",
                "one": "drop",
                "two": "counter drop",
            },
        )
    )
    assert isinstance(other, Structure)
    found = await structure(table)
    assert other.sets["pods"] != found.sets["pods"]
    assert other.sets["others"] == found.sets["others"]
    assert other.chains["forward"].header != found.chains["forward"].header
    assert other.chains["one"].header == found.chains["one"].header
    assert other.chains["one"].rules != found.chains["one"].rules
    assert other.chains["two"] == found.chains["two"]


async def test_a_rehearsal_of_bad_text_says_what_is_bad(table: RuleTable) -> None:
    refused = await table.rehearse(Definition(chains={"three": "accept\nip saddr @absent accept"}))
    assert refused == [Refusal("three", "No such file or directory", "ip saddr @absent accept")]


async def test_a_refused_definition_names_chain_and_line_and_changes_nothing(table: RuleTable) -> None:
    before = await structure(table)
    bad = Definition(
        chains_emptied=["one"], chains={"one": "drop", "good": "accept", "bad": "accept\nip saddr 10.0.0.1 goto absent"}
    )
    assert await table.define(bad) == [Refusal("bad", "No such file or directory", "ip saddr 10.0.0.1 goto absent")]
    assert await structure(table) == before


async def test_a_chain_in_use_is_emptied_and_filled_in_one_transaction(table: RuleTable) -> None:
    assert await table.define(Definition(chains_emptied=["two"], chains={"two": "accept"})) == []
    assert await structure(table) == await table.rehearse(
        Definition(sets=START.sets, chains={**START.chains, "two": "accept"})
    )


async def test_a_chain_gets_another_hook_and_a_set_another_type_by_removal(table: RuleTable) -> None:
    other = Definition(
        sets={"pods": SetText("type ipv6_addr : verdict", is_map=True), "others": ADDRESSES},
        chains={
            "forward": "type filter hook input priority filter; policy accept;\nip6 saddr vmap @pods\n",
            "one": "accept",
        },
    )
    assert await table.write(Batch([add("pods", A, "jump", "one"), add("others", A)])) == []
    removal = Definition(
        maps_emptied=["pods"],
        chains_removed=["forward", "one", "two"],
        sets_removed=["pods"],
        sets=other.sets,
        chains=other.chains,
    )
    assert await table.define(removal) == []
    assert await structure(table) == await table.rehearse(other)
    assert await elements(table, "others") == {A: PLAIN}


async def test_defining_nothing_makes_the_table(table: RuleTable) -> None:
    before = await structure(table)
    assert await table.define(Definition()) == []
    assert await structure(table) == before


async def test_elements_are_added_and_deleted(table: RuleTable) -> None:
    assert await table.write(Batch([add("others", A), add("others", B), add("pods", A, "jump", "one")])) == []
    assert await table.write(Batch([delete("others", A), add("others", C)])) == []
    assert await elements(table, "others") == {B: PLAIN, C: PLAIN}
    assert await elements(table, "pods") == {A: Value("jump", "one")}


async def test_a_value_is_changed_by_deleting_and_adding(table: RuleTable) -> None:
    await table.write(Batch([add("pods", A, "jump", "one")]))
    assert await table.write(Batch([delete("pods", A), add("pods", A, "goto", "two")])) == []
    assert await elements(table, "pods") == {A: Value("goto", "two")}


async def test_adding_what_is_there_is_no_error(table: RuleTable) -> None:
    await table.write(Batch([add("others", A), add("pods", A, "accept")]))
    assert await table.write(Batch([add("others", A), add("pods", A, "accept"), add("others", B)])) == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (delete("others", C), "No such file or directory"),
        (delete("pods", C), "No such file or directory"),
        (add("absent", A), "No such file or directory"),
        (add("pods", B, "jump", "absent"), "No such file or directory"),
        (add("pods", A, "drop"), "File exists"),
    ],
    ids=["absent element", "absent map element", "no such set", "no such chain", "another value"],
)
async def test_a_refused_batch_names_the_element_and_changes_nothing(
    table: RuleTable, bad: ElementChange, message: str
) -> None:
    await table.write(Batch([add("others", A), add("pods", A, "accept")]))
    good = [add("others", bytes([10, 1, i, 1])) for i in range(100)]
    [refusal] = await table.write(Batch([*good[:50], bad, *good[50:], delete("others", A)]))
    assert (refusal.subject, refusal.message) == (bad.set, message)
    if bad.set != "absent":  # of a set that is not there no element is looked at
        assert refusal.change == bad
    assert await elements(table, "others") == {A: PLAIN}
    assert await elements(table, "pods") == {A: Value("accept")}


async def test_chains_and_sets_are_removed_together_with_the_last_elements_that_lead_there(table: RuleTable) -> None:
    await table.define(
        Definition(
            sets={"own": ADDRESSES},
            chains={"last": "ip saddr @own accept", "first": "ip saddr @own drop\ngoto last", "new": "drop"},
        )
    )
    await table.write(Batch([add("pods", A, "jump", "first"), add("own", B)]))
    swap = [delete("pods", A), add("pods", A, "jump", "new")]
    assert await table.write(Batch(swap, chains_removed=["last", "first"], sets_removed=["own"])) == []
    found = await structure(table)
    assert set(found.chains) == {"forward", "one", "two", "new"}
    assert set(found.sets) == {"pods", "others"}
    assert await elements(table, "pods") == {A: Value("jump", "new")}


@pytest.mark.parametrize(
    ("chains", "sets", "message"),
    [
        (["two"], [], "Device or resource busy"),
        ([], ["others"], "Device or resource busy"),
        (["absent"], [], "No such file or directory"),
        ([], ["absent"], "No such file or directory"),
    ],
    ids=["chain in use", "set in use", "no such chain", "no such set"],
)
async def test_a_refused_removal_names_what_it_is_about(
    table: RuleTable, chains: list[str], sets: list[str], message: str
) -> None:
    before = await structure(table)
    refusals = await table.write(Batch([add("others", A)], chains, sets))
    assert {(each.subject, each.message) for each in refusals} == {(*chains, *sets, message)}
    assert await structure(table) == before
    assert await elements(table, "others") == {}


async def test_an_empty_batch_is_no_transaction(table: RuleTable) -> None:
    assert await table.write(Batch()) == []
