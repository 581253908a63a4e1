"""However the updates come, the engine ends where starting afresh does, and its deltas and texts say the same."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.compiler import Deleted, Engine, Update
from policy.nft import render, render_change, render_elements
from policy.nftwalk import Table
from tests.policy.clusters import HERE, Mirror, engine_of, footprint, frozen, key_of, remaining, updates

pytestmark = [
    pytest.mark.no_cover,  # many times the ways of the tests beside it: to trace each costs as much again
    pytest.mark.timeout(600),
]

SEQUENCES = st.lists(st.lists(updates, max_size=6), min_size=1, max_size=8)


@given(SEQUENCES, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_after_every_prefix_it_is_where_a_fresh_start_is(batches: list[list[Update]], chance: random.Random) -> None:
    engine, mirror = Engine(HERE), Mirror()
    so_far: list[Update] = []
    for batch in batches:
        for update in batch:
            engine.apply(update)
        so_far += batch
        mirror.apply(engine.flush())
        objects = list(remaining(so_far).values())
        chance.shuffle(objects)
        assert frozen(engine.ruleset) == frozen(engine_of(objects).ruleset)
        assert frozen(engine.ruleset) == frozen(mirror.ruleset)


@given(st.lists(updates, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_permuted_repeated_and_coalesced_deliveries_end_in_one_state(
    sequence: list[Update], chance: random.Random
) -> None:
    expected = frozen(engine_of(sequence).ruleset)

    per_key: dict[tuple[str, str], list[Update]] = {}
    for update in sequence:
        per_key.setdefault(key_of(update), []).extend([update] * chance.randint(1, 2))
    permuted = [key for key, own in per_key.items() for _ in own]
    chance.shuffle(permuted)
    engine = Engine(HERE)
    for key in permuted:  # any order between objects; of one object, its own
        engine.apply(per_key[key].pop(0))
        if chance.random() < 0.3:
            engine.flush()
    engine.flush()
    assert frozen(engine.ruleset) == expected

    coalesced = {key_of(update): update for update in sequence}
    assert frozen(engine_of(coalesced.values()).ruleset) == expected


@given(st.lists(updates, max_size=20))
@settings(deadline=None)
def test_taking_everything_away_again_leaves_nothing(sequence: list[Update]) -> None:
    engine, mirror = Engine(HERE), Mirror()
    for update in sequence:
        engine.apply(update)
    mirror.apply(engine.flush())
    for kind, key in remaining(sequence):
        namespace, _, name = key.rpartition("/")
        engine.apply(Deleted(kind, namespace, name))
    mirror.apply(engine.flush())
    assert frozen(engine.ruleset) == frozen(Engine(HERE).ruleset)
    assert not engine.flush()


@given(SEQUENCES)
@settings(max_examples=200, deadline=None)
def test_whatever_it_has_seen_it_keeps_no_more_than_after_a_fresh_start(batches: list[list[Update]]) -> None:
    engine = Engine(HERE)
    for batch in batches:
        for update in batch:
            engine.apply(update)
        engine.flush()
    kept, needed = (
        footprint(engine),
        footprint(engine_of(remaining([each for batch in batches for each in batch]).values())),
    )
    assert {place: (count, needed[place]) for place, count in kept.items() if count > needed[place]} == {}


@given(SEQUENCES)
@settings(max_examples=150, deadline=None)
def test_the_transactions_add_up_to_the_text_of_the_whole(batches: list[list[Update]]) -> None:
    engine, table = Engine(HERE), Table()
    engine.flush()
    table.load(render(engine.ruleset))
    for batch in batches:
        for update in batch:
            engine.apply(update)
        change = render_change(engine.flush())
        table.load(change.structure)
        table.load(render_elements(change.elements) + change.removal)
        whole = Table()
        whole.load(render(engine.ruleset))
        assert table.sets == whole.sets
        assert table.chains == whole.chains
