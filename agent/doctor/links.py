"""Links and addresses of this node: room for packets, and addresses that somebody else has too."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, NamedTuple

from agent.doctor import Check, Finding, Level, LookError, Patient
from felix.devices import Device, devices
from felix.links import addresses
from felix.uplinks import routed
from inet.prefix import parse_address
from policy.nftskeleton import POD_INTERFACE_GROUP

_OVERHEAD: Final = {"VXLAN": 70, "IPIP": 40}  # the most that each adds: of IPv6


# MTU


class LinkMtu(NamedTuple):
    """A link and its MTU in bytes."""

    name: str
    mtu: int


class Mtus(NamedTuple):
    """The links to other nodes, those of pods, and how much a tunnel adds."""

    uplinks: tuple[LinkMtu, ...]
    pods: tuple[LinkMtu, ...]
    overhead: int


async def gather_mtus(patient: Patient) -> Mtus:
    """Ask the kernel for links, and by which the other nodes are reached."""
    cluster = patient.cluster
    others = [node for node in cluster.nodes if node.name != cluster.node] if cluster else []
    targets = [parse_address(address).packed for node in others for address in node.addresses]
    found = await devices()
    uplinks = await asyncio.to_thread(routed, found, targets)
    tunnels = cluster.tunnels if cluster else ()
    return Mtus(
        tuple(LinkMtu(each.name, each.mtu) for each in uplinks),
        tuple(LinkMtu(each.name, each.mtu) for each in found if each.group == POD_INTERFACE_GROUP),
        max((_OVERHEAD[each] for each in tunnels), default=0),
    )


def judge_mtus(facts: Mtus) -> Iterator[Finding]:
    """A packet that a pod may send has to fit through every link to other nodes."""
    name = MTU.name
    if not facts.uplinks:
        yield Finding(name, Level.WARN, "no link leads to other nodes, nor does a default route", "ip route")
        return
    sizes = {each.mtu for each in facts.uplinks}
    least = min(sizes)
    shown = ", ".join(f"{each.name} {each.mtu}" for each in facts.uplinks)
    if len(sizes) > 1:
        text = f"links to other nodes differ: {shown}; packets of more than {least} bytes fit through some only"
        yield Finding(name, Level.WARN, text, "give them one MTU")
    room = least - facts.overhead
    large = [each for each in facts.pods if each.mtu > room]
    if large:
        first = large[0]
        inside = f", less {facts.overhead} for a tunnel" if facts.overhead else ""
        text = (
            f"{len(large)} links of pods are larger than the way out: {first.name} {first.mtu}, {shown}{inside}; "
            f"what is larger than {room} depends on ICMP getting through"
        )
        yield Finding(name, Level.WARN, text, "spec.mtu: auto has the agent correct it; or restart those pods")
    elif len(sizes) == 1:
        yield Finding(name, Level.OK, f"pods send what the links to other nodes take ({shown})")


# Duplicate addresses


class Duplicates(NamedTuple):
    """Own addresses that are given up by the kernel, and those that somebody else answers for, with his MAC."""

    failed: tuple[str, ...]
    answered: tuple[tuple[str, str, str], ...]  # address, link, MAC
    probed: int
    not_asked: str = ""  # why nobody was asked
    in_container: bool = False


async def gather_duplicates(patient: Patient) -> Duplicates:
    """Look for addresses whose detection failed (IPv6), and ask for our own as a newcomer would (RFC 5227)."""
    cluster = patient.cluster
    own = next((node for node in cluster.nodes if node.name == cluster.node), None) if cluster else None
    if own is None:
        raise LookError(patient.no_cluster or "there is no Node object of this node to know its addresses by")
    links = {each.interface: each for each in await devices()}
    here = {each.address: links.get(each.interface) for each in await addresses()}
    probes = [
        (address, link)
        for address in map(parse_address, own.addresses)
        if isinstance(address, IPv4Address)
        and (link := here.get(address))
        and link.has_carrier
        and not link.is_loopback
    ]
    failed = await asyncio.to_thread(_failed)
    try:
        answered = await asyncio.to_thread(_ask_all, probes)
    except PermissionError:
        return Duplicates(failed, (), 0, "ARP probes need CAP_NET_RAW", patient.in_container)
    return Duplicates(failed, tuple(answered), len(probes))


def _failed() -> tuple[str, ...]:
    """IPv6 addresses that another machine had first: IFA_F_DADFAILED (linux/if_addr.h)."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
        for line in Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii").splitlines():
            packed, _index, _length, _scope, flags, name = line.split()
            if int(flags, 16) & 0x08:
                found.append(f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(packed))} on {name}")
    return tuple(found)


_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET: Final = struct.Struct("!6s6sH")
_ETH_P_ARP: Final = 0x0806
_ANSWER_WITHIN_S: Final = 1.0
_PROBES: Final = 3


def _ask_all(probes: Sequence[tuple[IPv4Address, Device]]) -> Iterator[tuple[str, str, str]]:
    """Probe each address on its link; those that are answered by another MAC come back. Raises OSError."""
    return iter([found for address, link in probes for found in _probe(address, link)])


def _probe(address: IPv4Address, link: Device) -> Iterator[tuple[str, str, str]]:
    """An ARP probe has no sender address, so that it changes nobody's tables (RFC 5227 section 1.1)."""
    if len(link.address) != 6:
        return
    request = _ETHERNET.pack(b"\xff" * 6, link.address, _ETH_P_ARP)
    request += _ARP.pack(1, 0x0800, 6, 4, 1, link.address, bytes(4), bytes(6), address.packed)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP)) as raw:
        raw.bind((link.name, _ETH_P_ARP))
        seen: set[bytes] = set()
        for _ in range(_PROBES):
            raw.send(request)
            deadline = time.monotonic() + _ANSWER_WITHIN_S / _PROBES
            while (left := deadline - time.monotonic()) > 0 and select.select([raw], [], [], left)[0]:
                frame = raw.recv(2048)
                if len(frame) < _ETHERNET.size + _ARP.size:
                    continue
                _, _, _, _, _, mac, sender, _, _ = _ARP.unpack_from(frame, _ETHERNET.size)
                if sender == address.packed and mac != link.address:
                    seen.add(mac)
        yield from ((str(address), link.name, mac.hex(":")) for mac in sorted(seen))


def judge_duplicates(facts: Duplicates) -> Iterator[Finding]:
    """Two machines with one address: packets go to whoever answered last."""
    name = DUPLICATES.name
    for address, link, mac in facts.answered:
        text = f"{address} on {link} is answered for by {mac} too: another machine has it"
        yield Finding(name, Level.FAIL, text, "give one of the two another address")
    for each in facts.failed:
        text = f"{each} is not used: another machine had it first (duplicate address detection)"
        yield Finding(name, Level.FAIL, text, "give one of the two another address")
    if facts.not_asked:
        text = f"whether others have this node's IPv4 addresses too was not asked: {facts.not_asked}"
        level = Level.OUTSIDE if facts.in_container else Level.UNKNOWN
        yield Finding(name, level, text, "run tortie doctor as root on the host")
    elif not facts.answered and not facts.failed:
        yield Finding(name, Level.OK, f"nobody else answers for addresses of this node ({facts.probed} asked for)")


MTU: Final = Check("MTU", gather_mtus, judge_mtus)
DUPLICATES: Final = Check("duplicate addresses", gather_duplicates, judge_duplicates)
CHECKS: Final = (MTU, DUPLICATES)
