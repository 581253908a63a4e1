from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from felix.nft import clamp, masquerade, serviceguard
from felix.nft.elements import PLAIN
from felix.nft.enforcement import Change, Content, Difference, Enforcement, Report, SetContent
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.masquerade import Masquerade
from felix.nft.table import Batch, Refusal, SetText
from inet.prefix import Family, Prefix
from tests.felix.nft.contents import A6, CONTENT, A, with_chain, with_set

pytestmark = pytest.mark.kernel

DAMAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "everything flushed": ("flush ruleset", ("table is missing",)),
    "table deleted": ("delete table inet tortie", ("table is missing",)),
    "table asleep": ("add table inet tortie { flags dormant; }", ("table has other flags",)),
    "rule added": ("insert rule inet tortie forward accept", ("chain forward has other rules",)),
    "rule added with a set of its own": (
        "insert rule inet tortie forward tcp dport { 22, 80 } accept",
        ("chain forward has other rules",),
    ),
    "all rules of a chain gone": ("flush chain inet tortie db_in", ("chain db_in has other rules",)),
    "hook removed": (
        "flush chain inet tortie forward\ndelete chain inet tortie forward",
        ("chain forward is missing",),
    ),
    "policy of a hook changed": (
        "add chain inet tortie forward { policy drop; }",
        ("chain forward has another hook or comment",),
    ),
    "element deleted": (
        "delete element inet tortie from_pod4 { 10.0.0.1 }",
        ("set from_pod4 lacks 1 elements and has 0 that it should not have",),
    ),
    "elements added": (
        "add element inet tortie db4 { 10.9.0.1, 10.9.0.2 }",
        ("set db4 lacks 0 elements and has 2 that it should not have",),
    ),
    "verdict changed": (
        "delete element inet tortie from_pod6 { fd00::1 }\nadd element inet tortie from_pod6 { fd00::1 : accept }",
        ("set from_pod6 lacks 1 elements and has 1 that it should not have",),
    ),
    "interval widened": (
        "add element inet tortie db6 { fd01::/16 }",
        ("set db6 lacks 0 elements and has 1 that it should not have",),
    ),
    "a map emptied": (
        "flush map inet tortie from_pod4",
        ("set from_pod4 lacks 2 elements and has 0 that it should not have",),
    ),
    "things of somebody": (
        """add set inet tortie extra { type ipv4_addr; }
add chain inet tortie debug
add rule inet tortie debug ip saddr @extra accept
insert rule inet tortie from_pod jump debug""",
        ("chain debug is too much", "chain from_pod has other rules", "set extra is too much"),
    ),
    "a set of another type": (
        "delete set inet tortie named4\nadd set inet tortie named4 { type ipv6_addr; }",
        ("set named4 has another type or comment",),
    ),
    "rules replaced by others": (
        "flush chain inet tortie forward\nadd rule inet tortie forward jump from_pod\nflush chain inet tortie from_pod",
        ("chain forward has other rules", "chain from_pod has other rules"),
    ),
}


@pytest.mark.parametrize(("command", "findings"), DAMAGES.values(), ids=DAMAGES)
async def test_a_change_by_hand_is_found_and_repaired(
    kernel_table: KernelRuleTable, nft: Callable[..., str], command: str, findings: tuple[str, ...]
) -> None:
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    good = nft("-s", "list", "table", "inet", "tortie")
    nft(text=command)
    report = await enforcement.sync(CONTENT)
    assert sorted(map(str, report.differences)) == sorted(findings)
    assert report.refusals == ()
    assert sections(nft("-s", "list", "table", "inet", "tortie")) == sections(good)
    assert await enforcement.sync(CONTENT) == Report(())


def sections(listing: str) -> set[str]:
    """Return the chains and sets of a listing, in no order: a repaired one comes last."""
    return {block.rstrip("\n\t }") for block in listing.removeprefix("table inet tortie {\n").split("\n\n")}


async def test_an_unchanged_restart_writes_nothing_to_the_kernel(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    await Enforcement(kernel_table).sync(CONTENT)
    before = nft("-a", "list", "ruleset")
    assert await Enforcement(kernel_table).sync(CONTENT) == Report(())
    assert nft("-a", "list", "ruleset") == before  # with handles: nothing was made anew


EVERY_PREFIX = tuple(map(Prefix.parse, ("10.42.0.0/16", "fd42::/48")))
NAT = Masquerade(EVERY_PREFIX, EVERY_PREFIX, EVERY_PREFIX, EVERY_PREFIX, frozenset((A, A6)))
ADDRESSES = {Family.IPV4: bytes((192, 0, 2, 1)), Family.IPV6: bytes((0x20, 1, *13 * [0], 1))}
PARTS = {
    "segments": clamp.render(["eth0"]),
    "services": serviceguard.render(EVERY_PREFIX),
    "NAT": masquerade.render(NAT),
    "NAT by ports": masquerade.render(replace(NAT, ports=(1024, 65535))),
    "NAT, ports as they are": masquerade.render(replace(NAT, fully_random=False)),
    "NAT to an address": masquerade.render(replace(NAT, addresses=ADDRESSES)),
    "NAT to an address, ports as they are": masquerade.render(replace(NAT, fully_random=False, addresses=ADDRESSES)),
    "NAT to an address by ports": masquerade.render(replace(NAT, ports=(1024, 65535), addresses=ADDRESSES)),
    "priorities": Content(
        {
            f"{name}_{number}": f"type filter hook prerouting priority {name}{sign}; policy drop;\naccept"
            for name in ("raw", "mangle", "filter", "security")
            for number, sign in enumerate(("", " + 5", " - 5"))
        }
        | {"numbered": "type nat hook postrouting priority -7;", "remarkable": 'comment "it"\naccept comment "that"'},
        {"marks": SetContent(SetText('type mark\ncomment "set"'), {})},
    ),
}


@pytest.mark.parametrize("content", PARTS.values(), ids=PARTS)
async def test_what_was_written_is_found_to_be_what_is_wanted(kernel_table: KernelRuleTable, content: Content) -> None:
    """The kernel's words for a rule may be others than the compiler's: every rule we write is to be tried here."""
    assert not (await Enforcement(kernel_table).sync(content)).refusals
    assert await Enforcement(kernel_table).sync(content) == Report(())


async def test_foreign_tables_stay_as_they_are(kernel_table: KernelRuleTable, nft: Callable[..., str]) -> None:
    nft(
        text="""table ip tortie {
 chain forward { type filter hook forward priority 0; policy accept; counter; }
}
table ip6 other {
 set s { type ipv6_addr; flags interval; elements = { fd00::/8 } }
 chain db_in { ip6 saddr @s drop; }
}
table inet kube-proxy {
 map m { type ipv4_addr : verdict; elements = { 10.0.0.1 : drop } }
}
"""
    )
    foreign = nft("-a", "list", "ruleset")
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    await enforcement.sync(with_set(CONTENT, "db4", SetContent(SetText("type ipv6_addr"), {A6: PLAIN})))
    await enforcement.sync(with_chain(CONTENT, "db_in", "drop"))
    await enforcement.change(Change(chains={"new": "drop"}, chains_removed=["new"]))
    assert nft("-a", "list", "ruleset").startswith(foreign)
    nft("delete", "table", "inet", "tortie")
    assert nft("-a", "list", "ruleset") == foreign


async def test_a_set_of_another_type_is_replaced_while_pods_get_nothing(
    kernel_table: KernelRuleTable, nft: Callable[..., str]
) -> None:
    enforcement = Enforcement(kernel_table)
    await enforcement.sync(CONTENT)
    other = with_set(
        with_chain(CONTENT, "db_in", "ip6 daddr @db4 drop\nip6 daddr @db6 accept"),
        "db4",
        SetContent(SetText("type ipv6_addr"), {A6: PLAIN}),
    )
    seen: list[tuple[str, str]] = []
    original = kernel_table.write

    async def write(batch: Batch) -> list[Refusal]:
        seen.append((nft("list", "map", "inet", "tortie", "from_pod4"), nft("list", "set", "inet", "tortie", "db6")))
        return await original(batch)

    kernel_table.write = write
    report = await enforcement.sync(other)
    assert (report.differences[-1], report.refusals) == (
        Difference("set db4", "has another type or comment"),
        (),
    )
    assert seen
    assert all("elements" not in pods and "elements" in others for pods, others in seen)
    assert await enforcement.sync(other) == Report(())
