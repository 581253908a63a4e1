from __future__ import annotations

from ipaddress import ip_network

import pytest

from inet.intervals import normalise
from inet.prefix import Family
from policy.cidr import address_text, holds_address, is_strict_cidr, is_whole, pack_address, parse_block


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.168.1.10/4", "192.0.0.0/4"),
        ("010.0.0.0/8", "10.0.0.0/8"),
        ("10.000.0.1/32", "10.0.0.1/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
        ("::ffff:10.1.0.0/112", "10.1.0.0/16"),
        ("::ffff:0:0/64", "::/64"),
    ],
)
def test_a_block_is_read_as_the_api_server_reads_it(text: str, canonical: str) -> None:
    block = parse_block(text)
    assert str(block) == canonical
    network = ip_network(canonical)
    assert block.interval == (int(network[0]), int(network[-1]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.0/-1",
        "10.0.0.0/8/8",
        "x/8",
        "10.0.0.0/²",
    ],
)
def test_what_is_no_block_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a valid CIDR value"):
        parse_block(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", True),
        ("10.0.0.1/8", True),
        ("fd00::/8", True),
        ("010.0.0.0/8", False),
        ("::ffff:10.0.0.0/104", False),
        ("10.0.0.0", False),
        ("10.0.0.0/255.0.0.0", False),
        ("fe80::1%eth0/64", False),
    ],
)
def test_strict_cidrs(text: str, *, expected: bool) -> None:
    assert is_strict_cidr(text) is expected


def test_a_block_holds_its_strict_parts() -> None:
    assert parse_block("10.0.0.0/8").holds(parse_block("10.1.0.0/16"))
    assert not parse_block("10.0.0.0/8").holds(parse_block("10.0.0.0/8"))
    assert not parse_block("10.0.0.0/8").holds(parse_block("11.0.0.0/16"))
    assert not parse_block("::/0").holds(parse_block("10.0.0.0/8"))


def test_an_address_is_in_blocks_of_its_own_family() -> None:
    blocks = (parse_block("10.0.0.0/8"), parse_block("::/1"))
    assert holds_address(blocks, pack_address("10.255.0.1"))
    assert not holds_address(blocks, pack_address("11.0.0.1"))
    assert holds_address(blocks, pack_address("2001:db8::1"))
    assert not holds_address(blocks[:1], pack_address("::a00:1"))


def test_whole_families() -> None:
    assert is_whole((parse_block("0.0.0.0/0").interval,), Family.IPV4)
    assert is_whole(normalise([parse_block("::/1").interval, parse_block("8000::/1").interval]), Family.IPV6)
    assert not is_whole((parse_block("0.0.0.0/0").interval,), Family.IPV6)


def test_addresses_are_written_as_people_do() -> None:
    assert address_text(pack_address("2001:0DB8::0001")) == "2001:db8::1"
    for text in ("10.0.0.256", "", "10.0.0.0/8", "fe80::1%lo", "\N{SUPERSCRIPT TWO}"):
        with pytest.raises(ValueError, match="must be a valid IP address"):
            pack_address(text)
