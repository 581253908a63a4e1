"""What the rules of a chain have counted, by their comments (linux/netfilter/nf_tables.h, NFTA_COUNTER_*)."""

from __future__ import annotations

from typing import Final, NamedTuple

from felix.netlink import attributes
from felix.nfnetlink import FAMILY_HEADER, NfFamily, Reader, Subsystem, closing_aside, name, read_name, request

_GETRULE: Final = 7
_TABLE: Final = 1  # NFTA_RULE_*
_CHAIN: Final = 2
_EXPRESSIONS: Final = 4
_USERDATA: Final = 7

_EXPRESSION_NAME: Final = 1
_EXPRESSION_DATA: Final = 2
_BYTES: Final = 1
_PACKETS: Final = 2
_COMMENT: Final = 0  # NFTNL_UDATA_RULE_COMMENT


class RuleCount(NamedTuple):
    """One rule with a counter. Packets of known connections do not come by."""

    comment: str
    packets: int
    bytes: int


async def rule_counts(table: str, chain: str) -> list[RuleCount]:
    """Return what a chain's rules have counted, in order; nothing of a chain that is not there. Raises OSError."""

    def parse(data: bytes, start: int, end: int) -> RuleCount | None:
        found = dict(attributes(data, start + FAMILY_HEADER.size, end))
        if read_name(found.get(_CHAIN, b"")) != chain:
            return None  # a kernel before 5.17 does not filter
        expressions = found.get(_EXPRESSIONS, b"")
        for _, expression in attributes(expressions, 0, len(expressions)):
            parts = dict(attributes(expression, 0, len(expression)))
            if read_name(parts[_EXPRESSION_NAME]) == "counter":
                counted = dict(attributes(parts[_EXPRESSION_DATA], 0, len(parts[_EXPRESSION_DATA])))
                numbers = (int.from_bytes(counted[kind]) for kind in (_PACKETS, _BYTES))
                return RuleCount(_read_comment(found.get(_USERDATA, b"")), *numbers)
        return None

    asked = request(Subsystem.NFTABLES, _GETRULE, 0, NfFamily.INET, name(_TABLE, table), name(_CHAIN, chain))
    with closing_aside(Reader()) as reader:
        try:
            return await reader.dump(asked, parse)
        except FileNotFoundError:
            return []


def _read_comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return read_name(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
