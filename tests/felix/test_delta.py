from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from felix.delta import Delta

KEYS = st.sampled_from("abc")
CALLS = st.one_of(
    st.tuples(st.sampled_from(["want", "found"]), KEYS, st.integers(1, 2)),
    st.tuples(st.sampled_from(["unwant", "lost"]), KEYS),
)


@given(st.lists(CALLS))
def test_pending_is_where_desired_and_actual_differ(calls: list[tuple[str, str, int] | tuple[str, str]]) -> None:
    delta: Delta[str, int] = Delta()
    for name, *arguments in calls:
        getattr(delta, name)(*arguments)
    assert set(delta.pending) == {key for key in "abc" if delta.desired.get(key) != delta.actual.get(key)}


def test_pending_keeps_the_order_in_which_keys_came_up() -> None:
    delta: Delta[str, int] = Delta()
    for key in "cab":
        delta.want(key, 1)
    delta.want("c", 2)
    assert list(delta.pending) == ["c", "a", "b"]
