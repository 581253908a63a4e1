"""ExaBGP's faults, each shown on the unmended ExaBGP first so that a mend that is no longer needed is noticed.

The mends change ExaBGP for the whole process, so each test runs in one of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from bgp.speaker.exabgp import process


def in_a_process_of_its_own(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_every_mend_finds_its_place_in_the_installed_exabgp() -> None:
    in_a_process_of_its_own("""
        from bgp.speaker.exabgp import server
        server.mend_all()
    """)


@pytest.mark.parametrize(
    ("module", "asks"), [("exabgp.application.validate", True), ("server", False), ("validator", False)]
)
def test_the_resolver_is_not_asked_which_may_take_longer_than_all_else(module: str, asks: bool) -> None:
    in_a_process_of_its_own(f"""
        import importlib, socket
        asked = []
        socket.gethostbyaddr = lambda name: asked.append(name) or (name, [], [])
        importlib.import_module({module if asks else f"bgp.speaker.exabgp.{module}"!r})
        assert bool(asked) == {asks}, asked
    """)


RIB = """
    from bgp.speaker.exabgp import server
    from exabgp.environment import getenv
    from exabgp.logger import log
    log.init(getenv())
    from exabgp.reactor.api import API
    from exabgp.bgp.message import Action
    from exabgp.protocol.family import AFI, SAFI
    from exabgp.rib.outgoing import OutgoingRIB

    def last_word(words):
        rib = OutgoingRIB(True, {(AFI.ipv4, SAFI.unicast)})
        api = API(None)
        for word in words:
            if word == "withdraw":
                [change] = api.api_route("withdraw route 10.0.0.0/24")
                change.nlri.action = Action.WITHDRAW
            else:
                [change] = api.api_route(f"announce route 10.0.0.0/24 next-hop 10.0.0.1 med {word}")
                change.nlri.action = Action.ANNOUNCE
            rib.add_to_rib(change)
        last = list(rib.updates(True))[-1]
        return "withdraw" if last.nlris[0].action == Action.WITHDRAW else str(last.attributes[4])
"""


@pytest.mark.parametrize(
    "words",
    [["5", "withdraw", "5"], ["1", "2", "1"], ["withdraw", "5", "withdraw"], ["1", "withdraw", "1", "withdraw"]],
)
def test_the_last_word_about_a_prefix_is_sent_last(words: list[str]) -> None:
    in_a_process_of_its_own(
        textwrap.dedent(RIB)
        + f"unmended = last_word({words})\nserver.mend_all()\nassert last_word({words}) == {words[-1]!r}\n"
    )


def test_the_last_word_is_still_lost_without_the_mend() -> None:
    in_a_process_of_its_own(textwrap.dedent(RIB) + "assert last_word(['1', '2', '1']) == '2'\n")


def test_the_poll_set_forgets_closed_descriptors_and_sees_new_connections() -> None:
    in_a_process_of_its_own("""
        import os, select, socket, time
        from types import SimpleNamespace
        from bgp.speaker.exabgp import server

        listening = socket.create_server(("127.0.0.1", 0))
        commands = SimpleNamespace(ready=lambda: True)
        reactor = SimpleNamespace(listener=SimpleNamespace(_sockets={listening: None}), asynchronous=commands)
        poller = server.Poller(reactor)
        read, write = os.pipe()
        poller.register(read, select.POLLIN)
        os.close(read)
        assert poller.poll(0) == []
        began = time.monotonic()
        assert poller.poll(100) == []
        assert time.monotonic() - began >= 0.09, "a closed descriptor wakes the loop"

        caller = socket.create_connection(listening.getsockname())
        began = time.monotonic()
        assert poller.poll(10_000) == []
        assert time.monotonic() - began < 5, "a new connection does not wake the loop"
        listening.accept()

        commands.ready = lambda: False
        began = time.monotonic()
        assert poller.poll(10_000) == []
        assert time.monotonic() - began < 5, "commands that wait do not wake the loop"
    """)


def test_commands_run_without_an_event_loop() -> None:
    in_a_process_of_its_own("""
        import asyncio
        from bgp.speaker.exabgp import server
        from exabgp.environment import getenv
        from exabgp.logger import log
        from exabgp.reactor.asynchronous import ASYNC

        log.init(getenv())
        server.mend_all()
        asyncio.run = None
        ran = []
        def command(number):
            ran.append(number)
            yield
        queue = ASYNC()
        for number in range(3):
            queue.schedule("agent", "text", command(number))
        while queue.run():
            pass
        assert ran == [0, 1, 2], ran
        assert queue.ready()
    """)


TURNS = """
    from types import SimpleNamespace
    from bgp.speaker.exabgp import server
    from exabgp.bgp.fsm import FSM
    from exabgp.reactor.peer import ACTION, Peer

    # A peer with three messages to read, each of which is told to the helper.
    told = []
    pipe = SimpleNamespace(write=lambda data: told.append(data), flush=lambda: told.append("|"))

    def reading():
        for message in (b"one", b"two", b"three"):
            helper.write(message)
            helper.flush()
            yield ACTION.NOW
        yield ACTION.LATER

    peer = Peer.__new__(Peer)
    peer.reactor = SimpleNamespace(processes=SimpleNamespace(broken=lambda _: False))
    peer.neighbor, peer.generator, peer.fsm = None, reading(), FSM.ESTABLISHED
"""


def test_what_a_peer_has_to_say_is_read_in_one_turn_and_told_in_one_piece() -> None:
    in_a_process_of_its_own(
        textwrap.dedent(TURNS)
        + textwrap.dedent("""
        helper = pipe
        assert peer.run() == ACTION.NOW
        assert told == [b"one", "|"], "ExaBGP serves a peer better now: the mend may go"

        told.clear()
        peer.generator = reading()
        helper = server.Gathered(pipe)
        server.mend(Peer, "run", server.peer_run)
        server._TURN_S = 60
        assert peer.run() == ACTION.LATER
        assert told == [b"one", b"two", b"three", "|"], told

        told.clear()
        helper.write(b"an answer")
        helper.flush()
        assert told == [b"an answer", "|"], "outside a turn nothing is kept waiting"
        """)
    )


def test_a_turn_ends_for_the_others_sake_and_when_the_session_does() -> None:
    in_a_process_of_its_own(
        textwrap.dedent(TURNS)
        + textwrap.dedent("""
        helper = server.Gathered(pipe)
        server.mend(Peer, "run", server.peer_run)
        server._TURN_S = 0
        assert peer.run() == ACTION.NOW
        assert told == [b"one", "|"], told

        told.clear()
        server._TURN_S = 60
        peer.fsm = FSM.IDLE
        assert peer.run() == ACTION.NOW
        assert told == [b"two", "|"], told

        peer.generator = iter([])
        def fails():
            helper.write(b"last words")
            helper.flush()
            raise RuntimeError
            yield
        peer.generator, told[:] = fails(), []
        try:
            peer.run()
        except RuntimeError:
            pass
        assert told == [b"last words", "|"], told
        """)
    )


def test_it_does_not_start_for_anyone_but_its_agent() -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(process._HERE / "server.py"), "1", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "the agent is gone" in done.stderr


@pytest.mark.parametrize(("asked", "sent"), [(10, 10), (30, 30), (60, 30)])
def test_keepalives_are_sent_as_often_as_asked_and_at_least_three_in_a_hold_time(asked: int, sent: int) -> None:
    in_a_process_of_its_own(f"""
        from types import SimpleNamespace
        from bgp.speaker.exabgp import server
        from exabgp.bgp.message.open.holdtime import HoldTime
        from exabgp.reactor.keepalive import KA

        protocol = SimpleNamespace(
            negotiated=SimpleNamespace(holdtime=HoldTime(90)), neighbor={{"description": "10 {asked}"}}
        )
        assert KA(None, protocol).send_timer.keepalive == 30, "ExaBGP has a setting now"
        server.mend_all()
        assert KA(None, protocol).send_timer.keepalive == {sent}
    """)


COLLISION = """
    from types import SimpleNamespace
    from bgp.speaker.exabgp import server
    from exabgp.bgp.fsm import FSM
    from exabgp.environment import getenv
    from exabgp.logger import log
    from exabgp.protocol.ip import IPv4
    from exabgp.reactor import peer as module
    log.init(getenv())
    module.Protocol = lambda peer: SimpleNamespace(accept=lambda connection: connection)

    class Peer(module.Peer):
        def __init__(self, state):
            opened = SimpleNamespace(router_id=IPv4.create("10.0.0.2"))
            self.proto = self.first = SimpleNamespace(negotiated=SimpleNamespace(received_open=opened))
            self.neighbor = {"router-id": IPv4.create("10.0.0.1")}
            self.fsm = FSM(self, state)
            self._delay = SimpleNamespace(reset=lambda: None)
        stopping = lambda self: False
        id = lambda self: "peer"
        _close = lambda self, message: None

    def keeps_the_first(state):
        peer = Peer(state)
        second = SimpleNamespace(notification=lambda code, subcode, text: (code, subcode), name=lambda: "second")
        answer = peer.handle_connection(second)
        assert answer == ((6, 7) if peer.proto is peer.first else None)
        return peer.proto is peer.first
"""


def test_a_second_connection_is_refused_from_open_confirm_on_whoever_has_the_higher_identifier() -> None:
    in_a_process_of_its_own(
        textwrap.dedent(COLLISION)
        + "assert not keeps_the_first(FSM.OPENCONFIRM)\n"
        + "server.mend_all()\n"
        + "assert keeps_the_first(FSM.OPENCONFIRM)\n"
        + "assert keeps_the_first(FSM.ESTABLISHED)\n"
        + "assert not keeps_the_first(FSM.OPENSENT)\n"
    )
