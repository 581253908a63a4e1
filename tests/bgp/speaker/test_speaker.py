"""The speaker's own part: what it tells ExaBGP, what it makes of answers, when it starts it anew.

The process is a scripted one, played from the other end of the bridge's socket; `test_interop_*.py` have the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import stat
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from bgp.path import AsPath, Attributes
from bgp.speaker import EndOfRib, Event, Secret, Session, SessionDown, SessionUp, SpeakerError, SpeakerLost
from bgp.speaker.exabgp import ExaBGPSpeaker, process, speaker
from inet.prefix import Family, Prefix
from tests.bgp.speaker.lab import Listener, until
from tests.bgp.speaker.scripted import Stage, text_of

V4 = Session(
    peer=IPv4Address("10.0.0.2"),
    local_address=IPv4Address("10.0.0.1"),
    local_asn=65001,
    peer_asn=65002,
    router_id=IPv4Address("10.0.0.1"),
    families=frozenset(Family),
)
V6 = dataclasses.replace(V4, peer=IPv6Address("fd00::2"), local_address=IPv6Address("fd00::1"))
OTHER = dataclasses.replace(V4, peer=IPv4Address("10.0.0.3"))
PREFIXES = {Family.IPV4: Prefix.parse("10.42.0.0/24"), Family.IPV6: Prefix.parse("fd42::/64")}


def files_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage()
    monkeypatch.setattr(process.Child, "start", stage.start)
    monkeypatch.setattr(process, "validate", stage.validate)
    return stage


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path_factory.mktemp("s"))  # a socket's path may have 107 bytes
    return Path("run")


@pytest.fixture
async def made(stage: Stage, directory: Path) -> AsyncIterator[ExaBGPSpeaker]:
    """A speaker that is started."""
    del stage
    made = ExaBGPSpeaker(directory)
    await made.start()
    yield made
    await made.stop(graceful=True)


@pytest.fixture
async def listener(made: ExaBGPSpeaker) -> AsyncIterator[Listener]:
    listener = Listener(made)
    yield listener
    await listener.close()


async def configured(made: ExaBGPSpeaker, *sessions: Session) -> None:
    made.configure({each.peer: each for each in sessions})
    await until(lambda: not made.health().sessions_out_of_sync, "the sessions are taken over")


async def told(stage: Stage, *words: str) -> str:
    """Wait until a command with these words was sent, and return it."""

    def found() -> list[str]:
        return [line for line in stage.life.told if all(word in line for word in words)]

    await until(found, f"{words} in {stage.life.told}")
    return found()[0]


def path(family: Family) -> Attributes:
    return Attributes(next_hop=ip_address("10.0.0.1" if family is Family.IPV4 else "fd00::1"), as_path=AsPath((65001,)))


@pytest.fixture(params=[V4, V6], ids=["IPv4", "IPv6"])
def session(request: pytest.FixtureRequest) -> Session:
    chosen: Session = request.param
    return chosen


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


class TestSessions:
    async def test_sessions_are_validated_written_and_seen_in_the_process(
        self, made: ExaBGPSpeaker, stage: Stage, directory: Path, session: Session
    ) -> None:
        made.configure({session.peer: session})
        assert made.health().sessions_out_of_sync == {session.peer}
        await until(lambda: not made.health().sessions_out_of_sync, "it is taken over")
        text = text_of(directory / "exabgp.conf")
        assert stage.validated == [text]
        assert f"neighbor {session.peer} {{" in text
        assert stage.life.told[1:3] == ["reload", "show neighbor json"]

    async def test_the_same_sessions_again_are_no_work(self, made: ExaBGPSpeaker, stage: Stage) -> None:
        await configured(made, V4, V6)
        before = list(stage.life.told)
        made.configure({each.peer: each for each in (V6, V4)})
        made.end_of_rib(V4.peer, Family.IPV4)  # wakes the conductor, which has nothing to say: no session is up
        await configured(made, V4, V6, OTHER)
        assert stage.life.told[len(before) :] == ["reload", "show neighbor json"]
        assert len(stage.validated) == 2

    async def test_sessions_that_go_are_gone_from_file_and_process(
        self, made: ExaBGPSpeaker, stage: Stage, directory: Path
    ) -> None:
        await configured(made, V4, V6)
        made.configure({V6.peer: V6})
        await until(lambda: [each["peer"]["address"] for each in stage.life.neighbours] == ["fd00::2"], "one is left")
        made.configure({})
        await until(lambda: not stage.life.neighbours, "none is left")
        assert "neighbor" not in text_of(directory / "exabgp.conf")

    async def test_a_session_that_cannot_be_is_left_out_and_the_others_are_not(
        self, made: ExaBGPSpeaker, stage: Stage
    ) -> None:
        stage.invalid = {"neighbor 10.0.0.3", "neighbor 10.0.0.5"}
        many = [dataclasses.replace(V4, peer=IPv4Address(f"10.0.0.{number}")) for number in range(2, 10)]
        made.configure({each.peer: each for each in many})
        bad = {IPv4Address("10.0.0.3"), IPv4Address("10.0.0.5")}
        await until(lambda: made.health().sessions_out_of_sync == bad, "the others are taken over")
        health = made.health()
        assert health.refused == {peer: f"cannot have neighbor {peer}" for peer in bad}
        assert "session 10.0.0.3: cannot have neighbor 10.0.0.3" in health.last_error
        assert len(stage.validated) < len(many) * 2  # halves, not one by one
        stage.invalid = set()
        changed = {each.peer: dataclasses.replace(each, hold_time_s=30) for each in many}
        made.configure(changed)
        await until(lambda: not made.health().sessions_out_of_sync, "all of them")
        assert made.health().last_error == ""

    async def test_what_cannot_be_written_at_all_is_not_even_tried(self, made: ExaBGPSpeaker, stage: Stage) -> None:
        made.configure({V4.peer: dataclasses.replace(V4, hold_time_s=1), V6.peer: V6})
        await until(lambda: made.health().sessions_out_of_sync == {V4.peer}, "the other is taken over")
        assert "hold_time_s: 1 is not a number from 3 to 65535" in made.health().refused[V4.peer]
        assert not [text for text in stage.validated if "10.0.0.2" in text]

    async def test_a_file_that_cannot_be_written_leaves_the_sessions_as_they_are(
        self, made: ExaBGPSpeaker, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_RETRY_S", 0.05)
        await configured(made, V4)
        before = text_of(directory / "exabgp.conf")
        (directory / "exabgp.new").mkdir()
        made.configure({V4.peer: V4, V6.peer: V6})
        said = "cannot write run/exabgp.conf: Is a directory; the sessions stay as they are"
        await until(lambda: made.health().last_error == said, "health says so")
        assert text_of(directory / "exabgp.conf") == before
        assert made.health().sessions_out_of_sync == {V6.peer}
        (directory / "exabgp.new").rmdir()
        await until(lambda: not made.health().sessions_out_of_sync, "there is room again")
        assert made.health().last_error == ""

    async def test_no_unvalidated_text_and_no_trial_is_left_in_the_directory(
        self, made: ExaBGPSpeaker, stage: Stage, directory: Path
    ) -> None:
        stage.invalid = {"10.0.0.2"}
        made.configure({V4.peer: dataclasses.replace(V4, password=Secret("s3cret"))})
        await until(lambda: made.health().refused, "it is refused")
        assert files_in(directory) == {"exabgp.conf", "exabgp.sock"}
        assert "10.0.0.2" not in text_of(directory / "exabgp.conf")

    async def test_a_reload_that_is_not_taken_is_asked_for_again(self, made: ExaBGPSpeaker, stage: Stage) -> None:
        answers = iter([False, False, True])
        stage.takes_over = lambda: next(answers)
        await configured(made, V4)
        assert stage.life.told.count("reload") == 3
        assert made.health().restarts == 0

    @pytest.mark.parametrize("what", ["nothing", "another AS", "another hold time", "no JSON", "no neighbours"])
    async def test_a_process_that_never_has_the_sessions_is_replaced(
        self,
        made: ExaBGPSpeaker,
        stage: Stage,
        listener: Listener,
        monkeypatch: pytest.MonkeyPatch,
        what: str,
    ) -> None:
        monkeypatch.setattr(speaker, "_TAKE_OVER_PAUSES_S", (0.0, 0.0))

        def shows(neighbours: list[dict[str, Any]]) -> object:
            if len(stage.lives) > 1 or not neighbours:
                return neighbours
            (only,) = neighbours
            return {
                "nothing": [],
                "another AS": [only | {"peer": only["peer"] | {"as": 1}}],
                "another hold time": [only | {"local": only["local"] | {"hold": 90000}}],
                "no JSON": "neighbour",
                "no neighbours": [{}],
            }[what]

        stage.shows = shows
        await configured(made, V4)
        assert (made.health().restarts, len(stage.lives)) == (1, 2)
        lost = await listener.until(SpeakerLost)
        assert "take over its configuration" in lost.reason or "cannot read ExaBGP's neighbours" in lost.reason
        assert made.health().pid == 4712


class TestAnnouncements:
    async def test_an_established_peer_is_told_what_is_announced_and_withdrawn(
        self,
        made: ExaBGPSpeaker,
        stage: Stage,
        listener: Listener,
        session: Session,
    ) -> None:
        await configured(made, session)
        stage.life.up(session)
        up = await listener.until(SessionUp, session.peer)
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
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener, session: Session
    ) -> None:
        await configured(made, session, OTHER)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        stage.life.up(OTHER)
        await listener.until(SessionUp)
        made.announce(OTHER.peer, PREFIXES[Family.IPV6], path(Family.IPV6))
        await told(stage, "announce", "fd42::/64")
        assert not [line for line in stage.life.told if "10.42.0.0/24" in line]

    async def test_a_session_that_comes_back_begins_with_nothing_told(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener, session: Session
    ) -> None:
        await configured(made, session)
        stage.life.up(session)
        await listener.until(SessionUp)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        await told(stage, "announce")
        stage.life.says("state", session, state="down", reason="notification received (6,4)")
        down = await listener.until(SessionDown)
        assert (down.was_established, down.notification) == (True, (6, 4))
        stage.life.told.clear()
        stage.life.up(session)
        await listener.until(SessionUp, count=2)
        made.announce(session.peer, PREFIXES[Family.IPV6], path(Family.IPV6))
        await told(stage, "announce", "fd42::/64")
        assert not [line for line in stage.life.told if "10.42.0.0/24" in line]

    async def test_a_failed_attempt_does_not_end_what_is_told(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener
    ) -> None:
        await configured(made, V4)
        stage.life.says("state", V4, state="down", reason="out loop, peer reset, message [closing connection]")
        down = await listener.until(SessionDown)
        assert not down.was_established
        stage.life.up(V4)
        await listener.until(SessionUp)
        made.announce(V4.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        await told(stage, "announce")

    async def test_a_route_that_is_refused_is_named_and_the_others_go(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener
    ) -> None:
        stage.refuses = {"10.42.0.0/24"}
        await configured(made, V4)
        stage.life.up(V4)
        await listener.until(SessionUp)
        for family, prefix in PREFIXES.items():
            made.announce(V4.peer, prefix, path(family))
        await until(lambda: "ExaBGP refused" in made.health().last_error, "the route is named")
        assert "10.42.0.0/24" in made.health().last_error
        assert made.health().running
        await told(stage, "announce", "fd42::/64")


class TestFaults:
    async def test_a_process_that_ends_is_started_anew_and_everything_is_said_again(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener, session: Session
    ) -> None:
        await configured(made, session)
        stage.life.up(session)
        await listener.until(SessionUp)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        stage.life.end("ExaBGP killed by SIGSEGV")
        lost = await listener.until(SpeakerLost)
        assert lost.reason == "ExaBGP killed by SIGSEGV"
        await until(lambda: made.health().running, "it runs again")
        await until(lambda: not made.health().sessions_out_of_sync, "with its sessions")
        assert (made.health().restarts, made.health().pid, made.health().last_error) == (1, 4712, "")
        assert made.health().pending_announcements == 0  # for its user to say again, once the session is up
        stage.life.up(session)
        await listener.until(SessionUp, count=2)
        made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
        await told(stage, "announce", "10.42.0.0/24")

    async def test_why_it_is_not_there_is_told_until_it_is(
        self, made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_START_S", 0.05)
        stage.never_calls = True
        stage.life.end("ExaBGP killed by SIGKILL")
        await until(lambda: made.health().restarts >= 3, "it is tried again and again")
        assert "does not call" in made.health().last_error
        assert (made.health().running, made.health().pid) == (False, None)
        stage.never_calls = False
        monkeypatch.setattr(speaker, "_START_S", 20.0)
        await until(lambda: made.health().running, "it is back")
        assert made.health().last_error == ""

    @pytest.mark.parametrize("healthy_s", [60.0, -1.0], ids=["at once", "after a long life"])
    async def test_a_life_that_ends_at_once_is_followed_by_a_longer_pause(
        self, made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch, healthy_s: float
    ) -> None:
        pauses: list[float] = []
        real = asyncio.sleep

        async def sleep(seconds: float) -> None:
            if seconds in speaker._RESTART_PAUSES_S:
                pauses.append(seconds)
                seconds = 0
            await real(seconds)

        monkeypatch.setattr(speaker, "_START_S", 0.001)
        monkeypatch.setattr(speaker, "_HEALTHY_S", healthy_s)
        monkeypatch.setattr(asyncio, "sleep", sleep)
        stage.never_calls = True
        stage.life.end("ExaBGP killed by SIGKILL")
        await until(lambda: len(pauses) >= 10, "ten attempts")
        assert made.health().restarts >= 10
        growing = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
        assert pauses[:10] == (growing if healthy_s > 0 else [0.1] * 10)

    async def test_attempts_in_vain_are_no_news_after_the_first(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_START_S", 0.05)
        stage.never_calls = True
        stage.life.end("ExaBGP killed by SIGKILL")
        await until(lambda: made.health().restarts >= 3, "it is tried again and again")
        assert len(listener.of(SpeakerLost)) == 1

    async def test_a_process_that_answers_no_more_is_replaced(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_PING_S", 0.05)
        monkeypatch.setattr(speaker, "_ANSWER_S", 0.1)
        await configured(made, dataclasses.replace(V4, hold_time_s=3))
        await until(lambda: stage.life.told.count("version") >= 2, "a sign of life is asked for")
        stage.life.is_deaf = True
        lost = await listener.until(SpeakerLost)
        assert "has not answered" in lost.reason
        await until(lambda: len(stage.lives) == 2, "another is started")
        assert stage.lives[0].ended.done()

    async def test_what_cannot_be_read_ends_this_life(
        self, made: ExaBGPSpeaker, stage: Stage, listener: Listener
    ) -> None:
        await configured(made, V4)
        stage.life.says("update", OTHER)  # a session that nobody has asked for
        lost = await listener.until(SpeakerLost)
        assert "no session with 10.0.0.3" in lost.reason
        await until(lambda: len(stage.lives) == 2, "another is started")

    async def test_a_bridge_of_a_life_that_is_over_is_sent_away(self, made: ExaBGPSpeaker, directory: Path) -> None:
        assert made.health().running
        reader, writer = await asyncio.open_unix_connection(directory / "exabgp.sock")
        async with asyncio.timeout(20):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert (made.health().running, made.health().restarts) == (True, 0)

    async def test_a_port_that_cannot_be_had_is_told_and_tried_again(
        self, made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(speaker, "_RETRY_S", 0.05)
        stage.life.listen_failures = "cannot listen on 10.0.0.1:179: the port is in use"
        await configured(made, V4)
        assert made.health().last_error == "cannot listen on 10.0.0.1:179: the port is in use"
        before = stage.life.told.count("reload")
        await until(lambda: stage.life.told.count("reload") > before, "it is tried again")
        stage.life.listen_failures = ""
        assert made.health().last_error == ""


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
        heard: list[Event] = []
        async for event in made.events():
            heard.append(event)
            if len(heard) == 21:
                break
        assert isinstance(heard[0], SessionUp)
        assert heard[1:] == [EndOfRib(V4.peer, family) for _ in range(10) for family in Family]
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
