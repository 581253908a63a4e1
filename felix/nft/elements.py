"""Elements of sets and maps, between values and raw netlink (linux/netfilter/nf_tables.h, NFTA_SET_ELEM_*).

In go changes of elements, out come messages for a batch; in go dumped messages, out come elements again. libnftables
could do both, but reads everything there is before it writes one element: 17 to 840 ms against 0.2 ms.

How an element is encoded follows from the form of its key, not from the set it goes to:

    bytes             an element of a set without intervals; concatenations through `concatenate`
    Interval          of an interval set: the kernel keeps where it begins and, as an element of its own, where it
                      has ended; one that reaches the last value has no end
    FieldIntervals    of an interval set of concatenations: one element with two keys
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, NamedTuple, TypeAlias

from felix.netlink import ATTRIBUTE, Flag, attribute, attributes
from felix.nfnetlink import BODY, FAMILY_HEADER, NfFamily, Subsystem, be32, name, nested, read_be32, read_name, request

NEWSETELEM: Final = 12
GETSETELEM: Final = 13
DELSETELEM: Final = 14

_LIST_TABLE: Final = 1
_LIST_SET: Final = 2
_LIST_ELEMENTS: Final = 3
_LIST_ELEM: Final = 1

_KEY: Final = 1
_DATA: Final = 2
_FLAGS: Final = 3
_USERDATA: Final = 6
_KEY_END: Final = 10

_DATA_VALUE: Final = 1
_DATA_VERDICT: Final = 2
_VERDICT_CODE: Final = 1
_VERDICT_CHAIN: Final = 2

_INTERVAL_END: Final = 1  # NFT_SET_ELEM_INTERVAL_END
_VERDICTS: Final = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_VERDICT_NAMES: Final = {code & 0xFFFFFFFF: verdict for verdict, code in _VERDICTS.items()}

# User data is nft's own (libnftnl/udata.h): it shows the comment, and an interval without an end as such.
_USERDATA_COMMENT: Final = 0
_OPEN_INTERVAL: Final = struct.pack("=BBI", 1, 4, 1)

_PLAIN: Final = struct.Struct("=HHHHHH")  # headers: element, its key, the key's value

_LIST_BYTES: Final = 60_000  # a nested attribute holds 64 KiB


class Interval(NamedTuple):
    """First and last value, both included, packed."""

    first: bytes
    last: bytes


class FieldIntervals(NamedTuple):
    """First and last value of every field of a concatenation, both included, concatenated."""

    first: bytes
    last: bytes


Key: TypeAlias = bytes | Interval | FieldIntervals
"""A packed value in network byte order, or more than one. Keys of one set are of one form."""


class Value(NamedTuple):
    """What an element has beside its key: a map's verdict, and a comment of at most 127 bytes."""

    verdict: str = ""  # accept, drop, jump, goto, return, continue; in a set: empty
    chain: str = ""  # of jump and goto
    comment: str = ""


PLAIN: Final = Value()

Elements: TypeAlias = Mapping[Key, Value]


class ElementChange(NamedTuple):
    """One element added to or deleted from a set. To change a value, delete the element and add it again.

    Adding what is there already, with the same value, is no error; deleting what is not there is one.
    """

    set: str
    key: Key
    is_added: bool
    value: Value = PLAIN  # of an added element

    def __str__(self) -> str:
        what = f"{'add' if self.is_added else 'delete'} {key_text(self.key)}"
        return f"{what} : {self.value.verdict} {self.value.chain}".rstrip() if self.value.verdict else what


class Request(NamedTuple):
    """A message for a batch, the chain or set it is about, and which of its bytes are about which element."""

    message: bytes
    subject: str
    changes: Sequence[ElementChange] = ()
    ends: Sequence[int] = ()  # offsets in the message where each change ends


def concatenate(*fields: bytes) -> bytes:
    """Pack fields, each in network byte order, as the key of a set of concatenations."""
    return b"".join(field + bytes(-len(field) % 4) for field in fields)


def key_text(key: Key) -> str:
    """Return a key for people."""
    if isinstance(key, bytes):
        return str(ip_address(key)) if len(key) in {4, 16} else key.hex()
    return key_text(key.first) if key.first == key.last else f"{key_text(key.first)}-{key_text(key.last)}"


# Writing


def requests(table: str, changes: Iterable[ElementChange]) -> Iterator[Request]:
    """Pack changes: first everything that is deleted, then what is added. The order matters where intervals move."""
    deleted: dict[str, list[ElementChange]] = {}
    added: dict[str, list[ElementChange]] = {}
    for change in changes:
        (added if change.is_added else deleted).setdefault(change.set, []).append(change)
    for set_name, group in (*deleted.items(), *added.items()):
        head = name(_LIST_TABLE, table) + name(_LIST_SET, set_name)
        parts: list[bytes] = []
        packed: list[ElementChange] = []
        size = 0
        for change in group:
            part = _pack(change)
            if size + len(part) > _LIST_BYTES:
                yield _request(head, parts, packed)
                parts, packed, size = [], [], 0
            parts.append(part)
            packed.append(change)
            size += len(part)
        yield _request(head, parts, packed)


def _request(head: bytes, parts: list[bytes], changes: list[ElementChange]) -> Request:
    number, flags = (NEWSETELEM, Flag.CREATE) if changes[0].is_added else (DELSETELEM, Flag(0))
    message = request(Subsystem.NFTABLES, number, flags, NfFamily.INET, head, nested(_LIST_ELEMENTS, *parts))
    ends = []
    end = BODY + len(head) + 4
    for part in parts:
        end += len(part)
        ends.append(end)
    return Request(message, changes[0].set, changes, ends)


def _pack(change: ElementChange) -> bytes:
    key, value = change.key, change.value
    if isinstance(key, bytes):
        return _element(key, *_value(value)) if value != PLAIN else _plain(key)
    if isinstance(key, FieldIntervals):
        return _element(key.first, *_value(value), nested(_KEY_END, attribute(_DATA_VALUE, key.last)))
    if key.last == b"\xff" * len(key.last):
        return _element(key.first, *_value(value, _OPEN_INTERVAL))
    end = (int.from_bytes(key.last) + 1).to_bytes(len(key.last))
    return _element(key.first, *_value(value)) + _element(end, be32(_FLAGS, _INTERVAL_END))


def _element(key: bytes, *more: bytes) -> bytes:
    return nested(_LIST_ELEM, nested(_KEY, attribute(_DATA_VALUE, key)), *more)


def _plain(key: bytes) -> bytes:
    """Do what `_element` does, for the bulk of all elements."""
    head, padding = _plain_head(len(key))
    return head + key + padding


@lru_cache(maxsize=16)
def _plain_head(length: int) -> tuple[bytes, bytes]:
    element = _element(bytes(length))
    padding = bytes(-length % 4)
    return element[: len(element) - length - len(padding)], padding


def _value(value: Value, userdata: bytes = b"") -> Iterator[bytes]:
    if value.verdict:
        code = be32(_VERDICT_CODE, _VERDICTS[value.verdict])
        chain = name(_VERDICT_CHAIN, value.chain) if value.chain else b""
        yield nested(_DATA, nested(_DATA_VERDICT, code, chain))
    if value.comment:
        comment = value.comment.encode() + b"\0"
        userdata = bytes((_USERDATA_COMMENT, len(comment))) + comment + userdata
    if userdata:
        yield attribute(_USERDATA, userdata)


# Reading


class Row(NamedTuple):
    """An element as the kernel keeps it."""

    key: bytes
    is_end: bool = False
    key_end: bytes = b""
    value: Value = PLAIN


def dump_request(table: str, set_name: str) -> bytes:
    """Pack a request for a dump of a set's elements."""
    return request(
        Subsystem.NFTABLES, GETSETELEM, 0, NfFamily.INET, name(_LIST_TABLE, table), name(_LIST_SET, set_name)
    )


def parse(data: bytes, start: int, end: int) -> list[Row] | None:
    """Read the elements of one message of a dump."""
    for kind, payload in attributes(data, start + FAMILY_HEADER.size, end):
        if kind == _LIST_ELEMENTS:
            return _plain_rows(payload) or [_row(part) for _, part in attributes(payload, 0, len(payload))]
    return None


def assemble(rows: Iterable[Row], *, is_interval: bool) -> dict[Key, Value]:
    """Return the elements that the rows of one set's dump stand for."""
    if not is_interval:
        return {row.key: row.value for row in rows}
    elements: dict[Key, Value] = {}
    begun: Row | None = None
    # Where one interval ends and the next begins at the same value, the end comes first.
    for row in sorted(rows, key=lambda row: (row.key, not row.is_end)):
        if row.key_end:
            elements[FieldIntervals(row.key, row.key_end)] = row.value
            continue
        if begun is not None:
            last = (int.from_bytes(row.key) - 1).to_bytes(len(row.key))
            elements[Interval(begun.key, last)] = begun.value
        begun = None if row.is_end else row
    if begun is not None:
        elements[Interval(begun.key, b"\xff" * len(begun.key))] = begun.value
    return elements


def _plain_rows(payload: bytes) -> list[Row]:
    """Read a list in which every element is a key of one length and nothing else; [] if it is not such a list."""
    if len(payload) < _PLAIN.size:
        return []
    size, _, _, key_kind, length, value_kind = _PLAIN.unpack_from(payload)
    length -= ATTRIBUTE.size
    padding = -length % 4
    if (key_kind, value_kind) != (_KEY, _DATA_VALUE) or size != _PLAIN.size + length + padding or len(payload) % size:
        return []
    head = payload[: _PLAIN.size]
    rows = []
    for found, key in struct.iter_unpack(f"{_PLAIN.size}s{length}s{padding}x", payload):
        if found != head:
            return []
        rows.append(Row(key))
    return rows


def _row(payload: bytes) -> Row:
    found = dict(attributes(payload, 0, len(payload)))
    is_end = _FLAGS in found and bool(read_be32(found[_FLAGS]) & _INTERVAL_END)
    verdict, chain = _read_verdict(found[_DATA]) if _DATA in found else ("", "")
    comment = _read_comment(found[_USERDATA]) if _USERDATA in found else ""
    value = Value(verdict, chain, comment) if verdict or comment else PLAIN
    return Row(_read_value(found[_KEY]), is_end, _read_value(found.get(_KEY_END, b"")), value)


def _read_value(payload: bytes) -> bytes:
    return next((value for _, value in attributes(payload, 0, len(payload))), b"")


def _read_verdict(payload: bytes) -> tuple[str, str]:
    for kind, verdict in attributes(payload, 0, len(payload)):
        if kind == _DATA_VERDICT:
            found = dict(attributes(verdict, 0, len(verdict)))
            code = read_be32(found[_VERDICT_CODE])
            return _VERDICT_NAMES.get(code, hex(code)), read_name(found.get(_VERDICT_CHAIN, b""))
    return "data", payload.hex()  # not a verdict map: not ours


def _read_comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _USERDATA_COMMENT:
            return read_name(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
