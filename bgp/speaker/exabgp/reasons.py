"""Why a session ended, in words for people: from what ExaBGP says and the codes of a NOTIFICATION.

The names are those of RFC 4271 section 4.5 and 6, RFC 4486 (Cease), RFC 6608 (FSM errors) and RFC 8538.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_CODES = {
    1: "message header error",
    2: "OPEN message error",
    3: "UPDATE message error",
    4: "hold timer expired",
    5: "finite state machine error",
    6: "cease",
    7: "ROUTE-REFRESH message error",
}

_SUBCODES = {
    (1, 1): "connection not synchronized",
    (1, 2): "bad message length",
    (1, 3): "bad message type",
    (2, 1): "unsupported version number",
    (2, 2): "bad peer AS",
    (2, 3): "bad BGP identifier",
    (2, 4): "unsupported optional parameter",
    (2, 6): "unacceptable hold time",
    (2, 7): "unsupported capability",
    (3, 1): "malformed attribute list",
    (3, 2): "unrecognized well-known attribute",
    (3, 3): "missing well-known attribute",
    (3, 4): "attribute flags error",
    (3, 5): "attribute length error",
    (3, 6): "invalid ORIGIN",
    (3, 8): "invalid NEXT_HOP",
    (3, 9): "optional attribute error",
    (3, 10): "invalid network field",
    (3, 11): "malformed AS_PATH",
    (5, 1): "unexpected message in OpenSent",
    (5, 2): "unexpected message in OpenConfirm",
    (5, 3): "unexpected message in Established",
    (6, 1): "maximum number of prefixes reached",
    (6, 2): "administrative shutdown",
    (6, 3): "peer de-configured",
    (6, 4): "administrative reset",
    (6, 5): "connection rejected",
    (6, 6): "other configuration change",
    (6, 7): "connection collision resolution",
    (6, 8): "out of resources",
    (6, 9): "hard reset",
    (6, 10): "BFD down",
}

_NOTIFICATION = re.compile(r"notification (sent|received) \((\d+),(\d+)\)(?:: (.*))?", re.DOTALL)

_PLAIN = {
    "closing connection: the TCP connection was closed by the remote end": "connection closed by the peer",
    "closing connection: no answer": "no answer: unreachable, filtered, or the passwords differ",
    "graceful restarted negotiated, closing without sending any notification": "session settings changed",
}

_BIND_FAILED = re.compile(r"Could not bind to local ip (\S+) - \[Errno \d+\] (.*)")
_ERRNO = re.compile(r".*\[Errno \d+\] ([^)]*)\)?")
_NO_PASSWORDS = "does not support TCP_MD5SIG"
_BROKEN_WHILE_SENDING = {"problem with network while trying to send keepalive", "could not send keepalive"}

_COLLISION = (6, 7)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session or an attempt ended, as in `SessionDown`."""

    reason: str
    notification: tuple[int, int] | None = None
    sent: bool = False

    @property
    def is_collision(self) -> bool:
        """Whether an attempt just made way for another of the same session (RFC 4271 section 6.8)."""
        return self.notification == _COLLISION


def name(code: int, subcode: int) -> str:
    """Return the name of a NOTIFICATION's code and subcode."""
    known = _SUBCODES.get((code, subcode))
    general = _CODES.get(code, f"error code {code}")
    if known is not None:
        return f"{general}: {known}"
    return f"{general}: subcode {subcode}" if subcode else general


def ending(said: str) -> Ending:
    """Read the reason in ExaBGP's `down` event."""
    match = _NOTIFICATION.fullmatch(said)
    if match is not None:
        return _notification(match)
    if said == "stop, message [removed]":
        return Ending("session removed", (6, 3), sent=True)
    if said == "stop, message [shutting down]":
        return Ending("the node's speaker was shut down", (6, 2), sent=True)
    if said.startswith(("closing outgoing connection as", "connection received before")):
        return Ending("made way for another connection", _COLLISION, sent=True)
    return Ending(_PLAIN.get(said) or _connection(said.removeprefix("closing connection: ")))


def _connection(said: str) -> str:
    """Return the reason of a connection that failed or broke, without ExaBGP's wrappings."""
    failed = _BIND_FAILED.fullmatch(said)
    if failed is not None:
        return f"local address {failed[1]}: {_lower(failed[2])}"
    if _NO_PASSWORDS in said:
        return "the node's kernel knows no TCP MD5 passwords (CONFIG_TCP_MD5SIG)"
    errno = _ERRNO.fullmatch(said)
    return _lower(errno[1] if errno is not None else said) or "connection closed"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _notification(match: re.Match[str]) -> Ending:
    if match[4] in _BROKEN_WHILE_SENDING:
        return Ending("connection broken")  # ExaBGP calls it an expired hold timer, but nothing was sent
    sent, code, subcode, detail = match[1] == "sent", int(match[2]), int(match[3]), match[4] or ""
    reason = f"{name(code, subcode)} ({'sent to' if sent else 'sent by'} the peer)"
    # The data is words where we made them, and where RFC 9003 says so.
    detail = detail.removeprefix("Shutdown Communication: ")
    if detail and ((code, subcode) in {(6, 2), (6, 4)} or sent) and detail.lower() not in reason.lower():
        reason += f": {detail}"
    return Ending(reason, (code, subcode), sent)
