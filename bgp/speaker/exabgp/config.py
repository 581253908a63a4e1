"""ExaBGP's configuration file, from sessions.

Sessions in, text out: one helper process (the bridge) and one flat `neighbor` block for each session, in a fixed
order, so that equal sessions give equal text. No templates: with `inherit` ExaBGP lets the template win. Nothing
a user wrote reaches the file as it is: passwords go in as base64, interface names are held to what the kernel
allows, everything else is a number or an address.

ExaBGP has no setting for two of our timers: ConnectRetryTime and keepalive interval travel in the neighbour's
description, where server.py finds them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence

from bgp.speaker import Session
from inet.prefix import Family, family_of

MAX_PASSWORD_BYTES = 80
"""TCP_MD5SIG_MAXKEYLEN (linux/tcp.h)."""

_INTERFACE = re.compile(r"[A-Za-z0-9_.@+=~-]{1,15}")  # IFNAMSIZ (linux/if.h), and no character that means something
_FAMILY_WORDS = {Family.IPV4: "ipv4 unicast", Family.IPV6: "ipv6 unicast"}


def render(sessions: Iterable[Session], helper: Sequence[str]) -> str:
    """Return the file. `helper` is the command line of the bridge. ValueError for what ExaBGP could not take."""
    ordered = sorted(sessions, key=lambda session: (session.peer.version, session.peer.packed, str(session.peer)))
    blocks = [_process(helper), *(render_session(session) for session in ordered)]
    return "\n".join(blocks)


def render_session(session: Session) -> str:
    """Return the `neighbor` block of a session. ValueError names the field ExaBGP could not take."""
    lines = [
        f"neighbor {_without_scope(session.peer)} {{",
        *(f"  {statement};" for statement in _statements(session)),
        "  family {",
        *(f"    {_FAMILY_WORDS[family]};" for family in sorted(session.families)),
        "  }",
        "  capability {",
        *(f"    {statement};" for statement in _capabilities(session)),
        "  }",
    ]
    if _extended_next_hop(session):
        lines += ["  nexthop {", "    ipv4 unicast ipv6;", "  }"]
    lines += [
        "  api {",
        "    processes [ agent ];",
        "    neighbor-changes;",
        "    receive {",
        "      parsed;",
        "      open;",
        "      update;",
        "    }",
        "  }",
        "}",
        "",
    ]
    return "\n".join(lines)


def _process(helper: Sequence[str]) -> str:
    words = " ".join(_quote(word) for word in helper)
    # respawn: a helper that died has lost events; the speaker starts ExaBGP anew, as often as it takes.
    return f"process agent {{\n  run {words};\n  encoder json;\n  respawn false;\n}}\n"


def _statements(session: Session) -> Iterable[str]:
    _check(session)
    yield f"description {_quote(f'{session.connect_retry_time_s} {session.keepalive_time_s}')}"
    yield f"router-id {session.router_id}"
    yield f"local-address {_without_scope(session.local_address)}"
    yield f"local-as {session.local_asn}"
    yield f"peer-as {session.peer_asn}"
    yield f"hold-time {session.hold_time_s}"
    yield "passive false"
    if session.listen_port is not None and session.interface is None:
        yield f"listen {session.listen_port}"
    yield f"connect {session.peer_port}"
    if session.interface is not None:
        yield f"source-interface {_quote(session.interface)}"
    if session.password is not None:
        yield f"md5-password {_quote(_password_base64(session.password.reveal()))}"
        yield "md5-base64 true"
    ttl = session.ttl if session.ttl is not None else _default_ttl(session)
    if ttl is not None:
        yield f"outgoing-ttl {ttl}"
    if session.minimum_ttl is not None:
        yield f"incoming-ttl {session.minimum_ttl}"
    yield "group-updates true"
    yield "adj-rib-in false"
    yield "adj-rib-out true"
    yield "manual-eor true"


def _default_ttl(session: Session) -> int | None:
    """Return the TTL of packets we send: one hop for eBGP; 255 where the other side checks it (RFC 5082)."""
    if session.minimum_ttl is not None:
        return 255
    return None if session.is_internal else 1


def _capabilities(session: Session) -> Iterable[str]:
    yield "asn4 enable"
    if session.graceful_restart_time_s is None:
        yield "graceful-restart disable"
    else:
        yield f"graceful-restart {session.graceful_restart_time_s}"
    yield "route-refresh enable"
    yield "extended-message enable"
    yield "add-path disable"
    if _extended_next_hop(session):
        yield "nexthop enable"


def _extended_next_hop(session: Session) -> bool:
    """Whether IPv4 routes may have an IPv6 next hop (RFC 8950): where the session itself runs over IPv6."""
    return family_of(session.peer) is Family.IPV6 and session.families == frozenset(Family)


def _check(session: Session) -> None:
    _within("hold_time_s", session.hold_time_s, 3, 65535, or_zero=True)
    _within("connect_retry_time_s", session.connect_retry_time_s, 1, 65535)
    _within("local_asn", session.local_asn, 1, 2**32 - 1)
    _within("peer_asn", session.peer_asn, 1, 2**32 - 1)
    _within("peer_port", session.peer_port, 1, 65535)
    if session.listen_port is not None:
        _within("listen_port", session.listen_port, 1, 65535)
    if session.graceful_restart_time_s is not None:
        # 0 would make ExaBGP offer its hold time.
        _within("graceful_restart_time_s", session.graceful_restart_time_s, 1, 4095)
    for name, ttl in (("ttl", session.ttl), ("minimum_ttl", session.minimum_ttl)):
        if ttl is not None:
            _within(name, ttl, 1, 255)
    if not session.families:
        raise ValueError("families: a session needs at least one")
    if session.local_address.version != session.peer.version:
        raise ValueError(f"local_address: {session.local_address} and {session.peer} are of different families")
    if session.interface is not None and not _INTERFACE.fullmatch(session.interface):
        raise ValueError(f"interface: {session.interface!r} is not the name of an interface")
    if session.interface is None and session.peer.is_link_local and session.peer.version == 6:
        raise ValueError(f"interface: the link-local peer {session.peer} needs one")


def _within(field: str, value: int, low: int, high: int, *, or_zero: bool = False) -> None:
    if not (low <= value <= high or (or_zero and value == 0)):
        raise ValueError(f"{field}: {value} is not a number from {low} to {high}")


def _password_base64(password: str) -> str:
    raw = password.encode()
    if not 1 <= len(raw) <= MAX_PASSWORD_BYTES:
        raise ValueError(f"password: {len(raw)} bytes; TCP MD5 takes 1 to {MAX_PASSWORD_BYTES}")
    return base64.b64encode(raw).decode()


def _without_scope(address: object) -> str:
    return str(address).partition("%")[0]


def _quote(word: str) -> str:
    """Quote a word for ExaBGP's tokeniser, which knows quotes but no way to have one inside them."""
    if not word.isprintable() or '"' in word or "'" in word:
        raise ValueError(f"{word!r} cannot stand in ExaBGP's configuration")
    return '"' + word.replace("\\", "\\\\") + '"'
