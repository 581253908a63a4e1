from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from felix.netlink import attributes
from felix.nfnetlink import FAMILY_HEADER, Reader
from felix.nft.elements import (
    PLAIN,
    ElementChange,
    FieldIntervals,
    Interval,
    Key,
    Row,
    Value,
    assemble,
    concatenate,
    dump_request,
    key_text,
    requests,
)
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.table import TABLE, Batch, Definition, SetText
from inet.prefix import Family

TCP, UDP = bytes([6]), bytes([17])


def port(number: int) -> bytes:
    return number.to_bytes(2)


def address(family: Family, last: int) -> bytes:
    """Return an address whose last bytes are `last`, in a block of its own."""
    if family is Family.IPV4:
        return (0x0A400000 + last).to_bytes(4)
    return ((0xFD64 << 112) + last).to_bytes(16)


def every(family: Family, bit: int) -> bytes:
    return bytes([0xFF * bit] * (family.bits // 8))


@dataclass(frozen=True)
class Form:
    """A set, its elements as values, and the same in nft's words. `{a[1]}` is address(1), `{o}`: 1.1.1.1, `{max}`."""

    type: str
    elements: Callable[[Family], dict[Key, Value]]
    text: str
    chains: tuple[str, ...] = ()


FORMS = {
    "addresses": Form(
        "type {addr}",
        lambda family: {address(family, i): PLAIN for i in range(1, 4)},
        "{a[1]}, {a[2]}, {a[3]}",
    ),
    "addresses with comments": Form(
        "type {addr}",
        lambda family: {
            address(family, 1): Value(comment="shop/front"),
            address(family, 2): PLAIN,
            address(family, 3): Value(comment="c" * 127),
        },
        '{a[1]} comment "shop/front", {a[2]}, {a[3]} comment "' + "c" * 127 + '"',
    ),
    "ports": Form(
        "type inet_service",
        lambda _: {port(80): PLAIN, port(65535): PLAIN},
        "80, 65535",
    ),
    "concatenations": Form(
        "type {addr} . inet_proto . inet_service",
        lambda family: {
            concatenate(address(family, 1), TCP, port(80)): PLAIN,
            concatenate(address(family, 1), UDP, port(53)): Value(comment="dns"),
            concatenate(address(family, 2), TCP, port(80)): PLAIN,
        },
        '{a[1]} . tcp . 80, {a[1]} . udp . 53 comment "dns", {a[2]} . tcp . 80',
    ),
    "intervals": Form(
        "type {addr}; flags interval",
        lambda family: {
            Interval(address(family, 0), address(family, 255)): PLAIN,
            Interval(address(family, 300), address(family, 300)): Value(comment="one"),
            Interval(address(family, 1024), address(family, 1030)): PLAIN,
        },
        '{a[0]}-{a[255]}, {a[300]} comment "one", {a[1024]}-{a[1030]}',
    ),
    "intervals from the first to the last value": Form(
        "type {addr}; flags interval",
        lambda family: {
            Interval(every(family, 0), address(family, 1)): PLAIN,
            Interval(address(family, 3), every(family, 1)): Value(comment="up to the end"),
        },
        '{min}-{a[1]}, {a[3]}-{max} comment "up to the end"',
    ),
    "everything": Form(
        "type {addr}; flags interval",
        lambda family: {Interval(every(family, 0), every(family, 1)): PLAIN},
        "{min}-{max}",
    ),
    "intervals side by side": Form(
        "type {addr}; flags interval",
        lambda family: {
            Interval(address(family, 0), address(family, 127)): Value(comment="lower"),
            Interval(address(family, 128), address(family, 255)): Value(comment="upper"),
        },
        '{a[0]}-{a[127]} comment "lower", {a[128]}-{a[255]} comment "upper"',
    ),
    "intervals of ports": Form(
        "type inet_service; flags interval",
        lambda _: {
            Interval(port(0), port(9)): PLAIN,
            Interval(port(80), port(80)): PLAIN,
            Interval(port(32768), port(65535)): PLAIN,
        },
        "0-9, 80, 32768-65535",
    ),
    "intervals of concatenations": Form(
        "type {addr} . inet_service; flags interval",
        lambda family: {
            FieldIntervals(
                concatenate(address(family, 0), port(80)), concatenate(address(family, 255), port(90))
            ): Value(comment="web"),
            FieldIntervals(
                concatenate(address(family, 512), port(53)), concatenate(address(family, 512), port(53))
            ): PLAIN,
        },
        '{a[0]}-{a[255]} . 80-90 comment "web", {a[512]} . 53',
    ),
    "a verdict map": Form(
        "type {addr} : verdict",
        lambda family: {
            address(family, 1): Value("accept", comment="shop/front"),
            address(family, 2): Value("drop"),
            address(family, 3): Value("jump", "one"),
            address(family, 4): Value("goto", "two", "shop/db"),
            address(family, 5): Value("return"),
            address(family, 6): Value("continue"),
        },
        '{a[1]} comment "shop/front" : accept, {a[2]} : drop, {a[3]} : jump one, '
        '{a[4]} comment "shop/db" : goto two, {a[5]} : return, {a[6]} : continue',
        ("one", "two"),
    ),
    "a verdict map of intervals": Form(
        "type {addr} : verdict; flags interval",
        lambda family: {
            Interval(address(family, 0), address(family, 255)): Value("jump", "one", "lower"),
            Interval(address(family, 256), every(family, 1)): Value("drop"),
        },
        '{a[0]}-{a[255]} comment "lower" : jump one, {a[256]}-{max} : drop',
        ("one",),
    ),
    "a verdict map of concatenations": Form(
        "type {addr} . inet_proto . inet_service : verdict",
        lambda family: {
            concatenate(address(family, 1), TCP, port(80)): Value("goto", "one"),
            concatenate(address(family, 1), UDP, port(80)): Value("accept"),
        },
        "{a[1]} . tcp . 80 : goto one, {a[1]} . udp . 80 : accept",
        ("one",),
    ),
}


def written(template: str, family: Family) -> str:
    texts = {
        i: str(ip_address(address(family, i))) for i in (0, 1, 2, 3, 4, 5, 6, 127, 128, 255, 256, 300, 512, 1024, 1030)
    }
    edges = {"min": str(ip_address(every(family, 0))), "max": str(ip_address(every(family, 1)))}
    return template.format(a=texts, addr="ipv4_addr" if family is Family.IPV4 else "ipv6_addr", **edges)


def added(elements: dict[Key, Value]) -> list[ElementChange]:
    return [ElementChange("it", key, is_added=True, value=value) for key, value in elements.items()]


async def dumped() -> set[bytes]:
    """Return the elements bit by bit, user data included, but for an end before everything that nft likes to add."""
    end_flag = struct.pack("=HH", 8, 3) + struct.pack("!I", 1)

    def parse(data: bytes, start: int, end: int) -> list[bytes]:
        [elements] = [payload for kind, payload in attributes(data, start + FAMILY_HEADER.size, end) if kind == 3]
        return [payload for _, payload in attributes(elements, 0, len(elements))]

    with contextlib.closing(Reader()) as reader:
        parts = await reader.dump(dump_request(TABLE, "it"), parse)
    return {each for part in parts for each in part if any(each[8 : -len(end_flag)]) or not each.endswith(end_flag)}


@pytest.mark.kernel
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
async def test_raw_elements_are_what_nft_would_have_written(
    form: Form, family: Family, kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    definition = Definition(
        sets={"it": SetText(written(form.type, family), is_map=": verdict" in form.type)},
        chains=dict.fromkeys(form.chains, "accept"),
    )
    assert await kernel_table.define(definition) == []
    empty = nft("list", "table", "inet", TABLE)
    elements = form.elements(family)

    assert await kernel_table.write(Batch(added(elements))) == []
    listing, bits = nft("list", "table", "inet", TABLE), await dumped()
    structure = await kernel_table.read()
    assert structure is not None
    assert await kernel_table.read_elements("it", structure.sets["it"]) == elements

    assert await kernel_table.write(Batch([each._replace(is_added=False) for each in added(elements)])) == []
    assert nft("list", "table", "inet", TABLE) == empty

    nft("add", "element", "inet", TABLE, "it", f"{{ {written(form.text, family)} }}")
    assert nft("list", "table", "inet", TABLE) == listing
    assert await dumped() == bits
    assert await kernel_table.read_elements("it", structure.sets["it"]) == elements


@pytest.mark.kernel
async def test_an_interval_may_shrink_grow_and_move_in_one_transaction(
    family: Family, kernel_table: KernelRuleTable
) -> None:
    await kernel_table.define(Definition(sets={"it": SetText(written("type {addr}; flags interval", family))}))
    structure = await kernel_table.read()
    assert structure is not None
    steps = [(0, 255), (0, 127), (64, 511), (512, 600), (0, 1023)]
    before: list[ElementChange] = []
    for first, last in steps:
        now = added({Interval(address(family, first), address(family, last)): PLAIN})
        # Additions come first on purpose: the order within a transaction is not the caller's concern.
        assert await kernel_table.write(Batch([*now, *(each._replace(is_added=False) for each in before)])) == []
        assert await kernel_table.read_elements("it", structure.sets["it"]) == {now[0].key: PLAIN}
        before = now


@pytest.mark.kernel
async def test_more_elements_than_a_message_holds_are_one_transaction(
    family: Family, kernel_table: KernelRuleTable
) -> None:
    await kernel_table.define(Definition(sets={"it": SetText(written("type {addr}", family))}))
    structure = await kernel_table.read()
    assert structure is not None
    many = {address(family, i): PLAIN for i in range(20_000)}
    absent = ElementChange("it", address(family, 99_999), is_added=False)
    assert len(list(requests(TABLE, added(many)))) > 5
    refused = await kernel_table.write(Batch([*added(many), absent]))
    assert [each.change for each in refused] == [absent]
    assert await kernel_table.read_elements("it", structure.sets["it"]) == {}
    assert await kernel_table.write(Batch(added(many))) == []
    assert await kernel_table.write(Batch([each._replace(is_added=False) for each in added(many)])) == []


@pytest.mark.kernel
async def test_a_transaction_may_be_larger_than_any_socket_buffer_is(kernel_table: KernelRuleTable) -> None:
    await kernel_table.define(Definition(sets={"it": SetText("type ipv6_addr")}))
    many = added({address(Family.IPV6, i): PLAIN for i in range(60_000)})
    assert await kernel_table.write(Batch(many)) == []
    # Reading would not do: a table that has just grown is dumped in part.
    assert await kernel_table.write(Batch([each._replace(is_added=False) for each in many])) == []


def test_deletions_come_before_additions() -> None:
    key = address(Family.IPV4, 1)
    changes = [ElementChange("b", key, is_added=True), ElementChange("a", key, is_added=False)]
    assert [request.subject for request in requests(TABLE, changes)] == ["a", "b"]


def test_an_interval_ends_where_the_next_begins() -> None:
    """The kernel may keep no end between two that touch, and has one at the very first value."""
    rows = [Row(b"\x00", is_end=True), Row(b"\x80"), Row(b"\x20"), Row(b"\x40", is_end=True), Row(b"\x10")]
    assert assemble(rows, is_interval=True) == {
        Interval(b"\x10", b"\x1f"): PLAIN,
        Interval(b"\x20", b"\x3f"): PLAIN,
        Interval(b"\x80", b"\xff"): PLAIN,
    }


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (socket.inet_aton("10.0.0.1"), "10.0.0.1"),
        (Interval(socket.inet_aton("10.0.0.1"), socket.inet_aton("10.0.0.9")), "10.0.0.1-10.0.0.9"),
        (Interval(bytes(16), bytes(16)), "::"),
        (port(80), "0050"),
    ],
)
def test_people_read_keys_as_text(key: Key, text: str) -> None:
    assert key_text(key) == text
