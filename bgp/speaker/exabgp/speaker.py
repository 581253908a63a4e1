"""ExaBGP as the `Speaker`: a supervised process that is told what to do and checked for having done it.

Three tasks. The *supervisor* keeps one ExaBGP running and starts it anew, with a growing pause, when it or its
bridge ends, stops answering or says what cannot be read. The *configurator* turns sessions into a file on disk
that `exabgp validate` accepts, and tries again while it cannot. The *conductor*, one for each life of the process,
has ExaBGP take over the file, checks that it did, sends announcements, and asks for a sign of life when there is
nothing else to ask.

A session that ExaBGP's parser refuses is left out, with the reason in `health`; the others are not kept waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from bgp.path import Attributes, PeerKey
from bgp.speaker import Event, Session, SessionDown, SessionUp, SpeakerError, SpeakerHealth, SpeakerLost
from bgp.speaker.exabgp import config, process
from bgp.speaker.exabgp.commands import AdjRibOut
from bgp.speaker.exabgp.events import Decoder
from bgp.speaker.exabgp.link import Link, LinkLostError
from inet.prefix import Family, Prefix

_START_S: Final = 15.0
_RESTART_PAUSES_S: Final = (0.1, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
_HEALTHY_S: Final = 60.0
_PING_S: Final = 10.0
_ANSWER_S: Final = 3.0  # no less: a machine may be busy, and giving ExaBGP up ends every session
_RETRY_S: Final = 5.0
_TAKE_OVER_PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_LOOKS: Final = 3
_EVENTS_HIGH: Final = 10_000
_EVENTS_LOW: Final = 5_000


class ExaBGPSpeaker:
    """The `Speaker` of a real node. `run_directory` is ours alone: the configuration and a socket are in it."""

    def __init__(self, run_directory: Path = Path("/run/tortie")) -> None:
        self._file = run_directory / "exabgp.conf"
        self._socket = run_directory / "exabgp.sock"
        self._wanted: dict[PeerKey, Session] = {}
        self._accepted: dict[PeerKey, Session] = {}  # what the file on disk says
        self._taken_over: dict[PeerKey, Session] = {}  # what the process was seen to have
        self._refused: dict[PeerKey, str] = {}
        self._text = ""  # of the file on disk
        self._file_error = ""
        self._last_error = ""
        self._restarts = 0
        self._events: deque[Event] = deque()
        self._event = asyncio.Event()
        self._changed = asyncio.Event()  # for the configurator
        self._work = asyncio.Event()  # for the conductor
        self._decoder = Decoder()
        self._adj_rib_out = AdjRibOut()
        self._child: process.Child | None = None
        self._link: Link | None = None
        self._linked: asyncio.Future[Link] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None

    # --- what the user says ---

    async def start(self) -> None:
        """Start the process. Returns when it takes commands; raises SpeakerError when it cannot."""
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._text = self._render(self._accepted)
            self._write(self._text)
            self._socket.unlink(missing_ok=True)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(self._new_link, self._socket)
            self._socket.chmod(0o600)
        except OSError as error:
            raise SpeakerError(f"cannot use {self._file.parent} to run ExaBGP: {error}") from error
        self._changed.set()
        self._spawn(self._keep_file())
        try:
            await self._launch()
        except (SpeakerError, LinkLostError, OSError) as error:
            await self.stop(graceful=True)
            raise SpeakerError(str(error)) from error
        self._spawn(self._supervise())

    def configure(self, sessions: Mapping[PeerKey, Session]) -> None:
        """Say which sessions there should be, all of them."""
        if dict(sessions) != self._wanted:
            self._wanted = dict(sessions)
            self._changed.set()

    def announce(self, peer: PeerKey, prefix: Prefix, attributes: Attributes) -> None:
        """Put a path into the Adj-RIB-Out of an established peer."""
        self._adj_rib_out.announce(peer, prefix, attributes)
        self._work.set()

    def withdraw(self, peer: PeerKey, prefix: Prefix) -> None:
        """Take a prefix out of the Adj-RIB-Out of a peer."""
        self._adj_rib_out.withdraw(peer, prefix)
        self._work.set()

    def end_of_rib(self, peer: PeerKey, family: Family) -> None:
        """Send End-of-RIB once everything announced so far has been sent."""
        self._adj_rib_out.end_of_rib(peer, family)
        self._work.set()

    def refresh(self, peer: PeerKey, family: Family) -> None:
        """Ask an established peer to say everything of a family again (RFC 2918)."""
        self._adj_rib_out.refresh(peer, family)
        self._work.set()

    async def events(self) -> AsyncIterator[Event]:
        """Give everything heard, in order."""
        while True:
            while not self._events:
                if self._failure is not None:
                    raise self._failure
                self._event.clear()
                await self._event.wait()
            event = self._events.popleft()
            if len(self._events) < _EVENTS_LOW and self._link is not None:
                self._link.resume()
            yield event

    def health(self) -> SpeakerHealth:
        """Return the present condition of the speaker."""
        running = self._child is not None and self._link is not None
        listen_failures = self._child.listen_failures if self._child is not None else ""
        refused_routes = [f"ExaBGP refused {line!r}" for line in self._adj_rib_out.refused.values()]
        refused = [f"session {peer}: {why}" for peer, why in self._refused.items()]
        ended = "" if running else self._last_error
        errors = [ended, self._file_error, *refused, listen_failures, *refused_routes[:1]]
        return SpeakerHealth(
            running=running,
            pid=self._child.pid if running and self._child is not None else None,
            restarts=self._restarts,
            last_error="; ".join(error for error in errors if error),
            sessions_out_of_sync=frozenset(
                peer for peer, session in self._wanted.items() if self._taken_over.get(peer) != session
            ),
            pending_announcements=self._adj_rib_out.pending,
            refused=dict(self._refused),
        )

    async def stop(self, *, graceful: bool) -> None:
        """End every session: with `graceful`, without a NOTIFICATION, so that peers keep our routes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._child is not None and self._link is not None and not graceful:
            with contextlib.suppress(LinkLostError):
                await self._link.ask(["shutdown"], 0.2)
            await self._child.kill(after_s=0.8)
        await self._end_process()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        with contextlib.suppress(OSError):
            self._socket.unlink()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Have whoever consumes events see what none of the tasks should end with."""
        if not task.cancelled():
            self._failure = task.exception()
            self._event.set()

    # --- the process ---

    async def _supervise(self) -> None:
        """Keep one process running."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            began = loop.time()
            try:
                if self._link is None:
                    await self._launch()
                reason = await self._serve()
            except (SpeakerError, LinkLostError, OSError) as error:
                reason = str(error)
            was_running = self._link is not None
            await self._end_process()
            self._last_error = reason
            self._restarts += 1
            if was_running:
                self._deliver(SpeakerLost(reason))
            failures = 0 if loop.time() - began > _HEALTHY_S else failures + 1
            await asyncio.sleep(_RESTART_PAUSES_S[min(failures, len(_RESTART_PAUSES_S) - 1)])

    async def _launch(self) -> None:
        """Start ExaBGP and wait until its bridge has called."""
        self._linked = asyncio.get_running_loop().create_future()
        starting = asyncio.create_task(process.Child.start(self._file))
        try:
            self._child = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._child = await starting  # `stop` must know of it
            raise
        ended = asyncio.create_task(self._child.wait())
        try:
            await asyncio.wait((ended, self._linked), timeout=_START_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise SpeakerError(ended.result())
            if not self._linked.done():
                raise SpeakerError(f"ExaBGP does not call within {_START_S:.0f} s: {self._child.last_words}")
        finally:
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
        await self._linked.result().ask(["version"], _START_S)

    async def _serve(self) -> str:
        """Run the process until it is lost; return why."""
        assert self._child is not None  # noqa: S101  # launched
        assert self._link is not None  # noqa: S101  # launched
        ended = asyncio.create_task(self._child.wait())
        conductor = asyncio.create_task(self._conduct(self._child, self._link))
        try:
            await asyncio.wait((ended, conductor, self._link.lost), return_when=asyncio.FIRST_COMPLETED)
            # A bridge that is gone may be the first sign of an ExaBGP that is: its last words say more.
            await asyncio.wait((ended,), timeout=0.1)
            if ended.done() or self._child.has_ended:
                return await ended
            if conductor.done():
                conductor.result()
            return self._link.lost.result()
        finally:
            for task in (ended, conductor):
                task.cancel()
            await asyncio.gather(ended, conductor, return_exceptions=True)

    async def _end_process(self) -> None:
        if self._linked is not None and self._linked.done() and not self._linked.cancelled():
            self._linked.result().close()
        self._linked = self._link = None
        if self._child is not None:
            await self._child.kill()
            self._child = None
        self._decoder.forget_state()
        self._adj_rib_out = AdjRibOut()
        self._taken_over = {}

    def _new_link(self) -> Link:
        return Link(self._decoder, self._deliver, self._link_ready)

    def _link_ready(self, link: Link) -> None:
        if self._linked is None or self._linked.done():
            link.close()  # a bridge of a process that is gone already
        else:
            self._link = link  # now, not when `_launch` has its turn: sessions may be told of by then
            self._linked.set_result(link)

    def _deliver(self, event: Event) -> None:
        if isinstance(event, SessionUp):
            if event.peer in self._accepted:  # else it is on its way out
                self._adj_rib_out.session_up(event.peer, self._accepted[event.peer].local_address)
        elif isinstance(event, SessionDown) and event.was_established:
            self._adj_rib_out.session_down(event.peer)
        self._events.append(event)
        self._event.set()
        if len(self._events) > _EVENTS_HIGH and self._link is not None:
            self._link.pause()

    # --- what it is told ---

    async def _conduct(self, child: process.Child, link: Link) -> None:
        """Tell ExaBGP what it should know, one exchange at a time. Ends with LinkLostError."""
        loop = asyncio.get_running_loop()
        listen_again_at = loop.time()
        while True:
            self._work.clear()
            hold_time_s = min((session.hold_time_s or 90 for session in self._accepted.values()), default=90)
            timeout_s = max(hold_time_s / 3, _ANSWER_S)
            if self._taken_over is not self._accepted or (child.listen_failures and loop.time() >= listen_again_at):
                await self._take_over(child, link, timeout_s)
                listen_again_at = loop.time() + _RETRY_S
            batch = self._adj_rib_out.next_batch()
            if batch:
                errors, _ = await link.ask([command.line for command in batch], timeout_s)
                for number in range(len(batch)):
                    self._adj_rib_out.answered(error=number < errors)
                continue
            try:
                await asyncio.wait_for(self._work.wait(), _RETRY_S if child.listen_failures else _PING_S)
            except TimeoutError:
                await link.ask(["version"], timeout_s)

    async def _take_over(self, child: process.Child, link: Link, timeout_s: float) -> None:
        """Have ExaBGP read its file and see that it has exactly those sessions; LinkLostError when it will not."""
        for pause_s in _TAKE_OVER_PAUSES_S:
            sessions = self._accepted
            reloaded = child.expect_reload()
            await link.ask(["reload"], timeout_s)
            await asyncio.wait((reloaded, link.lost), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if reloaded.done() and reloaded.result():
                for _ in range(_LOOKS):  # a peer that goes is still shown in the round of the loop that closes it
                    _, shown = await link.ask(["show neighbor json"], timeout_s)
                    if _neighbours(shown) == {_identity(session) for session in sessions.values()}:
                        self._taken_over = sessions
                        if sessions is self._accepted:
                            self._decoder.know_only(sessions.values())
                        return
            await asyncio.sleep(pause_s)
        raise LinkLostError(f"ExaBGP does not take over its configuration: {child.last_words}")

    # --- the file ---

    async def _keep_file(self) -> None:
        """Keep the file on disk what the user wants."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            wanted = self._wanted
            try:
                accepted, self._refused = await self._sift(wanted)
                text = self._render(accepted)
                self._write(text)
            except OSError as error:
                self._file_error = (
                    f"cannot write {self._file}: {error.strerror or error}; the sessions stay as they are"
                )
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _RETRY_S)
                self._changed.set()
                continue
            self._text = text
            self._file_error = ""
            self._decoder.know(accepted.values())
            self._accepted = accepted
            self._work.set()

    async def _sift(self, wanted: Mapping[PeerKey, Session]) -> tuple[dict[PeerKey, Session], dict[PeerKey, str]]:
        """Part the sessions ExaBGP can have from those it cannot, with the reason."""
        refused: dict[PeerKey, str] = {}
        good: dict[PeerKey, Session] = {}
        for peer, session in wanted.items():
            try:
                config.render_session(session)
            except ValueError as error:
                refused[peer] = str(error)
            else:
                good[peer] = session
        accepted: dict[PeerKey, Session] = {}
        groups = [list(good)]
        while groups:
            group = groups.pop()
            trial = accepted | {peer: good[peer] for peer in group}
            why = await self._validate(trial) if group else ""
            if not why:
                accepted = trial
            elif len(group) == 1:
                refused[group[0]] = why
            else:
                groups += [group[len(group) // 2 :], group[: len(group) // 2]]
        return accepted, refused

    async def _validate(self, sessions: Mapping[PeerKey, Session]) -> str:
        text = self._render(sessions)
        if text == self._text:
            return ""
        trial = self._file.with_suffix(".trial")
        try:
            self._write(text, trial)
            return await process.validate(trial)
        finally:
            trial.unlink(missing_ok=True)

    def _render(self, sessions: Mapping[PeerKey, Session]) -> str:
        return config.render(sessions.values(), process.bridge_command(self._socket))

    def _write(self, text: str, path: Path | None = None) -> None:
        """Put the text in the place of the file, whole or not at all."""
        path = path or self._file
        unfinished = path.with_suffix(".new")
        try:
            descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def _identity(session: Session) -> tuple[object, ...]:
    """Return what ExaBGP shows of a session."""
    return (
        str(session.peer).partition("%")[0],
        str(session.local_address).partition("%")[0],
        session.peer_asn,
        session.local_asn,
        str(session.router_id),
        session.hold_time_s,
    )


def _neighbours(shown: list[str]) -> set[tuple[object, ...]]:
    try:
        return {
            (
                neighbour["peer"]["address"],
                neighbour["local"]["address"],
                neighbour["peer"]["as"],
                neighbour["local"]["as"],
                neighbour["local"]["id"],
                neighbour["local"]["hold"],
            )
            for neighbour in json.loads("".join(shown))
        }
    except (ValueError, KeyError, TypeError) as error:
        raise LinkLostError(f"cannot read ExaBGP's neighbours: {error!r}") from error
