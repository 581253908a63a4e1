"""BGP messages as a load sender needs them (RFC 4271, 4760, 6793, 4724): built in advance, sent as they are.

All AS numbers are four bytes: every speaker of today offers that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from itertools import islice
from typing import Final

from inet.prefix import Family, IPAddress, Prefix

OPEN: Final = 1
UPDATE: Final = 2
NOTIFICATION: Final = 3
KEEPALIVE: Final = 4
HEADER_BYTES: Final = 19
CEASE: Final = 6
ADMINISTRATIVE_SHUTDOWN: Final = 2  # RFC 4486

_MESSAGE_MAX: Final = 4096
_AS_TRANS: Final = 23456
_AFI: Final = {Family.IPV4: 1, Family.IPV6: 2}
_UNICAST: Final = 1

# Attribute flags and types
_WELL_KNOWN: Final = 0x40
_OPTIONAL: Final = 0x80
_EXTENDED: Final = 0x10
_ORIGIN, _AS_PATH, _NEXT_HOP, _MED, _LOCAL_PREF = range(1, 6)
_MP_REACH, _MP_UNREACH = 14, 15


def message(kind: int, body: bytes = b"") -> bytes:
    """Put the header before a body."""
    return b"\xff" * 16 + struct.pack("!HB", HEADER_BYTES + len(body), kind) + body


def open_message(
    asn: int, hold_time_s: int, router_id: IPv4Address, family: Family, restart_time_s: int | None
) -> bytes:
    """Build an OPEN for one family; graceful restart with forwarding kept if there is a restart time."""
    afi = _AFI[family]
    capabilities = [(1, struct.pack("!HBB", afi, 0, _UNICAST)), (65, struct.pack("!I", asn))]
    if restart_time_s is not None:
        capabilities.append((64, struct.pack("!HHBB", restart_time_s, afi, _UNICAST, 0x80)))
    packed = b"".join(struct.pack("!BB", code, len(value)) + value for code, value in capabilities)
    parameters = struct.pack("!BB", 2, len(packed)) + packed
    two_bytes = asn if asn < 1 << 16 else _AS_TRANS
    body = struct.pack("!BHH4sB", 4, two_bytes, hold_time_s, router_id.packed, len(parameters))
    return message(OPEN, body + parameters)


def updates(
    prefixes: Iterable[Prefix], next_hop: IPAddress, as_path: Sequence[int], *, own_med: bool
) -> Iterator[bytes]:
    """Build the UPDATEs that announce prefixes of the next hop's family: full ones, or one for each with its own MED.

    With an empty AS path it is iBGP, and there is a LOCAL_PREF.
    """
    family = Family.IPV4 if next_hop.version == 4 else Family.IPV6
    source = (struct.pack("!B", prefix.length) + prefix.packed[: (prefix.length + 7) // 8] for prefix in prefixes)
    path = struct.pack(f"!BB{len(as_path)}I", 2, len(as_path), *as_path) if as_path else b""
    common = _attribute(_ORIGIN, b"\0") + _attribute(_AS_PATH, path)
    local_pref = b"" if as_path else _attribute(_LOCAL_PREF, struct.pack("!I", 100))
    room = _MESSAGE_MAX - HEADER_BYTES - 100  # generously, for all that is not a prefix
    for number, batch in enumerate(_batches(source, 1 if own_med else room)):
        med = _attribute(_MED, struct.pack("!I", number), _OPTIONAL) if own_med else b""
        if family is Family.IPV4:
            attributes = common + _attribute(_NEXT_HOP, next_hop.packed) + med + local_pref
            yield message(UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes + batch)
        else:
            reach = struct.pack("!HBB", _AFI[family], _UNICAST, 16) + next_hop.packed + b"\0" + batch
            attributes = common + med + local_pref + _attribute(_MP_REACH, reach, _OPTIONAL)
            yield message(UPDATE, struct.pack("!HH", 0, len(attributes)) + attributes)


def end_of_rib(family: Family) -> bytes:
    """Build the End-of-RIB marker of a family (RFC 4724 section 2)."""
    if family is Family.IPV4:
        return message(UPDATE, bytes(4))
    unreach = _attribute(_MP_UNREACH, struct.pack("!HB", _AFI[family], _UNICAST), _OPTIONAL)
    return message(UPDATE, struct.pack("!HH", 0, len(unreach)) + unreach)


def is_end_of_rib(body: bytes) -> bool:
    """Whether the body of an UPDATE is an End-of-RIB marker of either family."""
    return len(body) == 4 or (len(body) < 12 and _MP_UNREACH in body[4:8])


def notification(code: int, subcode: int) -> bytes:
    """Build a NOTIFICATION without data."""
    return message(NOTIFICATION, struct.pack("!BB", code, subcode))


def _attribute(kind: int, value: bytes, flags: int = _WELL_KNOWN) -> bytes:
    if len(value) > 255:
        return struct.pack("!BBH", flags | _EXTENDED, kind, len(value)) + value
    return struct.pack("!BBB", flags, kind, len(value)) + value


def _batches(source: Iterator[bytes], room: int) -> Iterator[bytes]:
    """Join prefixes, all of one size, into pieces of at most `room` bytes, or of one prefix."""
    for first in source:
        yield first + b"".join(islice(source, max(0, room // len(first) - 1)))
