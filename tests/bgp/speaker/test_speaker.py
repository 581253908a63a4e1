"""The speaker's own part: its start, what peers are told, what is heard, its end. Beside it: sessions, and faults.

ExaBGP is a scripted one, played from the other end of the bridge's socket; `test_interop_*.py` have the real one.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from bgp.speaker import EndOfRib, Event, Session, SessionDown, SessionUp, SpeakerError
from bgp.speaker.exabgp import ExaBGPSpeaker, speaker
from inet.prefix import Family
from tests.bgp.speaker.lab import Listener, until
from tests.bgp.speaker.scripted import OTHER, PREFIXES, V4, Stage, configured, files_in, path, told


class TestStart:
    async def test_it_is_there_when_it_takes_commands(self, made: ExaBGPSpeaker, stage: Stage) -> None:
        assert stage.life.told[0] == "version"
        health = made.health()
        assert (health.running, health.pid, health.restarts, health.last_error) == (True, 4711, 0, "")

    @pytest.mark.usefixtures("made")
    async def test_nobody_else_reads_the_passwords_or_speaks_for_the_bridge(self, directory: Path) -> None:
        files = [directory, *(directory / name for name in files_in(directory))]
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in files}
        assert modes == {"run": 0o700, "exabgp.conf": 0o600, "exabgp.sock": 0o600}

    async def test_a_process_that_ends_at_once_is_an_error_with_its_reason(self, stage: Stage, directory: Path) -> None:
        stage.never_calls = True
        made = ExaBGPSpeaker(directory)
        starting = asyncio.create_task(made.start())
        await until(lambda: stage.lives, "a process is started")
        stage.life.end("ExaBGP exited with status 1: no such file")
        with pytest.raises(SpeakerError, match="exited with status 1: no such file"):
            await starting
        assert not made.health().running
        assert files_in(directory) == {"exabgp.conf"}

    async def test_a_bridge_that_never_calls_is_an_error(
        self, stage: Stage, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_START_S", 0.05)
        stage.never_calls, stage.last_words = True, "reading configuration"
        with pytest.raises(SpeakerError, match="ExaBGP does not call within 0 s: reading configuration"):
            await ExaBGPSpeaker(directory).start()
        assert stage.life.ended.done()

    async def test_a_directory_that_cannot_be_used_is_an_error(self, stage: Stage, directory: Path) -> None:
        os.mknod(directory)  # a file
        with pytest.raises(SpeakerError, match="cannot use run to run ExaBGP: "):
            await ExaBGPSpeaker(directory).start()
        assert not stage.lives

    async def test_it_can_be_stopped_and_started_again(self, stage: Stage, directory: Path) -> None:
        made = ExaBGPSpeaker(directory)
        for life in (1, 2):
            await made.start()
            await configured(made, V4)
            assert (len(stage.lives), made.health().restarts) == (life, 0)
            await made.stop(graceful=True)
            assert not made.health().running


class TestAnnouncements:
    async def test_an_established_peer_is_told_what_is_announced_and_withdrawn(
        self,
        made: ExaBGPSpeaker,
        stage: Stage,
        heard: Listener,
        session: Session,
    ) -> None:
        await configured(made, session)
        stage.life.up(session)
        up = await heard.until(SessionUp, session.peer)
        assert (up.families, up.hold_time_s) == (frozenset(Family), 9)
        for family, prefix in PREFIXES.items():
            made.announce(session.peer, prefix, path(family))
            line = await told(stage, "announce", str(prefix))
            assert line.startswith(f"neighbor {session.peer} local-ip {session.local_address} announce")
            made.end_of_rib(session.peer, family)
            await told(stage, "eor", family.label.lower())
            made.refresh(session.peer, family)
            await told(stage, "route-refresh", family.label.lower())
            made.withdraw(session.peer, prefix)
            await told(stage, "withdraw", str(prefix))
        await until(lambda: made.health().pending_announcements == 0, "all is acknowledged")

    async def test_a_peer_that_is_not_up_is_told_nothing(
        self, made: ExaBGPSpeaker, stage: Stage, heard: Listener, session: Session
    ) -> None:
        await configured(made, session, OTHER)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        stage.life.up(OTHER)
        await heard.until(SessionUp)
        made.announce(OTHER.peer, PREFIXES[Family.IPV6], path(Family.IPV6))
        await told(stage, "announce", "fd42::/64")
        assert not [line for line in stage.life.told if "10.42.0.0/24" in line]

    async def test_a_session_that_comes_back_begins_with_nothing_told(
        self, made: ExaBGPSpeaker, stage: Stage, heard: Listener, session: Session
    ) -> None:
        await configured(made, session)
        stage.life.up(session)
        await heard.until(SessionUp)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        await told(stage, "announce")
        stage.life.says("state", session, state="down", reason="notification received (6,4)")
        down = await heard.until(SessionDown)
        assert (down.was_established, down.notification) == (True, (6, 4))
        stage.life.told.clear()
        stage.life.up(session)
        await heard.until(SessionUp, count=2)
        made.announce(session.peer, PREFIXES[Family.IPV6], path(Family.IPV6))
        await told(stage, "announce", "fd42::/64")
        assert not [line for line in stage.life.told if "10.42.0.0/24" in line]

    async def test_a_failed_attempt_does_not_end_what_is_told(
        self, made: ExaBGPSpeaker, stage: Stage, heard: Listener
    ) -> None:
        await configured(made, V4)
        stage.life.says("state", V4, state="down", reason="out loop, peer reset, message [closing connection]")
        down = await heard.until(SessionDown)
        assert not down.was_established
        stage.life.up(V4)
        await heard.until(SessionUp)
        made.announce(V4.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        await told(stage, "announce")

    async def test_a_route_that_is_refused_is_named_and_the_others_go(
        self, made: ExaBGPSpeaker, stage: Stage, heard: Listener
    ) -> None:
        stage.refuses = {"10.42.0.0/24"}
        await configured(made, V4)
        stage.life.up(V4)
        await heard.until(SessionUp)
        for family, prefix in PREFIXES.items():
            made.announce(V4.peer, prefix, path(family))
        await until(lambda: "ExaBGP refused" in made.health().last_error, "the route is named")
        assert "10.42.0.0/24" in made.health().last_error
        assert made.health().running
        await told(stage, "announce", "fd42::/64")


class TestEvents:
    async def test_a_consumer_that_is_slow_makes_the_process_wait_and_loses_nothing(
        self, made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_EVENTS_HIGH", 5)
        monkeypatch.setattr(speaker, "_EVENTS_LOW", 2)
        await configured(made, V4)
        stage.life.up(V4)
        for number in range(20):
            stage.life.says("update", V4, message={"eor": {"afi": f"ipv{4 + 2 * (number % 2)}", "safi": "unicast"}})
        link = made._link
        assert link is not None
        await until(lambda: link._paused, "reading is paused")
        events: list[Event] = []
        async for event in made.events():
            events.append(event)
            if len(events) == 21:
                break
        assert isinstance(events[0], SessionUp)
        assert events[1:] == [EndOfRib(V4.peer, family) for _ in range(10) for family in Family]
        assert not link._paused

    async def test_what_no_task_should_end_with_is_seen_by_whoever_listens(
        self, made: ExaBGPSpeaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(made, "_sift", fail)
        made.configure({V4.peer: V4})
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(anext(made.events()), 20)


class TestStop:
    @pytest.mark.parametrize("graceful", [True, False])
    async def test_a_cease_is_sent_where_peers_are_to_forget_us(
        self, stage: Stage, directory: Path, *, graceful: bool
    ) -> None:
        made = ExaBGPSpeaker(directory)
        await made.start()
        await configured(made, V4)
        life = stage.life
        await made.stop(graceful=graceful)
        assert ("shutdown" in life.told) is not graceful
        assert life.ended.result() == ("killed" if graceful else "shut down")
        assert files_in(directory) == {"exabgp.conf"}
        assert (made.health().running, made.health().restarts) == (False, 0)

    async def test_a_process_that_does_not_listen_any_more_is_stopped_all_the_same(
        self, stage: Stage, directory: Path
    ) -> None:
        made = ExaBGPSpeaker(directory)
        await made.start()
        stage.life.is_deaf = True
        await made.stop(graceful=False)
        assert stage.life.ended.result() == "killed"

    async def test_what_never_was_started_can_be_stopped(self, directory: Path) -> None:
        made = ExaBGPSpeaker(directory)
        made.configure({V4.peer: V4})
        await made.stop(graceful=False)
        assert made.health().sessions_out_of_sync == {V4.peer}
