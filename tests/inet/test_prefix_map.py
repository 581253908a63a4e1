from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inet.prefix import Prefix
from inet.prefix_map import PrefixMap

LAYERS = {
    Prefix.parse("10.0.0.0/8"): "wide",
    Prefix.parse("10.42.0.0/16"): "middle",
    Prefix.parse("10.42.1.0/24"): "narrow",
    Prefix.parse("fd42::/48"): "six",
}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.42.1.0/24", "narrow"),
        ("10.42.1.7/32", "narrow"),
        ("10.42.2.0/24", "middle"),
        ("10.42.0.0/16", "middle"),
        ("10.42.0.0/15", "wide"),
        ("10.0.0.0/7", None),
        ("11.0.0.0/8", None),
        ("0.0.0.0/0", None),
        ("fd42:0:0:1::/64", "six"),
        ("fd43::/64", None),
    ],
)
def test_the_longest_prefix_around_wins(text: str, found: str | None) -> None:
    assert PrefixMap(LAYERS).covering(Prefix.parse(text)) == found


def prefixes() -> st.SearchStrategy[Prefix]:
    """Few enough bits that prefixes meet; both families."""

    def build(size: int, value: int, length: int) -> Prefix:
        return Prefix((value << (size * 8 - 4)).to_bytes(size), size * 8).shortened(length)

    return st.builds(build, st.sampled_from([4, 16]), st.integers(0, 15), st.integers(0, 6))


@given(st.dictionaries(prefixes(), st.integers(1, 9)), prefixes())
def test_it_finds_what_looking_at_every_prefix_finds(items: dict[Prefix, int], prefix: Prefix) -> None:
    around = [each for each in items if each.contains(prefix)]
    expected = items[max(around, key=lambda each: each.length)] if around else None
    assert PrefixMap(items).covering(prefix) == expected


def test_it_is_a_mapping_that_compares_by_content() -> None:
    one, same = PrefixMap(LAYERS), PrefixMap(dict(reversed(LAYERS.items())))
    assert one == same
    assert one != PrefixMap({})
    assert one != LAYERS
    assert (dict(one), len(one), one[Prefix.parse("fd42::/48")]) == (LAYERS, 4, "six")
    assert repr(one) == f"PrefixMap({LAYERS!r})"


def test_what_it_was_made_from_may_change_later() -> None:
    items = dict(LAYERS)
    made = PrefixMap(items)
    items.clear()
    assert made.covering(Prefix.parse("10.42.1.0/24")) == "narrow"


@given(st.dictionaries(prefixes(), st.integers(1, 9)), st.data())
def test_replaced_it_is_a_map_of_what_is_there_then(items: dict[Prefix, int], data: st.DataObject) -> None:
    before = PrefixMap(items)
    gone = data.draw(st.lists(st.sampled_from(sorted(items)), unique=True)) if items else []
    new = data.draw(st.dictionaries(prefixes(), st.integers(1, 9)))
    left = {prefix: value for prefix, value in items.items() if prefix not in gone} | new
    found, prefix = before.replaced(gone, new), data.draw(prefixes())
    assert found == PrefixMap(left)
    assert found.covering(prefix) == PrefixMap(left).covering(prefix)
    assert before == PrefixMap(items)
    assert before.differing(found).keys() >= before.differing(PrefixMap(left)).keys()


@given(st.dictionaries(prefixes(), st.integers(1, 9)), st.sets(prefixes()))
def test_it_tells_which_of_many_lie_in_it(items: dict[Prefix, int], many: set[Prefix]) -> None:
    assert set(PrefixMap(items).lying_in(many)) == {
        each for each in many if any(around.contains(each) for around in items)
    }
