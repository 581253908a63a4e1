"""Which sessions ExaBGP is given: validated, written, seen in the process. ExaBGP is a scripted one."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from bgp.speaker import Secret, Session, SpeakerLost
from bgp.speaker.exabgp import ExaBGPSpeaker, speaker
from inet.prefix import Family
from tests.bgp.speaker.lab import Listener, until
from tests.bgp.speaker.scripted import OTHER, V4, V6, Stage, configured, files_in, text_of


async def test_sessions_are_validated_written_and_seen_in_the_process(
    made: ExaBGPSpeaker, stage: Stage, directory: Path, session: Session
) -> None:
    made.configure({session.peer: session})
    assert made.health().sessions_out_of_sync == {session.peer}
    await until(lambda: not made.health().sessions_out_of_sync, "it is taken over")
    text = text_of(directory / "exabgp.conf")
    assert stage.validated == [text]
    assert f"neighbor {session.peer} {{" in text
    assert stage.life.told[1:3] == ["reload", "show neighbor json"]


async def test_the_same_sessions_again_are_no_work(made: ExaBGPSpeaker, stage: Stage) -> None:
    await configured(made, V4, V6)
    before = list(stage.life.told)
    made.configure({each.peer: each for each in (V6, V4)})
    made.end_of_rib(V4.peer, Family.IPV4)  # wakes the conductor, which has nothing to say: no session is up
    await configured(made, V4, V6, OTHER)
    assert stage.life.told[len(before) :] == ["reload", "show neighbor json"]
    assert len(stage.validated) == 2


async def test_sessions_that_go_are_gone_from_file_and_process(
    made: ExaBGPSpeaker, stage: Stage, directory: Path
) -> None:
    await configured(made, V4, V6)
    made.configure({V6.peer: V6})
    await until(lambda: [each["peer"]["address"] for each in stage.life.neighbours] == ["fd00::2"], "one is left")
    made.configure({})
    await until(lambda: not stage.life.neighbours, "none is left")
    assert "neighbor" not in text_of(directory / "exabgp.conf")


async def test_a_session_that_cannot_be_is_left_out_and_the_others_are_not(made: ExaBGPSpeaker, stage: Stage) -> None:
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


async def test_what_cannot_be_written_at_all_is_not_even_tried(made: ExaBGPSpeaker, stage: Stage) -> None:
    made.configure({V4.peer: dataclasses.replace(V4, hold_time_s=1), V6.peer: V6})
    await until(lambda: made.health().sessions_out_of_sync == {V4.peer}, "the other is taken over")
    assert "hold_time_s: 1 is not a number from 3 to 65535" in made.health().refused[V4.peer]
    assert not [text for text in stage.validated if "10.0.0.2" in text]


async def test_a_file_that_cannot_be_written_leaves_the_sessions_as_they_are(
    made: ExaBGPSpeaker, directory: Path, monkeypatch: pytest.MonkeyPatch
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
    made: ExaBGPSpeaker, stage: Stage, directory: Path
) -> None:
    stage.invalid = {"10.0.0.2"}
    made.configure({V4.peer: dataclasses.replace(V4, password=Secret("s3cret"))})
    await until(lambda: made.health().refused, "it is refused")
    assert files_in(directory) == {"exabgp.conf", "exabgp.sock"}
    assert "10.0.0.2" not in text_of(directory / "exabgp.conf")


async def test_a_reload_that_is_not_taken_is_asked_for_again(made: ExaBGPSpeaker, stage: Stage) -> None:
    answers = iter([False, False, True])
    stage.takes_over = lambda: next(answers)
    await configured(made, V4)
    assert stage.life.told.count("reload") == 3
    assert made.health().restarts == 0


@pytest.mark.parametrize("what", ["nothing", "another AS", "another hold time", "no JSON", "no neighbours"])
async def test_a_process_that_never_has_the_sessions_is_replaced(
    made: ExaBGPSpeaker,
    stage: Stage,
    heard: Listener,
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
    lost = await heard.until(SpeakerLost)
    assert "take over its configuration" in lost.reason or "cannot read ExaBGP's neighbours" in lost.reason
    assert made.health().pid == 4712
