"""What the kernel can do, how it is set, and how full its tables are."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agent.doctor import Check, Finding, Level, Patient
from felix import sysctl
from felix.netlink import Flag, NetlinkSocket, attribute, message
from felix.netlinktable import kernel_has_nexthop_objects
from felix.nft.probe import missing
from felix.uplinks import advertised
from inet.prefix import Family, Prefix

_NEWLINK: Final = 16
_IFNAME, _LINKINFO, _INFO_KIND = 3, 18, 1
_KINDS: Final = {"VXLAN": ("vxlan",), "IPIP": ("ipip", "ip6tnl")}
_MODULES: Final = {"vxlan": "vxlan", "ipip": "ipip", "ip6tnl": "ip6_tunnel"}
_OPTIONS: Final = {"vxlan": "CONFIG_VXLAN", "ipip": "CONFIG_NET_IPIP", "ip6tnl": "CONFIG_IPV6_TUNNEL"}


# Features


class Features(NamedTuple):
    """What is missing."""

    nft: tuple[str, ...]
    has_nexthop_objects: bool
    tunnels: tuple[tuple[str, str], ...]  # (type that is configured, device kind that is missing)


async def gather_features(patient: Patient) -> Features:
    """Ask the kernel, in dry runs."""
    wanted = patient.cluster.tunnels if patient.cluster else ()
    lacking = tuple(map(str, await missing()))
    if any(os.strerror(errno.EPERM) in each for each in lacking):
        raise PermissionError("the kernel tells what it has to root alone")
    return Features(
        lacking,
        kernel_has_nexthop_objects(),
        tuple((type_, kind) for type_ in wanted for kind in _KINDS[type_] if not has_device_kind(kind)),
    )


def judge_features(facts: Features) -> Iterator[Finding]:
    """Without nftables no policy; without the rest something is slower or not to be had."""
    name = FEATURES.name
    for each in facts.nft:
        yield Finding(name, Level.FAIL, f"missing: {each}", "use a kernel that has it, or load its module")
    for type_, kind in facts.tunnels:
        other = "VXLAN" if type_ == "IPIP" else "IPIP"
        yield Finding(
            name,
            Level.FAIL,
            f"NetworkConfiguration wants {type_} and the kernel has no {kind} devices ({_OPTIONS[kind]})",
            f"load the module {_MODULES[kind]}, or set spec.encapsulation.type: {other}",
        )
    if not facts.has_nexthop_objects:
        yield Finding(
            name,
            Level.WARN,
            "the kernel has no nexthop objects (Linux 5.3): a lost next hop takes as long as there are routes",
            "a newer kernel moves all routes behind it at once",
        )
    if not facts.nft and not facts.tunnels and facts.has_nexthop_objects:
        yield Finding(name, Level.OK, "the kernel has what is needed: nftables with all that is used, nexthop objects")


def has_device_kind(kind: str) -> bool:
    """Whether the kernel has devices of a kind, its module loaded if need be. Nothing is made. Raises OSError.

    It is asked for one with a name that no device can have: a kind that it does not know is refused before that.
    """
    body = bytes(16) + attribute(_IFNAME, b"a/b\0")
    body += attribute(_LINKINFO, attribute(_INFO_KIND, kind.encode() + b"\0"))
    with contextlib.closing(NetlinkSocket()) as netlink:
        try:
            netlink.ask(message(_NEWLINK, Flag.CREATE | Flag.EXCL | Flag.ACK, body))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise
            return error.errno != errno.EOPNOTSUPP
    return True


# Settings


class SettingFact(NamedTuple):
    """A setting as it should be, and as it is."""

    name: str
    wanted: str
    found: str
    is_least: bool


async def gather_settings(patient: Patient) -> list[SettingFact]:
    """Read those that the agent keeps."""
    cluster = patient.cluster
    own = next((node for node in cluster.nodes if node.name == cluster.node), None) if cluster else None
    has_ipv6 = own is not None and any(Prefix.parse(cidr).family is Family.IPV6 for cidr in own.pod_cidrs)
    nodes = len(cluster.nodes) if cluster else 1

    def read() -> list[SettingFact]:
        wanted = [*sysctl.for_routes(), *sysctl.for_pods((), advertised(), nodes, has_ipv6=has_ipv6)]
        return [SettingFact(each.name, each.wanted, _found(each.path), each.is_least) for each in wanted]

    return await asyncio.to_thread(read)


def _found(path: str) -> str:
    try:
        return (sysctl.PROC_SYS / "net" / path).read_text(encoding="ascii").strip()
    except OSError as error:
        return error.strerror or str(error)


def judge_settings(facts: Sequence[SettingFact]) -> Iterator[Finding]:
    """The agent sets them; what is not so now was changed by somebody, or could not be set."""
    name = SETTINGS.name
    wrong: dict[tuple[str, str, str], list[SettingFact]] = {}
    for each in facts:
        if not _is_right(each):
            wrong.setdefault((_pattern(each.name), each.found, each.wanted), []).append(each)
    for (pattern, found, wanted), alike in wrong.items():
        first = alike[0].name
        of = "" if len(alike) == 1 else f" ({', '.join(each.name.split('.')[3] for each in alike)})"
        least = "at least " if alike[0].is_least else ""
        yield Finding(
            name,
            Level.FAIL if pattern.endswith(("ip_forward", ".forwarding")) else Level.WARN,
            f"{first if len(alike) == 1 else pattern} is {found}, and should be {least}{wanted}{of}",
            f"the agent sets it while it runs; if it comes back, look in /etc/sysctl.d: sysctl -w {first}={wanted}",
        )
    if not wrong:
        yield Finding(name, Level.OK, f"{len(facts)} kernel settings are as they should be")


def _pattern(name: str) -> str:
    """Return net.ipv4.conf.*.rp_filter for a setting of one link."""
    parts = name.split(".")
    return ".".join([*parts[:3], "*", *parts[4:]]) if parts[2] == "conf" and len(parts) > 4 else name


def _is_right(fact: SettingFact) -> bool:
    if fact.is_least and fact.found.isdecimal():
        return int(fact.found) >= int(fact.wanted)
    return fact.found == fact.wanted


# Tables that fill up


class Fill(NamedTuple):
    """A table of the kernel, how many entries it has, and how many it can have."""

    what: str
    entries: int
    most: int
    advice: str


async def gather_fill(patient: Patient) -> list[Fill]:
    """Read counters of connections and neighbours."""
    del patient
    return await asyncio.to_thread(lambda: list(_fills(sysctl.PROC_SYS / "net")))


def _fills(net: Path) -> Iterator[Fill]:
    with contextlib.suppress(FileNotFoundError):  # without nf_conntrack there is no such table
        entries = _number(net / "netfilter/nf_conntrack_count")
        most = _number(net / "netfilter/nf_conntrack_max")
        yield Fill("connections (conntrack)", entries, most, "raise net.netfilter.nf_conntrack_max")
    for version, table in (("ipv4", "arp_cache"), ("ipv6", "ndisc_cache")):
        with contextlib.suppress(FileNotFoundError):
            limit = _number(net / version / "neigh/default/gc_thresh3")
            row = Path(f"/proc/thread-self/net/stat/{table}").read_text(encoding="ascii").splitlines()[1]
            advice = f"raise net.{version}.neigh.default.gc_thresh3"
            yield Fill(f"{version} neighbours", int(row.split()[0], 16), limit, advice)


def judge_fill(facts: Iterable[Fill]) -> Iterator[Finding]:
    """Beyond the most, new connections and neighbours are refused: that looks like packets lost at random."""
    name = FILL.name
    for each in facts:
        share = each.entries / each.most if each.most else 0.0
        text = f"{each.what}: {each.entries} of {each.most} ({share:.0%})"
        if share >= _FULL:
            yield Finding(name, Level.FAIL, f"{text}: new ones are refused, or soon will be", each.advice)
        elif share >= _FILLING:
            yield Finding(name, Level.WARN, text, each.advice)
        else:
            yield Finding(name, Level.OK, text)


_FILLING, _FULL = 0.75, 0.95


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


# Clock


class _Timex(ctypes.Structure):
    """struct timex (linux/timex.h), as far as it is read; the rest is room."""

    _fields_ = (("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
                ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
                ("room", ctypes.c_byte * 256))  # fmt: skip


class Clock(NamedTuple):
    """What the kernel knows of its clock."""

    is_synchronized: bool
    largest_error_s: float


async def gather_clock(patient: Patient) -> Clock:
    """Ask adjtimex(2)."""
    del patient
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    return Clock(not timex.status & _STA_UNSYNC, timex.maxerror / 1e6)


_STA_UNSYNC: Final = 0x40


def judge_clock(facts: Clock) -> Iterator[Finding]:
    """Tokens and certificates are judged by it, and times in status and logs mislead."""
    if facts.is_synchronized:
        yield Finding(CLOCK.name, Level.OK, f"the clock is synchronized, to {facts.largest_error_s:.3f} s")
    else:
        yield Finding(
            CLOCK.name, Level.WARN, "nobody keeps the clock: it is not synchronized", "run chrony or systemd-timesyncd"
        )


FEATURES: Final = Check("kernel", gather_features, judge_features)
SETTINGS: Final = Check("sysctls", gather_settings, judge_settings)
FILL: Final = Check("tables", gather_fill, judge_fill)
CLOCK: Final = Check("clock", gather_clock, judge_clock)
CHECKS: Final = (FEATURES, SETTINGS, FILL, CLOCK)
