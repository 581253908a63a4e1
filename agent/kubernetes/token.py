"""What a bearer token says of its own end (RFC 7519 section 4.1.4). Nothing is verified: it is for telling people."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime

import msgspec


class _Claims(msgspec.Struct):
    exp: int | None = None


def end_of(token: str) -> datetime | None:
    """Return when a token ends; None where it does not say, as one that is no JWT."""
    parts = token.rpartition(" ")[2].split(".")
    if len(parts) != 3:
        return None
    try:
        claims = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        end = msgspec.json.decode(claims, type=_Claims).exp
        return None if end is None else datetime.fromtimestamp(end, UTC)
    except (binascii.Error, msgspec.DecodeError, UnicodeError, OverflowError, OSError, ValueError):
        return None
