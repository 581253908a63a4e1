"""The real kernel behind `PolicyKernel`: links marked, news heard, connections found and ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from agent.policy_kernel import PolicyKernel, open_policy_kernel
from felix.nft.monitor import TableChanged
from felix.nft.table import Definition
from inet.prefix import Family
from tests.felix.nft.pods import OWN, PodNode, pod_node

pytestmark = pytest.mark.kernel


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Two pods, not marked; the test runs inside the node's namespace."""
    with pod_node(2) as node:
        for i in range(2):
            node.ip(None, f"link set h{i} group default")
        yield node


@pytest.fixture
def kernel(pods: PodNode) -> Iterator[PolicyKernel]:  # noqa: ARG001 - inside its namespace
    with open_policy_kernel() as kernel:
        yield kernel


async def test_pods_are_marked_by_their_routes_and_those_without_are_told(
    pods: PodNode, kernel: PolicyKernel, family: Family
) -> None:
    mine, nobodys = pods.packed(family, 0), pods.packed(family, 77)
    assert set(await kernel.mark_pods([mine, nobodys])) == {mine}
    (marked,) = [link for link in ("h0", "h1") if "group 97" in pods.show(f"link show {link}")]
    assert marked == "h0"


async def test_what_others_do_to_the_table_is_news_and_what_we_do_is_not(pods: PodNode, kernel: PolicyKernel) -> None:
    events = kernel.table_events()
    assert await kernel.table.define(Definition(chains={"c": "counter"})) == []
    pods.nft("add chain inet tortie theirs")
    event = await asyncio.wait_for(anext(events), 10)
    assert isinstance(event, TableChanged)
    assert event.by == "nft"
    await events.aclose()


async def test_connections_are_found_by_either_end_and_ended(
    pods: PodNode, kernel: PolicyKernel, family: Family
) -> None:
    chain = "type filter hook forward priority filter; policy accept;\nct state established accept"
    assert await kernel.table.define(Definition(chains={"f": chain})) == []
    with pods.listen(family, 1, 5432) as server:
        ends = pods.connect(family, 0, server)
        for end in (0, 1):
            (flow,) = await kernel.flows({pods.packed(family, end)})
            assert (flow.client, flow.server, flow.port) == (pods.packed(family, 0), pods.packed(family, 1), 5432)
        assert await kernel.flows({pods.packed(family, 77)}) == []
        assert await kernel.cut([flow]) == []
        assert await kernel.flows({pods.packed(family, 0)}) == []
        assert await kernel.cut([flow]) == [], "one that has ended is no failure"
        for each in ends:
            each.close()


async def test_the_node_s_own_addresses_are_all_it_has(kernel: PolicyKernel) -> None:
    own = await kernel.own_addresses()
    assert {len(each) for each in own} == {4, 16}
    assert len(OWN) <= len(own)


async def test_counts_are_of_one_chain(kernel: PolicyKernel) -> None:
    assert await kernel.table.define(Definition(chains={"c": 'counter comment "all"'})) == []
    assert [each.comment for each in await kernel.counts("c")] == ["all"]
    assert await kernel.counts("absent") == []
