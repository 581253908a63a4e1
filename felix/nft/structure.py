"""The chains and sets that a network namespace has, read in a form that can be compared (linux/netfilter/nf_tables.h).

Rules are kept as digests of what the kernel says of them, in its own terms, less what changes by itself: handles and
counters. What the kernel made of a text is known by giving it the text in a table that sleeps.
"""

from __future__ import annotations

import errno
from hashlib import blake2b
from typing import Final

from felix.netlink import attribute, attributes
from felix.nfnetlink import (
    FAMILY_HEADER,
    NfFamily,
    Reader,
    Subsystem,
    name,
    read_be32,
    read_name,
    request,
)
from felix.nft.table import ChainShape, SetShape, Structure

_GETTABLE: Final = 1
_GETCHAIN: Final = 4
_GETRULE: Final = 7
_GETSET: Final = 10

_TABLE: Final = 1  # the name of the table, in all of them
_TABLE_FLAGS: Final = 2

_CHAIN_NAME: Final = 3
_CHAIN_HEADER: Final = (7, 4, 5, 10, 12)  # NFTA_CHAIN_TYPE, _HOOK, _POLICY, _FLAGS, _USERDATA

_RULE_CHAIN: Final = 2
_RULE_EXPRESSIONS: Final = 4
_RULE_USERDATA: Final = 7
_COUNTER: Final = attribute(1, b"counter\0")  # NFTA_EXPR_NAME

_ANONYMOUS: Final = 0x1  # NFT_SET_ANONYMOUS
_SET_NAME: Final = 2
_SET_FLAGS: Final = 3
_SET_HEADER: Final = (4, 5, 6, 7, 11, 13)  # NFTA_SET_KEY_TYPE, _KEY_LEN, _DATA_TYPE, _DATA_LEN, _TIMEOUT, _USERDATA


async def read_structure(reader: Reader, table: str) -> Structure | None:
    """Return the chains and sets of a table, None without it. Raises OSError."""
    flags = _read_flags(reader, table)
    if flags is None:
        return None
    in_table = name(_TABLE, table)
    chains = await reader.dump(_request(_GETCHAIN), _parse_chain)
    rules = await reader.dump(_request(_GETRULE, in_table), _parse_rule)
    sets = await reader.dump(_request(_GETSET, in_table), _parse_set)
    digests = {chain: blake2b(digest_size=16) for of_table, chain, _ in chains if of_table == table}
    for chain, content in rules:
        if chain in digests:  # it may have come since the chains were read
            digests[chain].update(content)
    headers = {chain: header for of_table, chain, header in chains if of_table == table}
    return Structure(
        {chain: ChainShape(header, digests[chain].digest()) for chain, header in headers.items()}, dict(sets), flags
    )


def _request(number: int, *attributes: bytes) -> bytes:
    return request(Subsystem.NFTABLES, number, 0, NfFamily.INET, *attributes)


def _read_flags(reader: Reader, table: str) -> int | None:
    try:
        answer = reader.ask(_request(_GETTABLE, name(_TABLE, table)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return read_be32(dict(attributes(answer, FAMILY_HEADER.size, len(answer)))[_TABLE_FLAGS])


def _parse_chain(data: bytes, start: int, end: int) -> tuple[str, str, bytes]:
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    header = b"".join(attribute(kind, found[kind]) for kind in _CHAIN_HEADER if kind in found)
    return read_name(found[_TABLE]), read_name(found[_CHAIN_NAME]), header


def _parse_rule(data: bytes, start: int, end: int) -> tuple[str, bytes]:
    """Return the chain of a rule, and what the rule says."""
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    expressions = found.get(_RULE_EXPRESSIONS, b"")
    parts = [
        _COUNTER if expression.startswith(_COUNTER) else expression
        for _, expression in attributes(expressions, 0, len(expressions))
    ]
    content = b"".join((*parts, found.get(_RULE_USERDATA, b"")))
    return read_name(found[_RULE_CHAIN]), len(content).to_bytes(4) + content


def _parse_set(data: bytes, start: int, end: int) -> tuple[str, SetShape] | None:
    """Return a set that has a name. The others come and go with the rule they are of."""
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    header = b"".join(attribute(kind, found[kind]) for kind in _SET_HEADER if kind in found)
    flags = read_be32(found[_SET_FLAGS]) if _SET_FLAGS in found else 0
    return None if flags & _ANONYMOUS else (read_name(found[_SET_NAME]), SetShape(flags, header))
