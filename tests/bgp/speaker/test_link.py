"""One question at a time over a stream that may break anywhere."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from ipaddress import IPv4Address

import pytest

from bgp.speaker import EndOfRib, Event, Session
from bgp.speaker.exabgp.events import Decoder
from bgp.speaker.exabgp.link import Link, LinkLostError
from inet.prefix import Family

PEER = IPv4Address("10.0.0.2")
SESSION = Session(PEER, IPv4Address("10.0.0.1"), 65001, 65002, IPv4Address("10.0.0.1"), frozenset(Family))
END = (
    b'{ "exabgp": "5.0.0", "type": "update", "neighbor": { "address": { "local": "10.0.0.1", "peer": "10.0.0.2" }, '
    b'"message": { "eor": { "afi" : "ipv4", "safi" : "unicast" } } } }\n'
)


class Both:
    """A link, and the other end of its connection."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.here, self.there = socket.socketpair()
        self.there.settimeout(0)
        decoder = Decoder()
        decoder.know([SESSION])
        self.link = Link(decoder, self.heard.append, lambda _link: None)

    async def says(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.there, data)

    async def hears(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.there, 65536)


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    made = Both()
    await asyncio.get_running_loop().create_connection(lambda: made.link, sock=made.here)
    yield made
    made.link.close()
    made.there.close()
    await asyncio.wait_for(made.link.lost, 5)


async def test_an_exchange_is_over_with_as_many_answers_as_commands(both: Both) -> None:
    asked = asyncio.create_task(both.link.ask(["one", "two", "three"], 5))
    assert await both.hears() == b"one\ntwo\nthree\n"
    await both.says(b"done\nerr")
    await both.says(b"or\n" + END)
    await asyncio.sleep(0)
    assert not asked.done()
    await both.says(b"shown\ndone\n")
    assert await asked == (1, ["shown"])
    assert both.heard == [EndOfRib(PEER, Family.IPV4)]


async def test_lines_cut_anywhere_are_put_together(both: Both) -> None:
    for byte in END + END:
        await both.says(bytes([byte]))
    await asyncio.sleep(0.01)
    asked = asyncio.create_task(both.link.ask(["version"], 5))
    await both.hears()
    await both.says(b"exabgp 5.0.15\ndone\n")
    assert await asked == (0, ["exabgp 5.0.15"])
    assert len(both.heard) == 2


async def test_no_answer_loses_the_link(both: Both) -> None:
    with pytest.raises(LinkLostError, match="has not answered for 0 s"):
        await both.link.ask(["version"], 0.05)


async def test_while_reading_is_paused_the_answer_is_awaited(both: Both) -> None:
    both.link.pause()
    asked = asyncio.create_task(both.link.ask(["version"], 0.05))
    await both.hears()
    await both.says(b"done\n")
    done, _ = await asyncio.wait((asked,), timeout=0.2)
    assert not done
    both.link.resume()
    assert await asked == (0, [])


async def test_the_end_of_a_pause_is_no_end_of_patience(both: Both) -> None:
    both.link.pause()
    asked = asyncio.create_task(both.link.ask(["version"], 0.3))
    await both.hears()
    await both.says(b"done\n")
    asyncio.get_running_loop().call_later(0.01, both.link.resume)
    time.sleep(0.4)  # noqa: ASYNC251 - a busy machine: reading goes on in the moment in which patience would end
    assert await asked == (0, [])


async def test_a_closed_connection_ends_the_exchange(both: Both) -> None:
    asked = asyncio.create_task(both.link.ask(["version"], 5))
    await both.hears()
    both.there.close()
    with pytest.raises(LinkLostError, match="the bridge to ExaBGP is gone"):
        await asked
    with pytest.raises(LinkLostError):
        await both.link.ask(["version"], 5)


async def test_an_answer_nobody_asked_for_loses_the_link(both: Both) -> None:
    await both.says(b"done\n")
    assert "answered what nobody asked" in await asyncio.wait_for(asyncio.shield(both.link.lost), 5)


async def test_a_line_that_cannot_be_read_loses_the_link_and_what_follows_it(both: Both) -> None:
    await both.says(b'{ "exabgp" nonsense\n' + END)
    assert "cannot read" in await asyncio.wait_for(asyncio.shield(both.link.lost), 5)
    assert both.heard == []


async def test_a_line_without_end_loses_the_link(both: Both) -> None:
    sending = asyncio.create_task(both.says(b"x" * ((1 << 24) + 65536)))
    assert "without end" in await asyncio.wait_for(asyncio.shield(both.link.lost), 10)
    sending.cancel()
