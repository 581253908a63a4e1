"""What the speaker makes of an ExaBGP that ends, hangs, talks nonsense or cannot listen. ExaBGP is a scripted one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path

import pytest

from bgp.speaker import Session, SessionUp, SpeakerLost
from bgp.speaker.exabgp import ExaBGPSpeaker, speaker
from inet.prefix import Family
from tests.bgp.speaker.lab import Listener, until
from tests.bgp.speaker.scripted import OTHER, PREFIXES, V4, ExaBGP, Stage, configured, path, told


async def test_a_process_that_ends_is_started_anew_and_everything_is_said_again(
    made: ExaBGPSpeaker, stage: Stage, heard: Listener, session: Session
) -> None:
    await configured(made, session)
    stage.life.up(session)
    await heard.until(SessionUp)
    made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
    stage.life.end("ExaBGP killed by SIGSEGV")
    lost = await heard.until(SpeakerLost)
    assert lost.reason == "ExaBGP killed by SIGSEGV"
    await until(lambda: made.health().running, "it runs again")
    await until(lambda: not made.health().sessions_out_of_sync, "with its sessions")
    assert (made.health().restarts, made.health().pid, made.health().last_error) == (1, 4712, "")
    assert made.health().pending_announcements == 0  # for its user to say again, once the session is up
    stage.life.up(session)
    await heard.until(SessionUp, count=2)
    made.announce(session.peer, PREFIXES[Family.IPV4], path(Family.IPV4))
    await told(stage, "announce", "10.42.0.0/24")


async def test_why_it_is_not_there_is_told_until_it_is(
    made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch
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


async def test_a_session_may_be_told_of_by_the_first_words_of_a_life_and_lost_with_the_next(
    made: ExaBGPSpeaker, stage: Stage, heard: Listener, session: Session
) -> None:
    def begin(life: ExaBGP) -> None:
        life.up(session)
        if len(stage.lives) == 2:
            life.end("ExaBGP killed by SIGSEGV")

    running: list[bool] = []
    heard.react = lambda event: running.append(made.health().running) if isinstance(event, SessionUp) else None
    await configured(made, session)
    stage.begins = begin
    stage.life.end("ExaBGP killed by SIGKILL")
    await heard.until(SessionUp, count=2)
    assert [type(event) for event in heard.heard] == [SpeakerLost, SessionUp, SpeakerLost, SessionUp]
    assert running == [True, True]


@pytest.mark.parametrize("healthy_s", [60.0, -1.0], ids=["at once", "after a long life"])
async def test_a_life_that_ends_at_once_is_followed_by_a_longer_pause(
    made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch, healthy_s: float
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
    made: ExaBGPSpeaker, stage: Stage, heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "_START_S", 0.05)
    stage.never_calls = True
    stage.life.end("ExaBGP killed by SIGKILL")
    await until(lambda: made.health().restarts >= 3, "it is tried again and again")
    assert len(heard.of(SpeakerLost)) == 1


async def test_a_process_that_answers_no_more_is_replaced(
    made: ExaBGPSpeaker, stage: Stage, heard: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "_PING_S", 0.05)
    monkeypatch.setattr(speaker, "_ANSWER_S", 0.1)
    await configured(made, dataclasses.replace(V4, hold_time_s=3))
    await until(lambda: stage.life.told.count("version") >= 2, "a sign of life is asked for")
    stage.life.is_deaf = True
    lost = await heard.until(SpeakerLost)
    assert "has not answered" in lost.reason
    await until(lambda: len(stage.lives) == 2, "another is started")
    assert stage.lives[0].ended.done()


async def test_what_cannot_be_read_ends_this_life(made: ExaBGPSpeaker, stage: Stage, heard: Listener) -> None:
    await configured(made, V4)
    stage.life.says("update", OTHER)  # a session that nobody has asked for
    lost = await heard.until(SpeakerLost)
    assert "no session with 10.0.0.3" in lost.reason
    await until(lambda: len(stage.lives) == 2, "another is started")


async def test_a_bridge_of_a_life_that_is_over_is_sent_away(made: ExaBGPSpeaker, directory: Path) -> None:
    assert made.health().running
    reader, writer = await asyncio.open_unix_connection(directory / "exabgp.sock")
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert (made.health().running, made.health().restarts) == (True, 0)


async def test_a_port_that_cannot_be_had_is_told_and_tried_again(
    made: ExaBGPSpeaker, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speaker, "_RETRY_S", 0.05)
    stage.life.listen_failures = "cannot listen on 10.0.0.1:179: the port is in use"
    await configured(made, V4)
    assert made.health().last_error == "cannot listen on 10.0.0.1:179: the port is in use"
    before = stage.life.told.count("reload")
    await until(lambda: stage.life.told.count("reload") > before, "it is tried again")
    stage.life.listen_failures = ""
    assert made.health().last_error == ""
