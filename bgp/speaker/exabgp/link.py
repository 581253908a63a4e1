"""The connection to ExaBGP's helper: lines in, commands out, one question at a time.

ExaBGP's answers carry no reference to what they answer, and are not in the order of the commands. So there is
one exchange at a time: lines are sent, and it is over when as many `done` and `error` lines have come back as
commands went out. Events come in between, as they happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from bgp.speaker import Event
from bgp.speaker.exabgp.events import Answer, Decoder, DesyncError

_LINE_BYTES_MAX: Final = 1 << 24  # an UPDATE of 64 KiB is well under 1 MiB of JSON


class LinkLostError(Exception):
    """The helper is gone or what it says cannot be trusted. The text says why."""


@dataclass(slots=True)
class _Exchange:
    missing: int
    over: asyncio.Future[None]
    errors: int = 0
    shown: list[str] = field(default_factory=list)


class Link(asyncio.Protocol):
    """One connection of one bridge. `lost` is done, with the reason, when it is of no use any more."""

    def __init__(self, decoder: Decoder, deliver: Callable[[Event], None], ready: Callable[[Link], None]) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._decoder = decoder
        self._deliver = deliver
        self._ready = ready
        self._transport: asyncio.Transport | None = None
        self._partial = bytearray()
        self._exchange: _Exchange | None = None
        self._paused = False
        self._heard_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # a stream socket has no other
        self._transport = transport
        self._ready(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The bridge is gone, or was sent away."""
        self._lose(f"the bridge to ExaBGP is gone{f' ({exc})' if exc else ''}")

    def data_received(self, data: bytes) -> None:
        """Read whole lines, keep the rest."""
        self._heard_at = asyncio.get_running_loop().time()
        *lines, rest = data.split(b"\n")
        if not lines:
            self._partial += rest
            if len(self._partial) > _LINE_BYTES_MAX:
                self._lose("ExaBGP sent a line without end")
            return
        lines[0] = bytes(self._partial) + lines[0]
        self._partial = bytearray(rest)
        for line in lines:
            if self.lost.done():
                return
            self._take(line)

    def pause(self) -> None:
        """Read no more until `resume`: the bridge keeps what comes."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._heard_at = asyncio.get_running_loop().time()  # an answer may have waited as long as we did
            self._transport.resume_reading()

    def close(self) -> None:
        """Send the bridge away."""
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, lines: Sequence[str], timeout_s: float) -> tuple[int, list[str]]:
        """Send commands; return how many failed and what was shown.

        LinkLostError when ExaBGP says nothing at all, neither answers nor events, for `timeout_s`. While reading
        is paused that is not ExaBGP's fault.
        """
        loop = asyncio.get_running_loop()
        if self.lost.done() or self._transport is None:
            raise LinkLostError(self.lost.result() if self.lost.done() else "not connected")
        exchange = _Exchange(len(lines), loop.create_future())
        self._heard_at = loop.time()
        self._exchange = exchange
        self._transport.write("".join(f"{line}\n" for line in lines).encode("ascii"))
        while not exchange.over.done():
            patience_s = self._heard_at + timeout_s - loop.time()
            await asyncio.wait((exchange.over, self.lost), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                raise LinkLostError(self.lost.result())
            if self._paused:
                self._heard_at = loop.time()
            elif not exchange.over.done() and loop.time() >= self._heard_at + timeout_s:
                raise LinkLostError(f"ExaBGP has not answered for {timeout_s:.0f} s")
        self._exchange = None
        return exchange.errors, exchange.shown

    def _take(self, line: bytes) -> None:
        try:
            decoded = self._decoder.decode(line)
        except DesyncError as error:
            self._lose(str(error))
            return
        if not isinstance(decoded, Answer):
            for event in decoded:
                self._deliver(event)
        elif decoded.text:
            self._answer(decoded.text)

    def _answer(self, text: str) -> None:
        exchange = self._exchange
        if exchange is None or exchange.missing == 0:
            self._lose(f"ExaBGP answered what nobody asked: {text[:200]!r}")
        elif text in {"done", "error"}:
            exchange.missing -= 1
            exchange.errors += text == "error"
            if exchange.missing == 0:
                exchange.over.set_result(None)
        else:
            exchange.shown.append(text)

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
