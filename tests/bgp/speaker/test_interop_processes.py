"""ExaBGP and its bridge as processes: killed, deaf, stopped, started again, against real BIRD."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgp.speaker import SessionDown, SessionUp, SpeakerError, SpeakerLost, Update
from bgp.speaker.exabgp import ExaBGPSpeaker, bridge, process
from inet.prefix import Prefix
from tests.bgp.speaker.lab import (
    OURS,
    RESTARTING,
    Lab,
    Listener,
    configure,
    pid_of,
    retell,
    run,
    session,
    until,
    watching,
)

pytestmark = pytest.mark.interop


def child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def bridge_of(speaker: ExaBGPSpeaker) -> int:
    return child_of(pid_of(speaker))


def state_of(pid: int) -> str:
    """Return the letter that `ps` shows; Z too where it is gone altogether."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "Z"


def is_alive(pid: int) -> bool:
    return state_of(pid) != "Z"


def processes_of(directory: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(directory) in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found


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


def bridge_that_ends(how: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the bridge do something of its own where it would end."""
    begin, call = "    main(sys.argv[1])", "    import signal, time\n    parent = os.getppid()\n    main(sys.argv[1])\n"
    (directory / "bridge.py").write_text(inspect.getsource(bridge).replace(begin, f"{call}{how}"))
    original = process.bridge_command

    def command(socket: Path) -> list[str]:
        return [str(directory / "bridge.py") if each.endswith("bridge.py") else each for each in original(socket)]

    monkeypatch.setattr(process, "bridge_command", command)


async def test_a_stopped_bridge_of_a_dead_exabgp_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the log of ExaBGP open, and the kernel continues none that was stopped after its parent had died."""
    monkeypatch.setattr(
        process, "bridge_command", lambda path: [sys.executable, "-I", "-S", bridge.__file__, str(path)]
    )
    parted = "    while os.getppid() == parent: time.sleep(0.01)\n    time.sleep(0.05)\n"
    bridge_that_ends(f"{parted}    os.kill(os.getpid(), signal.SIGSTOP)", tmp_path, monkeypatch)
    speaker = ExaBGPSpeaker(tmp_path / "run")
    await speaker.start()
    listener = Listener(speaker)
    dead, stopped = pid_of(speaker), [bridge_of(speaker)]
    try:
        os.kill(dead, signal.SIGKILL)
        lost = await listener.until(SpeakerLost)
        assert lost.reason.startswith("ExaBGP killed by SIGKILL")
        await until(lambda: speaker.health().running, "the next one")
        stopped.append(bridge_of(speaker))
        await listener.close()
        async with asyncio.timeout(30):
            await speaker.stop(graceful=True)
        await until(lambda: [*map(state_of, stopped)] == ["T", "T"], "both are stopped")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)


async def test_a_bridge_that_does_not_end_by_itself_dies_with_its_exabgp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge_that_ends("    signal.pause()", tmp_path, monkeypatch)
    speaker = ExaBGPSpeaker(tmp_path / "run")
    await speaker.start()
    pid = bridge_of(speaker)
    await speaker.stop(graceful=True)
    try:
        await until(lambda: not is_alive(pid), "the bridge is gone", 20)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def test_a_bridge_that_is_stopped_is_replaced_with_its_exabgp(
    lab: Lab, speaker: ExaBGPSpeaker, listener: Listener
) -> None:
    bird = lab.bird()
    bird.write(options=RESTARTING)
    bird.start()
    retell(speaker, listener, bird)
    configure(speaker, session(bird))
    await until(lambda: all(map(bird.has, OURS)), "BIRD has our prefixes")
    bridge = bridge_of(speaker)
    os.kill(bridge, signal.SIGSTOP)
    speaker.withdraw(bird.v4, Prefix.parse(OURS[0]))
    lost = await listener.until(SpeakerLost)
    assert lost.reason == "ExaBGP has not answered for 3 s"
    await listener.until(SessionUp, count=2)
    await until(lambda: not is_alive(bridge), "the bridge is gone")


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
