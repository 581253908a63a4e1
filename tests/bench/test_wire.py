from __future__ import annotations

from ipaddress import ip_address

import pytest

from bench import load, wire
from inet.prefix import Family, IPAddress, Prefix

FAMILIES = pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)


def bodies(data: bytes) -> list[tuple[int, bytes]]:
    """Take messages apart: kind, body."""
    found = []
    while data:
        assert data[:16] == b"\xff" * 16
        length = int.from_bytes(data[16:18])
        assert wire.HEADER_BYTES <= length <= 4096
        found.append((data[18], data[wire.HEADER_BYTES : length]))
        data = data[length:]
    return found


def attributes(body: bytes) -> dict[int, bytes]:
    """Take the attributes of an UPDATE apart: type → value. There are no withdrawn routes."""
    assert body[:2] == b"\0\0"
    data, found = body[4 : 4 + int.from_bytes(body[2:4])], {}
    while data:
        head = 4 if data[0] & 0x10 else 3
        length = int.from_bytes(data[2:head])
        found[data[1]] = data[head : head + length]
        data = data[head + length :]
    return found


def announced(body: bytes, family: Family) -> list[Prefix]:
    """Return the prefixes of an UPDATE."""
    size = family.bits // 8
    nlri = body[4 + int.from_bytes(body[2:4]) :] if family is Family.IPV4 else attributes(body)[14][5 + 16 :]
    found = []
    while nlri:
        octets = (nlri[0] + 7) // 8
        found.append(Prefix(nlri[1 : 1 + octets] + bytes(size - octets), nlri[0]))
        nlri = nlri[1 + octets :]
    return found


def next_hop(family: Family) -> IPAddress:
    return ip_address("10.99.1.2" if family is Family.IPV4 else "fd99:1::2")


@FAMILIES
def test_full_updates_carry_every_prefix_once_in_few_messages(family: Family) -> None:
    wanted = list(load.prefixes(family, 5000))
    messages = bodies(b"".join(wire.updates(wanted, next_hop(family), [65100], own_med=False)))
    assert [prefix for _, body in messages for prefix in announced(body, family)] == wanted
    assert len(messages) <= (6 if family is Family.IPV4 else 12)
    assert {kind for kind, _ in messages} == {wire.UPDATE}


@FAMILIES
def test_each_prefix_has_an_update_and_a_med_of_its_own_where_asked(family: Family) -> None:
    messages = bodies(b"".join(wire.updates(load.prefixes(family, 300), next_hop(family), [65100], own_med=True)))
    assert len(messages) == 300
    assert len({attributes(body)[4] for _, body in messages}) == 300


@FAMILIES
def test_an_external_path_has_the_as_and_an_internal_one_a_local_preference(family: Family) -> None:
    for as_path in ([65100], []):
        [(_, body)] = bodies(b"".join(wire.updates(load.prefixes(family, 1), next_hop(family), as_path, own_med=False)))
        found = attributes(body)
        assert found[2] == (b"\x02\x01" + (65100).to_bytes(4) if as_path else b"")
        assert (5 in found) == (not as_path)


@FAMILIES
def test_end_of_rib_is_told_from_an_update(family: Family) -> None:
    [(_, end)] = bodies(wire.end_of_rib(family))
    [(_, update)] = bodies(b"".join(wire.updates(load.prefixes(family, 1), next_hop(family), [65100], own_med=False)))
    assert wire.is_end_of_rib(end)
    assert not wire.is_end_of_rib(update)


@FAMILIES
def test_the_load_lies_in_its_cover_and_the_marker_outside(family: Family) -> None:
    prefixes = list(load.prefixes(family, 2000))
    assert len(set(prefixes)) == 2000
    assert all(load.COVERS[family].contains(prefix) for prefix in prefixes)
    assert not load.COVERS[family].overlaps(load.MARKERS[family])
