"""ExaBGP against real BIRD while things go wrong: what must not be lost, and who must not be disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgp.path import AsPath, Attributes
from bgp.speaker import Event, Secret, SessionDown, SessionUp, SpeakerError, SpeakerLost, Update
from bgp.speaker.exabgp import ExaBGPSpeaker, bridge, process
from inet.prefix import Prefix
from tests.bgp.speaker.lab import Bird, Lab, Listener, configure, run, session, tell, until, watching

pytestmark = pytest.mark.interop

RESTARTING = "graceful restart on;"
OURS = "10.42.0.0/24", "fd42::/64"


def pid_of(speaker: ExaBGPSpeaker) -> int:
    pid = speaker.health().pid
    assert pid is not None
    return pid


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def bridge_of(speaker: ExaBGPSpeaker) -> int:
    return child_of(pid_of(speaker))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(directory) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


def retell(speaker: ExaBGPSpeaker, listener: Listener, *birds: Bird) -> None:
    """Announce our prefixes to a BIRD whenever its session comes up, as the agent does."""

    def react(event: Event) -> None:
        for bird in birds:
            if isinstance(event, SessionUp) and event.peer == bird.v4:
                tell(speaker, bird, *OURS)

    listener.react = react


async def test_a_killed_exabgp_comes_back_and_the_peer_keeps_the_routes_all_along(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write("192.0.2.0/24", options=RESTARTING)
    bird.start()
    retell(speaker, listener, bird)
    configure(speaker, session(bird))
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")

    async with watching(bird.has, *OURS) as absences:
        os.kill(pid_of(speaker), signal.SIGKILL)
        lost = await listener.until(SpeakerLost)
        await listener.until(SessionUp, count=2)
        await until(lambda: not speaker.health().pending_announcements, "everything is sent again")
        await until(lambda: "stale" not in bird.ask("show", "route", "all"), "nothing is stale")

    assert absences == []
    assert lost.reason.startswith("ExaBGP killed by SIGKILL")
    assert speaker.health().restarts == 1


async def test_an_exabgp_that_was_killed_is_the_reason_however_long_its_bridge_takes_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_end = "    import time\n    time.sleep(2)  # its socket is closed\n"
    (tmp_path / "bridge.py").write_text(inspect.getsource(bridge) + slow_end)
    command = [sys.executable, "-I", "-S", str(tmp_path / "bridge.py"), str(tmp_path / "run" / "exabgp.sock")]
    monkeypatch.setattr(process, "bridge_command", lambda _socket: command)
    speaker = ExaBGPSpeaker(tmp_path / "run")
    await speaker.start()
    listener = Listener(speaker)
    os.kill(pid_of(speaker), signal.SIGKILL)
    lost = await listener.until(SpeakerLost)
    assert lost.reason.startswith("ExaBGP killed by SIGKILL")
    await listener.close()
    await speaker.stop(graceful=True)


async def test_without_graceful_restart_the_same_test_sees_the_routes_go(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    retell(speaker, listener, bird)
    configure(speaker, session(bird, graceful_restart_time_s=None))
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    async with watching(bird.has, *OURS) as absences:
        os.kill(pid_of(speaker), signal.SIGKILL)
        await listener.until(SessionUp, count=2)
    assert absences


async def test_a_session_begins_with_nothing_told(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    tell(speaker, bird, OURS[0])
    await until(lambda: bird.has(OURS[0]), "BIRD has the first prefix")
    bird.kill()
    await listener.until(SessionDown)
    bird.start()
    await listener.until(SessionUp, count=2)
    tell(speaker, bird, OURS[1])
    await until(lambda: bird.has(OURS[1]), "BIRD has the second prefix")
    assert not bird.has(OURS[0])


async def test_peers_come_and_go_without_touching_the_others(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    steady, guest = lab.bird(), lab.bird()
    for bird in (steady, guest):
        bird.write(options=RESTARTING)
        bird.start()
    retell(speaker, listener, steady, guest)
    configure(speaker, session(steady))
    await until(lambda: all(map(steady.has, OURS)), "the first peer has our prefixes")
    since = steady.since

    for _ in range(2):
        configure(speaker, session(steady), session(guest))
        await until(lambda: all(map(guest.has, OURS)), "the second peer has our prefixes")
        configure(speaker, session(steady))
        # With graceful restart on: a mere close would leave them with the peer for two minutes.
        await until(lambda: not any(map(guest.has, OURS)), "the second peer has dropped our prefixes")

    assert steady.since == since
    assert all(map(steady.has, OURS))
    assert [down.reason for down in listener.of(SessionDown, guest.v4)][-1] == "session removed"
    assert not listener.of(SessionDown, steady.v4)
    assert speaker.health().restarts == 0


async def test_a_new_password_renews_only_its_own_session(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    steady, changed = lab.bird(), lab.bird()
    for bird in (steady, changed):
        bird.write(options='password "old";')
        bird.start()
    old = Secret("old")
    configure(speaker, session(steady, password=old), session(changed, password=old))
    await listener.until(SessionUp, steady.v4)
    await listener.until(SessionUp, changed.v4)
    since = steady.since

    changed.write(options='password "new";')
    changed.ask("configure")
    configure(speaker, session(steady, password=old), session(changed, password=Secret("new")))
    await listener.until(SessionUp, changed.v4, count=2)

    assert steady.since == since
    assert not listener.of(SessionDown, steady.v4)


async def test_a_blackholed_peer_with_unsent_routes_does_not_keep_others_out(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    stuck, late = lab.bird(), lab.bird()
    for bird in (stuck, late):
        bird.write(options="hold time 240;")
        bird.start()
    configure(speaker, session(stuck, hold_time_s=240))
    await listener.until(SessionUp, stuck.v4)

    run("ip", "-n", stuck.namespace, "link", "set", "eth0", "down")
    attributes = Attributes(next_hop=stuck.node_v6, as_path=AsPath((65001,)))
    for number in range(6000):
        speaker.announce(stuck.v4, Prefix.parse(f"fd42:{number:x}::/64"), attributes)
    await until(lambda: speaker.health().pending_announcements == 0, "ExaBGP has the announcements")
    configure(speaker, session(stuck, hold_time_s=240), session(late))
    await listener.until(SessionUp, late.v4)
    await until(lambda: not speaker.health().sessions_out_of_sync, "the configuration is taken over")

    assert speaker.health().restarts == 0
    assert not listener.of(SessionDown, stuck.v4)


async def test_a_dead_peer_does_not_slow_the_others_down(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    dead, alive = lab.bird(), lab.bird()
    dead.write()
    dead.start()
    alive.write(*(f"172.16.{number}.0/24" for number in range(250)), own_med=True)
    alive.start()
    configure(speaker, session(dead), session(alive))
    await listener.until(SessionUp, dead.v4)

    def announced() -> int:
        return sum(len(update.announced) for update in listener.of(Update, alive.v4))

    await until(lambda: announced() == 250, "the routes of the live peer")
    alive.ask("disable", "s4")
    await until(lambda: any(update.withdrawn for update in listener.of(Update)), "the routes are gone")
    dead.kill()
    await listener.until(SessionDown, dead.v4)
    alive.ask("enable", "s4")
    # An ExaBGP whose loop is kept awake by a closed descriptor takes 20 UPDATEs a second.
    await until(lambda: announced() == 500, "the routes of the live peer are back", 8.0)


async def test_a_bridge_killed_six_times_in_a_minute_ends_in_a_working_speaker(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write("192.0.2.0/24", options=RESTARTING)
    bird.start()
    retell(speaker, listener, bird)
    configure(
        speaker, session(bird, hold_time_s=90)
    )  # else an ExaBGP that a busy machine keeps waiting is given up, too

    def is_up() -> bool:  # a session may come up, go down and come up again: both ends call
        last = [event for event in listener.heard if isinstance(event, SessionUp | SessionDown | SpeakerLost)][-1:]
        return [*map(type, last)] == [SessionUp]

    for death in range(6):
        await until(is_up, "the session")
        os.kill(bridge_of(speaker), signal.SIGKILL)
        await listener.until(SpeakerLost, count=death + 1)
    await until(is_up, "the session")
    await listener.until(Update, count=1)
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    assert speaker.health().restarts == 6
    assert speaker.health().running


async def test_an_exabgp_that_answers_no_more_is_replaced(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird()
    bird.write(options=RESTARTING)
    bird.start()
    retell(speaker, listener, bird)
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    os.kill(pid_of(speaker), signal.SIGSTOP)
    speaker.withdraw(bird.v4, Prefix.parse(OURS[0]))
    lost = await listener.until(SpeakerLost)
    assert lost.reason == "ExaBGP has not answered for 3 s"
    await listener.until(SessionUp, count=2)


async def test_a_full_disk_leaves_the_sessions_as_they_are_until_there_is_room(lab: Lab) -> None:
    first, second = lab.bird(), lab.bird()
    for bird in (first, second):
        bird.write()
        bird.start()
    directory = lab.directory / "small"
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory))
    speaker = ExaBGPSpeaker(directory)
    try:
        await speaker.start()
        listener = Listener(speaker)
        configure(speaker, session(first))
        await listener.until(SessionUp, first.v4)
        await until(lambda: not speaker.health().sessions_out_of_sync, "the first session is taken over")
        filler = directory / "filler"
        with filler.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break

        configure(speaker, session(first), session(second))
        await until(lambda: "No space left on device" in speaker.health().last_error, "health tells of the disk")
        assert speaker.health().sessions_out_of_sync == {second.v4}
        assert not listener.of(SessionDown, first.v4)

        filler.unlink()
        await listener.until(SessionUp, second.v4)
        await until(lambda: speaker.health().last_error == "", "health is well again")
        assert not listener.of(SessionDown, first.v4)
        await listener.close()
    finally:
        await speaker.stop(graceful=True)
        run("umount", str(directory))


async def test_a_session_exabgp_cannot_have_is_left_out_and_named(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, ugly = lab.bird(), lab.bird(), lab.bird()
    good.write()
    good.start()
    broken = session(bad)
    render_session = "bgp.speaker.exabgp.config.render_session"
    from bgp.speaker.exabgp import config  # noqa: PLC0415  # the one test that breaks it

    original = config.render_session
    monkeypatch.setattr(
        render_session, lambda s: original(s).replace("hold-time 9", "hold-time x") if s.peer == bad.v4 else original(s)
    )
    configure(speaker, session(ugly, password=Secret("x" * 81)), broken, session(good))
    await listener.until(SessionUp, good.v4)
    await until(lambda: speaker.health().sessions_out_of_sync == {bad.v4, ugly.v4}, "two sessions are left out")
    error = speaker.health().last_error
    assert f"session {bad.v4}: " in error
    assert '"x" is an invalid hold-time' in error
    assert f"session {ugly.v4}: password: 81 bytes; TCP MD5 takes 1 to 80" in error


async def test_a_graceful_stop_leaves_the_routes_with_the_peer(lab: Lab) -> None:
    bird = lab.bird()
    bird.write(options=RESTARTING)
    bird.start()
    speaker = ExaBGPSpeaker(lab.directory / "run")
    await speaker.start()
    listener = Listener(speaker)
    retell(speaker, listener, bird)
    configure(speaker, session(bird))
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    pids = pid_of(speaker), bridge_of(speaker)
    await listener.close()

    await speaker.stop(graceful=True)
    await until(lambda: not bird.is_established, "BIRD saw the session end")
    assert all(map(bird.has, OURS))
    await until(lambda: not any(map(is_alive, pids)), "no process is left")


async def test_a_stop_that_is_not_graceful_takes_the_routes_along(lab: Lab) -> None:
    bird = lab.bird()
    bird.write(options=RESTARTING)
    bird.start()
    speaker = ExaBGPSpeaker(lab.directory / "run")
    await speaker.start()
    listener = Listener(speaker)
    retell(speaker, listener, bird)
    configure(speaker, session(bird))
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    await listener.close()

    await speaker.stop(graceful=False)
    await until(lambda: not any(map(bird.has, OURS)), "BIRD has dropped our prefixes")
    assert "Administrative shutdown" in (bird.directory / "bird.log").read_text()


async def test_sigterm_to_the_whole_group_ends_no_session(lab: Lab, speaker: ExaBGPSpeaker, listener: Listener) -> None:
    bird = lab.bird()
    bird.write(options=RESTARTING)
    bird.start()
    configure(speaker, session(bird))
    await listener.until(SessionUp)
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.kill(pid_of(speaker), number)
    configure(speaker, session(bird, hold_time_s=12))  # it still takes orders
    await listener.until(SessionUp, count=2)
    assert speaker.health().restarts == 0
    assert listener.of(SessionDown)[0].reason == "session settings changed"


AGENT = """
import asyncio, sys
from pathlib import Path
from bgp.speaker.exabgp import ExaBGPSpeaker

async def main():
    speaker = ExaBGPSpeaker(Path(sys.argv[1]))
    await speaker.start()
    print(speaker.health().pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def agent(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """A process of its own with a speaker in it; its first line is the pid of ExaBGP."""
    process = subprocess.Popen(
        [sys.executable, "-c", AGENT, str(lab.directory / "run")], stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


async def test_exabgp_and_bridge_die_with_a_killed_agent(agent: subprocess.Popen[str]) -> None:
    assert agent.stdout is not None
    pid = int(await asyncio.to_thread(agent.stdout.readline))
    bridge = child_of(pid)
    assert is_alive(pid)
    assert is_alive(bridge)
    agent.kill()
    await until(lambda: not is_alive(pid) and not is_alive(bridge), "both are gone")


async def test_a_taken_port_is_told_and_tried_again_while_sessions_come_up_outwards(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    with socket.create_server((str(bird.node_v4), 179)):
        configure(speaker, session(bird))
        await listener.until(SessionUp)
        await until(
            lambda: (
                speaker.health().last_error
                == "cannot listen on 10.99.1.1:179: the port may already be in use by another application"
            ),
            "health tells of the port",
        )
        os.kill(pid_of(speaker), signal.SIGKILL)
        await listener.until(SessionUp, count=2)
        assert speaker.health().restarts == 1
    await until(lambda: speaker.health().last_error == "", "it listens")
    assert speaker.health().restarts == 1


async def test_a_run_directory_that_cannot_be_used_is_an_error_at_start(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(SpeakerError, match=r"cannot use .*/run to run ExaBGP: "):
        await ExaBGPSpeaker(tmp_path / "run").start()


async def test_an_exabgp_that_cannot_start_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgp.speaker.exabgp.process._HERE", tmp_path)
    with pytest.raises(SpeakerError, match=r"can't open file .*server\.py"):
        await ExaBGPSpeaker(tmp_path / "run").start()


async def test_a_consumer_that_takes_its_time_loses_nothing(
    lab: Lab, speaker: ExaBGPSpeaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bgp.speaker.exabgp.speaker._EVENTS_HIGH", 5)
    monkeypatch.setattr("bgp.speaker.exabgp.speaker._EVENTS_LOW", 2)
    bird = lab.bird()
    bird.write(*(f"172.16.{number}.0/24" for number in range(100)), own_med=True)
    bird.start()
    configure(speaker, session(bird))
    assert speaker._link is not None
    link = speaker._link
    await until(lambda: link._paused, "reading is paused")
    await until(lambda: bird.is_established, "BIRD is up")
    # ExaBGP goes on: its answer to a question waits behind what is not read yet, and nobody takes it for dead.
    speaker.announce(bird.v4, Prefix.parse(OURS[0]), Attributes(next_hop=bird.node_v4, as_path=AsPath((65001,))))
    listener = Listener(speaker)
    await until(
        lambda: sum(len(update.announced) for update in listener.of(Update)) == 100, "everything arrives in the end"
    )
    assert speaker.health().restarts == 0
    await listener.close()


async def test_a_stopped_speaker_starts_again_with_its_sessions(lab: Lab) -> None:
    bird = lab.bird()
    bird.write()
    bird.start()
    speaker = ExaBGPSpeaker(lab.directory / "run")
    configure(speaker, session(bird))
    for start in range(2):
        await speaker.start()
        listener = Listener(speaker)
        await listener.until(SessionUp)
        await until(lambda: not speaker.health().sessions_out_of_sync, f"start {start}: it is taken over")
        await listener.close()
        await speaker.stop(graceful=True)
    assert speaker.health().restarts == 0


async def test_a_stop_in_the_middle_of_a_restart_leaves_nothing_behind(lab: Lab) -> None:
    speaker = ExaBGPSpeaker(lab.directory / "run")
    await speaker.start()
    listener = Listener(speaker)
    os.kill(pid_of(speaker), signal.SIGKILL)
    await listener.until(SpeakerLost)
    await until(lambda: len(processes_of(lab.directory / "run")) == 1, "a new one is started")
    await speaker.stop(graceful=True)
    await listener.close()
    await until(lambda: not processes_of(lab.directory / "run"), "no process is left")
    assert [path.name for path in (lab.directory / "run").iterdir()] == ["exabgp.conf"]


@pytest.mark.parametrize("user", [("--reuid", "12345", "--regid", "0"), ("--reuid", "nobody", "--regid", "nogroup")])
def test_it_starts_as_any_user(tmp_path: Path, user: tuple[str, ...]) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    tmp_path.chmod(0o777)
    for directory in tmp_path.parents:
        if directory.name.startswith(("pytest-", "popen-")):
            directory.chmod(0o711)
    code = AGENT.replace("await asyncio.sleep(3600)", "await speaker.stop(graceful=True)")
    said = run("setpriv", *user, "--clear-groups", sys.executable, "-c", code, str(tmp_path / "run"))
    assert said.strip().isdigit()
