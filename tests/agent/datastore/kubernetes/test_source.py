from __future__ import annotations

import pytest

from agent.datastore.kubernetes.source import Source
from agent.datastore.kubernetes.wire import Item
from agent.objects import Key, Problem
from agent.objects.kinds import KINDS, Keyed
from agent.objects.problem import Finding


class Heard:
    def __init__(self) -> None:
        self.log: list[str] = []
        self.problems: dict[str, tuple[Problem, ...]] = {}

    def changed(self, item: Keyed) -> None:
        self.log.append(f"+{item.key.name}")

    def deleted(self, key: Key) -> None:
        self.log.append(f"-{key.name}")

    def set_problems(self, origin: str, *problems: Problem) -> None:
        self.problems[origin] = problems

    def progressed(self) -> None:
        self.log.append("=")

    @property
    def words(self) -> list[str]:
        return [str(problem) for each in self.problems.values() for problem in each]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def source(heard: Heard) -> Source:
    return Source("BGPNodeProfile", heard, confirm_after_s=0.0)


def good(name: str, asn: int = 65001) -> Item:
    kind = KINDS["BGPNodeProfile"]
    document = {"metadata": {"name": name}, "spec": {"localASN": asn}}
    return Item(Key(kind.name, "", name), "1", f"uid-{name}", kind.decode(document))


def bad(name: str) -> Item:
    return Item(Key("BGPNodeProfile", "", name), "2", f"uid-{name}", None, (Finding(("spec", "localASN"), "is wrong"),))


def keys(*names: str) -> set[Key]:
    return {Key("BGPNodeProfile", "", name) for name in names}


def test_a_list_that_repeats_what_is_known_changes_nothing(heard: Heard, source: Source) -> None:
    for _ in range(2):
        source.put(good("a"))
        source.listed(keys("a"))
    assert heard.log == ["+a", "=", "="]


def test_what_a_list_does_not_have_is_gone(heard: Heard, source: Source) -> None:
    source.put(good("a"))
    source.put(good("b"))
    source.listed(keys("b"))
    assert heard.log == ["+a", "+b", "-a", "="]


def test_most_of_all_is_gone_when_it_is_missed_again(heard: Heard, source: Source) -> None:
    for number in range(10):
        source.put(good(str(number)))
    heard.log.clear()
    assert source.listed(set()) == 0.0
    assert heard.log == ["="]
    assert "10 of 10 objects are gone at once" in heard.words[0]
    assert source.listed(set()) is None
    assert len(heard.log) == 12
    assert heard.words == []


def test_an_object_that_makes_no_sense_leaves_its_last_good_version(heard: Heard, source: Source) -> None:
    source.put(good("a"))
    source.put(bad("a"))
    source.put(bad("new"))
    source.listed(keys("a", "new"))
    assert heard.log == ["+a", "="]
    assert heard.words == [
        "BGPNodeProfile a: spec.localASN: is wrong. The last good version stays in force.",
        "BGPNodeProfile new: spec.localASN: is wrong. It is ignored.",
    ]
    assert source.uids[Key("BGPNodeProfile", "", "new")] == "uid-new"

    source.put(good("a"))
    source.delete(Key("BGPNodeProfile", "", "new"))
    assert heard.words == []
    assert heard.log == ["+a", "="]


def test_one_that_is_bad_and_then_deleted_takes_its_good_version_along(heard: Heard, source: Source) -> None:
    source.put(good("a"))
    source.put(bad("a"))
    source.delete(Key("BGPNodeProfile", "", "a"))
    assert heard.log == ["+a", "-a"]
    assert heard.words == []


def test_one_that_is_bad_and_missing_in_a_list_is_complained_of_no_more(heard: Heard, source: Source) -> None:
    source.put(bad("a"))
    source.listed(set())
    assert heard.words == []
