from __future__ import annotations

from felix.netlink import Flag, attributes, messages
from felix.nfnetlink import (
    BODY,
    FAMILY_HEADER,
    NfFamily,
    Subsystem,
    be32,
    name,
    nested,
    read_be32,
    read_name,
    request,
)


def test_a_request_reads_back_as_it_was_packed() -> None:
    data = request(
        Subsystem.NFTABLES, 12, Flag.CREATE, NfFamily.INET, name(1, "tortie"), nested(3, be32(1, 7)), resource=5
    )
    [found] = messages(data)
    assert (found.kind, found.flags) == (0x0A0C, Flag.CREATE | Flag.REQUEST)
    assert FAMILY_HEADER.unpack_from(data, found.start) == (NfFamily.INET, 0, 5)
    [(first, text), (third, inner)] = attributes(data, BODY, found.end)
    assert (first, read_name(text), third) == (1, "tortie", 3)
    assert [(kind, read_be32(payload)) for kind, payload in attributes(inner, 0, len(inner))] == [(1, 7)]


def test_negative_numbers_are_packed_as_the_kernel_keeps_verdicts() -> None:
    assert be32(1, -3)[4:] == b"\xff\xff\xff\xfd"
