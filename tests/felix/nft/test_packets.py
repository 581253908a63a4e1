"""What packets meet while the rules change under them."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from felix.nft.elements import PLAIN, ElementChange, Key, Value
from felix.nft.enforcement import Change, Content, Difference, Enforcement, SetContent
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from felix.nft.monitor import TableChanged, TableMonitor
from felix.nft.table import Definition, SetText, Structure
from inet.prefix import Family
from tests.felix.nft.pods import RESET, PodNode, pod_node

pytestmark = pytest.mark.kernel

SENDER, OPEN, CLOSED = 0, 1, 2
PORT = 9000


@pytest.fixture
def pods() -> Iterator[PodNode]:
    """Three pods; the test runs inside the node's namespace."""
    with pod_node(3) as pods:
        yield pods


@pytest.fixture
def table(library: Library, pods: PodNode) -> Iterator[KernelRuleTable]:  # noqa: ARG001 - inside its namespace
    table = KernelRuleTable(library)
    yield table
    table.close()


def version(pods: PodNode, number: int, size: int = 1) -> Content:
    """Return rules that let the sender reach OPEN and not CLOSED: the same in effect, all of it under other names."""
    chains, sets = {}, {}
    for i in range(size):
        sets[f"open4_{number}_{i}"] = SetContent(
            SetText("type ipv4_addr"), {pods.packed(Family.IPV4, OPEN): PLAIN, bytes([9, 9, i >> 8, i & 255]): PLAIN}
        )
        sets[f"open6_{number}_{i}"] = SetContent(SetText("type ipv6_addr"), {pods.packed(Family.IPV6, OPEN): PLAIN})
        chains[f"egress_{number}_{i}"] = (
            f"{RESET}\nip daddr @open4_{number}_{i} accept\nip6 daddr @open6_{number}_{i} accept\ncounter drop"
        )
    base = pods.content({SENDER: f"egress_{number}_0"}, chains)
    for family, name in ((Family.IPV4, "from_pod4"), (Family.IPV6, "from_pod6")):
        elements: dict[Key, Value] = dict(base.sets[name].elements)
        others = (pods.packed(family, 100 + i) for i in range(min(size, 100)))
        elements |= {address: Value("jump", f"egress_{number}_{i}") for i, address in enumerate(others)}
        sets[name] = base.sets[name]._replace(elements=elements)
    return Content(base.chains, sets)


def step(before: Content, after: Content) -> Change:
    """Return what turns a version into another."""
    swaps = []
    for name in ("from_pod4", "from_pod6"):
        swaps += [ElementChange(name, key, is_added=False) for key in before.sets[name].elements]
        swaps += [
            ElementChange(name, key, is_added=True, value=value) for key, value in after.sets[name].elements.items()
        ]
    return Change(
        {name: text for name, text in after.chains.items() if name not in before.chains},
        {name: each for name, each in after.sets.items() if name not in before.sets},
        swaps,
        [name for name in before.chains if name not in after.chains],
        [name for name in before.sets if name not in after.sets],
    )


async def test_changes_lose_no_allowed_packet_and_leak_no_denied_one(
    pods: PodNode, table: KernelRuleTable, family: Family
) -> None:
    """Datagrams that are never answered belong to no established connection: each one is judged."""
    enforcement = Enforcement(table)
    versions = [version(pods, number) for number in (0, 1)]
    assert not (await enforcement.sync(versions[0])).refusals
    with (
        pods.flood(family, SENDER, OPEN, PORT) as allowed,
        pods.flood(family, SENDER, CLOSED, PORT) as denied,
    ):
        allowed.wait_for_arrivals()
        for before, after in itertools.islice(itertools.pairwise(itertools.cycle(versions)), 300):
            assert await enforcement.change(step(before, after)) == []
        sent, received = allowed.end()
        assert sent > 100
        assert received == sent
        sent, received = denied.end()
        assert sent > 100
        assert received == 0


async def test_a_rehearsal_meets_no_packet(pods: PodNode, table: KernelRuleTable, family: Family) -> None:
    assert not (await Enforcement(table).sync(version(pods, 0, SIZE))).refusals
    shut = Definition(
        chains={hook: f"type filter hook {hook} priority -400; policy drop;" for hook in ("prerouting", "forward")}
    )
    with pods.flood(family, SENDER, OPEN, PORT) as allowed:
        allowed.wait_for_arrivals()
        for _ in range(50):
            assert isinstance(await table.rehearse(shut), Structure)
        sent, received = allowed.end()
    assert sent > 100
    assert received == sent


_CHURN = """
import asyncio, itertools
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library
from tests.felix.nft.pods import PodNode
from tests.felix.nft.test_packets import SIZE, step, version

async def main():
    enforcement = Enforcement(KernelRuleTable(Library()))
    versions = [version(PodNode(3), number, SIZE) for number in (0, 1)]
    await enforcement.sync(versions[0])
    for before, after in itertools.pairwise(itertools.cycle(versions)):
        print("change", flush=True)
        assert await enforcement.change(step(before, after)) == []

asyncio.run(main())
"""
SIZE = 200


async def test_a_killed_writer_leaves_the_old_rules_or_the_new_ones(
    pods: PodNode, table: KernelRuleTable, family: Family
) -> None:
    versions = [version(pods, number, SIZE) for number in (0, 1)]
    assert not (await Enforcement(table).sync(versions[0])).refusals
    found = set()
    with (
        pods.flood(family, SENDER, OPEN, PORT) as allowed,
        pods.flood(family, SENDER, CLOSED, PORT) as denied,
    ):
        allowed.wait_for_arrivals()
        for delay_s in (0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08):
            kill_in_the_middle(delay_s)
            now = await version_in_force(table)
            found.add(now)
            report = await Enforcement(table).sync(versions[now])
            assert report.refusals == ()
            assert {difference.finding for difference in report.differences} <= {"is too much"}
        sent, received = allowed.end()
        assert received == sent
        sent, received = denied.end()
        assert received == 0
    assert found


def kill_in_the_middle(delay_s: float) -> None:
    process = subprocess.Popen([sys.executable, "-c", _CHURN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"change\n"
    try:
        process.wait(timeout=delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()


async def version_in_force(table: KernelRuleTable) -> int:
    """Return which version every element of the maps leads to."""
    structure = await table.read()
    assert structure is not None
    numbers = set()
    for name in ("from_pod4", "from_pod6"):
        elements = await table.read_elements(name, structure.sets[name])
        assert len(elements) == 101
        numbers |= {value.chain.split("_")[1] for value in elements.values()}
    [number] = numbers
    return int(number)


async def test_after_a_flush_the_rules_are_back_as_soon_as_it_is_heard_of(
    pods: PodNode, table: KernelRuleTable, family: Family
) -> None:
    content = version(pods, 0)
    enforcement = Enforcement(table)
    await enforcement.sync(content)
    monitor = TableMonitor(table.port, table.writer)
    events = monitor.events()
    flush_ruleset()
    async with asyncio.timeout(30):
        assert isinstance(await anext(events), TableChanged)
    assert (await enforcement.sync(content)).differences == (Difference("table", "is missing"),)
    with pods.flood(family, SENDER, CLOSED, PORT) as denied, pods.flood(family, SENDER, OPEN, PORT) as allowed:
        allowed.wait_for_arrivals()
        assert denied.end()[1] == 0
    await events.aclose()
    monitor.close()


def flush_ruleset() -> None:
    subprocess.run(["nft", "flush", "ruleset"], check=True)
