from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from felix.nft import batch
from felix.nft.batch import BatchSocket, removals
from felix.nft.elements import ElementChange, Value, requests
from felix.nft.table import TABLE

pytestmark = pytest.mark.kernel

RULESET = """table inet tortie {
  set s { type ipv4_addr; }
  map m { type ipv4_addr : verdict; }
  chain one { jump two; }
  chain two { accept; }
}
"""


@pytest.fixture
def batches(nft: Callable[..., str]) -> Iterator[BatchSocket]:
    nft(text=RULESET)
    batches = BatchSocket()
    yield batches
    batches.close()


def add(set_name: str, i: int, chain: str = "") -> ElementChange:
    value = Value("jump", chain) if chain else Value()
    return ElementChange(set_name, bytes([10, 0, i >> 8, i & 255]), is_added=True, value=value)


def test_every_message_at_fault_is_named_with_its_element(batches: BatchSocket, nft: Callable[..., str]) -> None:
    before = nft("list", "ruleset")
    deleted = [each._replace(is_added=False) for each in (add("s", 7), add("s", 8))]
    changes = [*deleted, *(add("s", i) for i in range(1000)), add("m", 1, "one"), add("m", 2, "absent")]
    refusals = batches.write(list(requests(TABLE, changes)))
    assert [(each.subject, each.change, each.message) for each in refusals] == [
        ("s", deleted[0], "No such file or directory"),
        ("m", changes[-1], "No such file or directory"),
    ]
    assert str(refusals[1]) == "m: add 10.0.0.2 : jump absent: No such file or directory"
    assert nft("list", "ruleset") == before


def test_chains_that_lead_to_each_other_are_removed_in_any_order(batches: BatchSocket, nft: Callable[..., str]) -> None:
    assert batches.write(list(removals(TABLE, ["two", "one"], ["s"]))) == []
    assert "".join(nft("list", "ruleset").split()) == "tableinettortie{mapm{typeipv4_addr:verdict}}"


def test_numbers_of_messages_start_over(batches: BatchSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_LAST_SEQUENCE", 50)
    for i in range(100):
        assert batches.write(list(requests(TABLE, [add("s", i)]))) == []
        [refusal] = batches.write(list(requests(TABLE, [add("s", i + 1000)._replace(is_added=False)])))
        assert refusal.change is not None


def test_what_cannot_be_sent_is_refused_as_a_whole(batches: BatchSocket) -> None:
    batches.close()
    [refusal] = batches.write(list(requests(TABLE, [add("s", 1)])))
    assert (refusal.subject, refusal.message) == ("", "Bad file descriptor")
