"""The ExaBGP process: ExaBGP's own server with its faults mended. Run as a program, never imported by the agent.

    python server.py AGENT_PID CONFIGURATION

ExaBGP 5.0 speaks BGP well, but its event loop, reload and connection handling have faults that no command
reaches, and that let one dead peer harm the others. Each mend below replaces one method of ExaBGP, says what is
wrong with it, and has a test that fails without it. ExaBGP's settings come from the environment (process.py).

The process belongs to its agent: with AGENT_PID no longer its parent it does not start, the kernel kills it when
that parent goes (process.py asks for that with setpriv), and SIGTERM, which systemd sends to the whole service,
does nothing: how sessions end is the agent's to say.
"""

# ruff: noqa: SLF001  # mending a program from outside means reaching inside
# ruff: noqa: E402  # ExaBGP is imported when what it shall not have is set

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from socket import SO_ERROR, SOL_SOCKET
from typing import Any

socket.getfqdn = lambda name="": name or socket.gethostname()  # or it asks DNS, for seconds: validator.py
sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio does without it, nothing here speaks TLS: 4 MB less

from exabgp.bgp.fsm import FSM
from exabgp.bgp.message import Notification, Notify
from exabgp.bgp.message.update.attribute import Attribute
from exabgp.configuration.configuration import Configuration
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.reactor import listener as listener_module
from exabgp.reactor.api.processes import Processes
from exabgp.reactor.asynchronous import ASYNC
from exabgp.reactor.daemon import Daemon
from exabgp.reactor.interrupt import Signal
from exabgp.reactor.keepalive import KA
from exabgp.reactor.listener import Listener
from exabgp.reactor.loop import Reactor
from exabgp.reactor.network.error import NetworkError
from exabgp.reactor.network.outgoing import Outgoing
from exabgp.reactor.network.tcp import set_minimum_ttl
from exabgp.reactor.peer import ACTION, Peer
from exabgp.rib.outgoing import OutgoingRIB

# ExaBGP is not typed: its objects are Any here.

CONNECTING: set[int] = set()
"""Descriptors of TCP connections under way."""

_TURN_S = 0.002

_CEASE = 6  # RFC 4271 section 4.5
_ADMINISTRATIVE_SHUTDOWN = 2  # RFC 4486
_PEER_DECONFIGURED = 3  # RFC 4486
_CONNECTION_COLLISION = 7  # RFC 4486


class Poller:
    """What the event loop waits on.

    ExaBGP never takes the descriptor of a closed connection out of its poll set. Until the number is used again
    poll() returns at once with POLLNVAL and the loop sleeps `reactor.speed` hundredths of a second each round
    instead of working: with one peer gone, all others are served at some 20 messages a second. Listening and
    connecting sockets, on the other hand, it does not watch at all and finds only when the time-out is over, and
    it waits out the time-out while API commands are queued.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll = select.poll()

    def register(self, descriptor: int, events: int) -> None:
        """Watch a descriptor."""
        self._poll.register(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Watch it no more."""
        with contextlib.suppress(KeyError):
            self._poll.unregister(descriptor)

    def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
        """Wait, and return what is ready of what was registered."""
        listener = self._reactor.listener
        listening = {each.fileno() for each in listener._sockets} if listener else set()
        for descriptor in listening:
            self._poll.register(descriptor, select.POLLIN)
        for descriptor in CONNECTING:
            self._poll.register(descriptor, select.POLLOUT)
        ready = []
        idle = self._reactor.asynchronous.ready()
        for descriptor, events in self._poll.poll(timeout_ms if idle else 0):
            if events & select.POLLNVAL:
                self.unregister(descriptor)
            elif descriptor not in listening and descriptor not in CONNECTING:
                ready.append((descriptor, events))
        return ready


def reactor_init(original: Any, reactor: Any, configuration: Any) -> None:
    """Build the event loop, with a poll set that forgets closed descriptors."""
    original(reactor, configuration)
    reactor._poller = Poller(reactor)


def reactor_pending_adjribout(_original: Any, _reactor: Any) -> bool:
    """Say that nothing is in the way of a reload.

    ExaBGP drops a reload, silently, while any peer has routes that are not sent yet, so that one peer behind a
    broken link keeps every other from being added or removed. Unsent routes survive a reload unharmed.
    """
    return False


def reactor_listen(original: Any, reactor: Any) -> bool:
    """Listen where the sessions ask for it, and go on where that fails (the log says so).

    ExaBGP does not start when one of its addresses cannot be bound, which ends the sessions of all others.
    """
    original(reactor)
    return True


def rib_update(original: Any, rib: Any, change: Any) -> None:
    """Queue a change of the Adj-RIB-Out; the last word about a prefix is the one that is sent.

    ExaBGP queues by attributes, so that of several changes of a prefix before a flush (a slow peer) not the last
    is sent last: announce, withdraw, announce ends as a withdrawal.
    """
    earlier = rib._new_nlri.pop(change.index(), None)
    if earlier is not None:
        family = earlier.nlri.family().afi_safi()
        rib._new_attr_af_nlri.get(earlier.attributes.index(), {}).get(family, {}).pop(earlier.index(), None)
    original(rib, change)


def asynchronous_run(_original: Any, queue: Any) -> bool:
    """Run the API commands that wait.

    ExaBGP builds and tears down an asyncio event loop for every round of commands, for coroutines it has none of.
    """
    if queue._async:
        with contextlib.suppress(StopIteration):
            queue._run_async().send(None)
    return bool(queue._async)


def connect_retry_s(peer: Any) -> int:
    """Return the peer's ConnectRetryTime (RFC 4271 section 10), which config.py puts into its description."""
    return int(peer.neighbor["description"].split()[0])


def keepalive_init(original: Any, keepalive: Any, session: Any, protocol: Any) -> None:
    """Send KEEPALIVEs as often as the session asks for, and at least three within the negotiated hold time.

    ExaBGP has a third of the hold time and nothing else (RFC 4271 section 4.4 takes that for the maximum).
    """
    original(keepalive, session, protocol)
    timer = keepalive.send_timer
    timer.keepalive = min(timer.keepalive, int(protocol.neighbor["description"].split()[1]))


def outgoing_establish(_original: Any, outgoing: Any) -> Iterator[bool]:
    """Connect to the peer; NetworkError with the reason when that fails.

    ExaBGP takes a refused connection for an established one, a failed bind for nothing at all, and tells nobody.
    """
    issue = outgoing._connect()
    if issue is not None:
        raise NetworkError(str(issue))
    descriptor = outgoing.io.fileno()
    CONNECTING.add(descriptor)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT)
        while not poller.poll(0):
            yield False
    finally:
        CONNECTING.discard(descriptor)
    error = outgoing.io.getsockopt(SOL_SOCKET, SO_ERROR)
    if error:
        raise NetworkError(os.strerror(error))
    outgoing.success()  # no last `yield`: the caller would wait another round of the loop for nothing


class Gathered:
    """The pipe to the API helper: what is written during a peer's turn goes out at its end, in one piece.

    ExaBGP writes each message to it on its own, at more than the cost of all else it does for the API.
    """

    is_turn = False
    waiting: set[Gathered] = set()  # noqa: RUF012 - of all: a turn is one peer's, pipes may be several

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self.write = pipe.write

    def flush(self) -> None:
        """Send what was written, unless more is to come in a moment."""
        if self.is_turn:
            self.waiting.add(self)
        else:
            self._pipe.flush()

    @classmethod
    def end_turn(cls) -> None:
        """Send everything. A broken pipe is found by the next write."""
        cls.is_turn = False
        while cls.waiting:
            with contextlib.suppress(OSError):
                cls.waiting.pop().flush()


def processes_start(original: Any, processes: Any, name: str) -> None:
    """Start the API helper, with a pipe that gathers what is written."""
    original(processes, name)
    process = processes._process.get(name)
    if process is not None and not isinstance(process.stdin, Gathered):
        process.stdin = Gathered(process.stdin)


def peer_run(original: Any, peer: Any) -> Any:
    """Serve a peer as long as it has something to do, for a moment.

    ExaBGP goes a whole round of its event loop, all other peers and the API included, for each message.
    """
    turn_ends = time.monotonic() + _TURN_S
    Gathered.is_turn = True
    try:
        action = original(peer)
        while action == ACTION.NOW and peer.fsm == FSM.ESTABLISHED and time.monotonic() < turn_ends:
            action = original(peer)
    finally:
        Gathered.end_turn()
    return action


def peer_main(original: Any, peer: Any) -> Iterator[Any]:
    """Run an established session, which begins with an empty Adj-RIB-Out.

    ExaBGP begins by sending what was announced in the session before, an End-of-RIB included that came too late
    for it, before the agent can say what still holds.
    """
    peer.neighbor.rib.outgoing.clear()
    peer.neighbor.eor.clear()
    yield from original(peer)


def peer_connect(original: Any, peer: Any) -> Iterator[Any]:
    """Connect within the peer's ConnectRetryTime, or give up and begin anew.

    Left to itself the kernel sends its next SYN later and later, up to a minute after the last.
    """
    give_up = time.monotonic() + connect_retry_s(peer)
    for action in original(peer):
        yield action
        if peer.proto is None and time.monotonic() > give_up:
            raise NetworkError("no answer")


def peer_handle_connection(original: Any, peer: Any, connection: Any) -> Any:
    """Refuse a second connection while the first is in OpenConfirm.

    ExaBGP gives the first one up if the peer has the higher identifier (RFC 4271 section 6.8). But our KEEPALIVE is
    under way on it: the peer may find it established, then lost, and when we have just restarted that is a second
    restart, at which it drops the routes it kept for us (RFC 4724 section 4.2).
    """
    if peer.fsm == FSM.OPENCONFIRM:
        return connection.notification(_CEASE, _CONNECTION_COLLISION, "another connection is in OpenConfirm")
    return original(peer, connection)


def peer_reset(original: Any, peer: Any, message: str = "", error: Any = "") -> None:
    """End a session or an attempt: tell the API why, and try again within the ConnectRetryTime.

    ExaBGP keeps the reason to its debug log, says nothing of attempts that fail before TCP is up, and lets the
    time between attempts grow to a minute.
    """
    reason = message
    if isinstance(error, Notification):
        words = error.data.decode("utf-8", "replace")
        reason = f"{message}: {words}" if words.isprintable() and words else message
    elif isinstance(error, NetworkError):
        reason = f"{message}: {error}"
    # _main has told the API already where it closes a session itself.
    if peer.fsm in (FSM.IDLE, FSM.ACTIVE) and str(error) != "closing" and peer.neighbor.api["neighbor-changes"]:
        peer.reactor.processes.down(peer.neighbor, reason)
    original(peer, reason, error)
    peer._delay._next = min(peer._delay._next, connect_retry_s(peer))


def peer_stop(original: Any, peer: Any, message: str) -> None:
    """End a session for good with a Cease, so that a peer with graceful restart keeps nothing of ours.

    ExaBGP just closes the connection of a peer that was removed, and every connection on SIGTERM. For a peer
    with graceful restart (RFC 4724 section 4.2) that is a restart: it would go on using our routes.
    """
    if peer.proto and peer.fsm == FSM.ESTABLISHED:
        subcode = _PEER_DECONFIGURED if message == "removed" else _ADMINISTRATIVE_SHUTDOWN
        with contextlib.suppress(NetworkError, OSError):
            for _ in zip(range(3), peer.proto.new_notification(Notify(_CEASE, subcode)), strict=False):
                pass
            # Closing with unread data makes TCP send a reset that overtakes the NOTIFICATION.
            for _ in range(64):
                peer.proto.connection.io.recv(65536)
    original(peer, message)


def listener_listen_on(original: Any, listener: Any, *args: Any) -> bool:
    """Listen, for any TTL.

    ExaBGP puts the minimum TTL of one neighbour (RFC 5082) on the socket that all neighbours share.
    """
    *others, _minimum_ttl = args
    return bool(original(listener, *others, None))


def set_accepted_ttl(original: Any, connection: Any, neighbor: Any) -> None:
    """Put the neighbour's TTLs on its own connection."""
    original(connection, neighbor)
    with contextlib.suppress(NetworkError):
        set_minimum_ttl(connection.io, connection.afi, connection.peer, neighbor["incoming-ttl"])


def drop_privileges(_original: Any, _daemon: Any) -> bool:
    """Run as whoever the agent is: ExaBGP would refuse a user of group 0, or one without a name."""
    return True


def ignore_signal(_original: Any, _signal: Any, _number: int, _frame: Any) -> None:
    """Leave the end to the agent."""


def ignore_debug(*_: Any, **__: Any) -> None:
    """Say nothing, faster: fourteen times an UPDATE ExaBGP finds out anew that nobody wants its debug log."""


def mend(owner: Any, name: str, replacement: Callable[..., Any]) -> None:
    """Put `replacement` in the place of a function or method, which it gets as its first argument."""
    original = getattr(owner, name)

    def mended(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    setattr(owner, name, mended)


def mend_all() -> None:
    """Apply every mend. AttributeError where this ExaBGP is built in another way."""
    mend(Reactor, "__init__", reactor_init)
    mend(Reactor, "_pending_adjribout", reactor_pending_adjribout)
    mend(Reactor, "_listen_for_neighbors", reactor_listen)
    mend(OutgoingRIB, "_update_rib", rib_update)
    mend(ASYNC, "run", asynchronous_run)
    mend(Outgoing, "establish", outgoing_establish)
    mend(KA, "__init__", keepalive_init)
    mend(Peer, "_connect", peer_connect)
    mend(Peer, "handle_connection", peer_handle_connection)
    mend(Processes, "_start", processes_start)
    mend(Peer, "run", peer_run)
    mend(Peer, "_main", peer_main)
    mend(Peer, "_reset", peer_reset)
    mend(Peer, "_stop", peer_stop)
    mend(Listener, "listen_on", listener_listen_on)
    mend(listener_module, "set_accepted_ttl", set_accepted_ttl)
    mend(Daemon, "drop_privileges", drop_privileges)
    mend(Signal, "sigterm", ignore_signal)
    mend(Signal, "sighup", ignore_signal)


def main(agent_pid: int, configuration: str) -> None:
    """Run the server until it is told to stop."""
    if os.getppid() != agent_pid:
        sys.exit("the agent is gone")
    mend_all()
    log.init(getenv())
    log.debug = ignore_debug
    Attribute.caching = True
    sys.exit(Reactor(Configuration([configuration])).run())


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
