from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from felix.nft.elements import PLAIN, ElementChange
from felix.nft.enforcement import Change, Content, Difference, Enforcement, SetContent
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.monitor import Event, Overflow, TableChanged, TableMonitor
from felix.nft.table import SetText

pytestmark = pytest.mark.kernel

CONTENT = Content(
    {"forward": "type filter hook forward priority filter; policy accept;\nip saddr @s drop"},
    {"s": SetContent(SetText("type ipv4_addr"), {b"\x0a\0\0\1": PLAIN})},
)


class Listener:
    def __init__(self, monitor: TableMonitor) -> None:
        self.monitor = monitor
        self.events = monitor.events()

    async def next(self) -> Event:
        async with asyncio.timeout(30):
            return await anext(self.events)

    async def silent_until_mark(self, nft: Callable[..., str]) -> None:
        """Nothing is heard but of a change that is made now."""
        nft("add", "chain", "inet", "tortie", "marker")
        assert isinstance(event := await self.next(), TableChanged)
        assert event.by == "nft"
        nft("delete", "chain", "inet", "tortie", "marker")
        assert isinstance(await self.next(), TableChanged)


@pytest.fixture
async def listener(kernel_table: KernelRuleTable) -> AsyncIterator[Listener]:
    monitor = TableMonitor(kernel_table.port, kernel_table.writer)
    listener = Listener(monitor)
    yield listener
    await listener.events.aclose()
    monitor.close()


@pytest.fixture
async def kept(kernel_table: KernelRuleTable, listener: Listener) -> Enforcement:  # noqa: ARG001 - it listens already
    enforcement = Enforcement(kernel_table)
    assert not (await enforcement.sync(CONTENT)).refusals
    return enforcement


async def test_our_own_writes_are_not_heard_of(kept: Enforcement, listener: Listener, nft: Callable[..., str]) -> None:
    await kept.change(Change(chains={"c": "accept"}, elements=[ElementChange("s", b"\x0a\0\0\2", is_added=True)]))
    await kept.change(Change(chains_removed=["c"]))
    await kept.sync(CONTENT)
    await listener.silent_until_mark(nft)


async def test_our_own_elements_do_not_even_wake_us(kept: Enforcement, listener: Listener) -> None:
    assert list(listener.monitor._drain()) == []  # of the first sync's structure
    await kept.change(Change(elements=[ElementChange("s", bytes([10, 0, 0, i]), is_added=True) for i in range(2, 50)]))
    with pytest.raises(BlockingIOError):
        listener.monitor._socket.recv(4096)


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet tortie",
        "add table inet tortie { flags dormant; }",
        "insert rule inet tortie forward accept",
        "flush chain inet tortie forward",
        "add element inet tortie s { 10.9.9.9 }",
        "delete element inet tortie s { 10.0.0.1 }",
        "add set inet tortie other { type ipv4_addr; }",
        "add chain inet tortie forward { policy drop; }",
    ],
)
@pytest.mark.usefixtures("kept")
async def test_a_change_of_our_table_by_others_is_heard_of_once(
    listener: Listener, nft: Callable[..., str], command: str
) -> None:
    nft(text=command)
    event = await listener.next()
    assert isinstance(event, TableChanged)
    assert event.by == "nft"
    if "table" not in command and "ruleset" not in command:
        await listener.silent_until_mark(nft)


@pytest.mark.usefixtures("kept")
async def test_changes_of_other_tables_are_not_heard_of(listener: Listener, nft: Callable[..., str]) -> None:
    nft(text="table ip tortie {\n chain c { accept; }\n}\ntable inet tortie2 {\n chain c { accept; }\n}")
    nft(text="table inet kube {\n set s { type ipv4_addr; elements = { 10.0.0.1 }; }\n}\ndelete table ip tortie")
    await listener.silent_until_mark(nft)


@pytest.mark.usefixtures("kept")
async def test_our_table_among_many_others_in_one_transaction_is_heard_of(
    listener: Listener, nft: Callable[..., str]
) -> None:
    many = "".join(f"add chain inet other c{i}\n" for i in range(500))
    nft(text=f"add table inet other\n{many}add chain inet tortie c\n{many}")
    assert isinstance(await listener.next(), TableChanged)


async def test_a_flush_is_repaired_as_soon_as_it_is_heard_of(
    kept: Enforcement, listener: Listener, nft: Callable[..., str]
) -> None:
    good = nft("list", "ruleset")
    for _ in range(5):
        nft("flush", "ruleset")
        await listener.next()
        assert (await kept.sync(CONTENT)).differences == (Difference("table", "is missing"),)
        assert nft("list", "ruleset") == good
    await listener.silent_until_mark(nft)


@pytest.fixture
def cramped(kernel_table: KernelRuleTable) -> Iterator[TableMonitor]:
    monitor = TableMonitor(kernel_table.port, kernel_table.writer, receive_buffer=4096)
    yield monitor
    monitor.close()


@pytest.mark.usefixtures("kept")
async def test_lost_news_is_news(cramped: TableMonitor, nft: Callable[..., str]) -> None:
    many = "".join(f"add chain inet other c{i}\n" for i in range(2000))
    nft(text=f"add table inet other\n{many}")
    listener = Listener(cramped)
    assert await listener.next() == Overflow()
    nft("add", "chain", "inet", "tortie", "marker")
    assert isinstance(await listener.next(), TableChanged)
    await listener.events.aclose()


async def test_a_socket_that_fails_is_opened_again(
    kernel_table: KernelRuleTable, nft: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = TableMonitor(kernel_table.port, kernel_table.writer)
    listener = Listener(monitor)
    real, broken = monitor._socket, Broken(monitor._socket)
    monkeypatch.setattr(monitor, "_socket", broken)
    nft("add", "table", "inet", "tortie")
    assert await listener.next() == Overflow()
    assert real.fileno() == -1
    nft("add", "chain", "inet", "tortie", "marker")
    assert isinstance(await listener.next(), TableChanged)
    await listener.events.aclose()
    monitor.close()


class Broken:
    """A socket whose `recv` fails."""

    def __init__(self, real: socket.socket) -> None:
        self._real = real
        self.fileno = real.fileno
        self.close = real.close

    def recv(self, _size: int) -> bytes:
        raise OSError(errno.ENOMEM, "no memory")
