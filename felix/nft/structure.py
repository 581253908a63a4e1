"""The chains and sets that a network namespace has, read in a form that can be compared (linux/netfilter/nf_tables.h).

Rules are kept as digests of what they say in libnftnl's words, less what changes by itself: handles and counters. The
rules that a text is compiled to are put in the same words.
"""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import blake2b
from typing import Final

from felix.netlink import HEADER, attributes
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
from felix.nft.texts import chain_header, set_header

_GETTABLE: Final = 1
_GETCHAIN: Final = 4
_GETRULE: Final = 7
_GETSET: Final = 10

_TABLE: Final = 1  # the name of the table, in all of them
_TABLE_FLAGS: Final = 2

_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE, _CHAIN_USERDATA = 3, 4, 5, 7, 12  # NFTA_CHAIN_*
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2  # NFTA_HOOK_*
_CHAIN_COMMENT: Final = 0  # NFTNL_UDATA_CHAIN_COMMENT

_RULE_CHAIN: Final = 2

_ANONYMOUS: Final = 0x1  # NFT_SET_ANONYMOUS
_SET_NAME, _SET_FLAGS, _SET_KEY_TYPE, _SET_DATA_TYPE, _SET_TIMEOUT, _SET_USERDATA = 2, 3, 4, 6, 11, 13  # NFTA_SET_*
_SET_COMMENT: Final = 7  # NFTNL_UDATA_SET_COMMENT

# The kernel tells of what nobody has to tell it: counts, flags and times that are zero, and of address translation the
# end of a range of one address, and that there are ranges (NF_NAT_RANGE_MAP_IPS, _PROTO_SPECIFIED).
_SAYING_NOTHING: Final = re.compile(rb" pkts \d+ bytes \d+| 0x0(?= \])| timeout 0ms| $", re.MULTILINE)
_TRANSLATION: Final = re.compile(rb"(\[ nat .*addr_min reg (\d+))(?: addr_max reg \2)?(.*?)(?: flags 0x(\w+))? \]")
_RANGES: Final = 0x3


async def read_structure(reader: Reader, table: str, words: Callable[[bytes], bytes]) -> Structure | None:
    """Return the chains and sets of a table, None without it; `words` puts a rule's message so. Raises OSError."""
    flags = _read_flags(reader, table)
    if flags is None:
        return None
    in_table = name(_TABLE, table)
    chains = await reader.dump(_request(_GETCHAIN), _parse_chain)
    rules = await reader.dump(_request(_GETRULE, in_table), partial(_parse_rule, words))
    sets = await reader.dump(_request(_GETSET, in_table), _parse_set)
    headers = {chain: header for of_table, chain, header in chains if of_table == table}
    return Structure(chain_shapes(headers, rules), dict(sets), flags)


def chain_shapes(headers: Mapping[str, str], rules: Iterable[tuple[str, bytes]]) -> dict[str, ChainShape]:
    """Put chains together of their headers and of all rules' words, each with the name of its chain."""
    digests: defaultdict[str, blake2b] = defaultdict(lambda: blake2b(digest_size=16))
    for chain, content in rules:
        said = _TRANSLATION.sub(_translation, _SAYING_NOTHING.sub(b"", content))
        digests[chain].update(len(said).to_bytes(4) + said)
    return {chain: ChainShape(header, digests[chain].digest()) for chain, header in headers.items()}


def _translation(found: re.Match[bytes]) -> bytes:
    return b"%b%b flags %x ]" % (found[1], found[3], int(found[4] or b"0", 16) & ~_RANGES)


def compiled_rules(output: bytes, table: str) -> Iterator[tuple[str, bytes]]:
    """Yield the chain and the words of each rule of a table that a text was compiled to (`Context.compile`)."""
    block = re.compile(rb"^inet %b (\S+).*\n((?:  .*\n)*)" % table.encode(), re.MULTILINE)
    return ((each[1].decode(), each[2].rstrip(b"\n")) for each in block.finditer(output))


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


def _parse_chain(data: bytes, start: int, end: int) -> tuple[str, str, str]:
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    hook = dict(attributes(found.get(_CHAIN_HOOK, b""), 0, len(found.get(_CHAIN_HOOK, b""))))
    header = chain_header(
        read_name(found.get(_CHAIN_TYPE, b"") if hook else b""),
        int.from_bytes(hook.get(_HOOK_NUMBER, b"")),
        int.from_bytes(hook.get(_HOOK_PRIORITY, b""), signed=True),
        int.from_bytes(found.get(_CHAIN_POLICY, b"") if hook else b""),
        _comment(found.get(_CHAIN_USERDATA, b""), _CHAIN_COMMENT),
    )
    return read_name(found[_TABLE]), read_name(found[_CHAIN_NAME]), header


def _parse_rule(words: Callable[[bytes], bytes], data: bytes, start: int, end: int) -> tuple[str, bytes]:
    """Return the chain of a rule, and what the rule says."""
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    message = data[start - HEADER.size : end]
    return read_name(found[_RULE_CHAIN]), words(message).partition(b"\n")[2].rstrip(b"\n") or message


def _parse_set(data: bytes, start: int, end: int) -> tuple[str, SetShape] | None:
    """Return a set that has a name. The others come and go with the rule they are of."""
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    flags = read_be32(found[_SET_FLAGS]) if _SET_FLAGS in found else 0
    header = set_header(
        int.from_bytes(found.get(_SET_KEY_TYPE, b"")),
        int.from_bytes(found.get(_SET_DATA_TYPE, b"")),
        int.from_bytes(found.get(_SET_TIMEOUT, b"")),
        _comment(found.get(_SET_USERDATA, b""), _SET_COMMENT),
    )
    return None if flags & _ANONYMOUS else (read_name(found[_SET_NAME]), SetShape(flags, header))


def _comment(userdata: bytes, kind: int) -> str:
    """Return the comment in what nft notes for itself: pieces of type, length, content (libnftnl/udata.h)."""
    while len(userdata) > 1:
        end = 2 + userdata[1]
        if userdata[0] == kind:
            return read_name(userdata[2:end])
        userdata = userdata[end:]
    return ""
