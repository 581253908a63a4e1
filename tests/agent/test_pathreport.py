"""The words in which nodes tell what they know of a packet."""

from __future__ import annotations

import msgspec
import pytest

from agent.pathreport import End, NodeFacts, RouteFacts, WayFacts

POD = End("10.42.1.9", "Pod", "shop/web", "n1")
ROUTE = RouteFacts("10.42.2.0/24", "unicast", ways=(WayFacts("eth0", "192.168.0.2", "n2", 1500),), taken=0)


def test_what_one_node_writes_another_reads() -> None:
    facts = NodeFacts("n1", POD, End("10.42.2.9"), None, None, ROUTE, RouteFacts(error="no route"), None)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=NodeFacts) == facts


def test_a_node_of_an_older_version_that_says_less_is_understood() -> None:
    end = {"address": "10.42.1.9"}
    less = {"node": "n1", "source": end, "destination": end, "sourceLink": None, "destinationLink": None}
    told = msgspec.convert(less | {"route": {}, "back": {}, "policy": None}, NodeFacts)
    assert (told.route.ways, told.drops) == ((), 0)


@pytest.mark.parametrize(("end", "shown"), [(POD, "shop/web"), (End("192.0.2.1"), "192.0.2.1")])
def test_an_end_is_called_by_its_name_or_else_its_address(end: End, shown: str) -> None:
    assert str(end) == shown
