"""What other network plugins leave on a node: found, named, and how it is removed. Nothing here removes anything.

One row for each plugin says where it keeps what; looking is the same for all.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final, NamedTuple

from felix import devices, routemessages
from felix.netlink import attributes, dump
from felix.nfnetlink import FAMILY_HEADER, NfFamily, Reader, Subsystem, read_name, request
from inet.prefix import Family

_GETTABLE: Final = 1
_GETCHAIN: Final = 4
_TABLE_NAME: Final = 1
_CHAIN_TABLE: Final = 1
_CHAIN_NAME: Final = 3
_FAMILIES: Final = {1: "inet", 2: "ip", 3: "arp", 7: "bridge", 10: "ip6", 5: "netdev"}
_IPTABLES: Final = {NfFamily.IPV4: "iptables", NfFamily.IPV6: "ip6tables"}


@dataclass(frozen=True, slots=True)
class Plugin:
    """Where a plugin keeps what. Names are patterns with `*`."""

    devices: tuple[str, ...] = ()
    protocols: tuple[int, ...] = ()  # of routes (rtm_protocol)
    tables: tuple[str, ...] = ()  # of nftables
    chains: tuple[str, ...] = ()  # of iptables in nftables (iptables-nft)
    files: tuple[str, ...] = ()  # from the root of the file system; directories end with a slash


PLUGINS: Final = {
    "flannel": Plugin(
        devices=("flannel.*", "flannel-v6.*", "flannel-wg*", "cni0"),  # the last made by `bridge`, which it calls
        tables=("flannel-*",),
        chains=("FLANNEL-*",),
        files=(
            "etc/cni/net.d/*flannel*",
            "var/lib/rancher/k3s/agent/etc/cni/net.d/*flannel*",  # where k3s's own keeps it
            "run/flannel/",
            "opt/cni/bin/flannel",
        ),
    ),
    "calico": Plugin(
        devices=("cali*", "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali"),
        protocols=(80,),
        tables=("calico*",),
        chains=("cali-*",),
        files=("etc/cni/net.d/*calico*", "var/lib/calico/", "var/run/calico/", "opt/cni/bin/calico*"),
    ),
    "cilium": Plugin(
        devices=("cilium_*", "lxc*"),
        chains=("CILIUM_*", "OLD_CILIUM_*"),
        files=("etc/cni/net.d/*cilium*", "var/run/cilium/", "sys/fs/bpf/cilium/", "opt/cni/bin/cilium-cni"),
    ),
    "weave": Plugin(
        devices=("weave", "vethwe-*", "vethwepl*", "vxlan-6784", "datapath"),
        chains=("WEAVE*",),
        files=("etc/cni/net.d/*weave*", "var/lib/weave/", "opt/cni/bin/weave-*"),
    ),
    "kube-router": Plugin(
        devices=("kube-bridge", "kube-dummy-if", "tun-*"),
        chains=("KUBE-ROUTER-*", "KUBE-NWPLCY-*", "KUBE-POD-FW-*"),
        files=("etc/cni/net.d/*kuberouter*", "var/lib/kube-router/"),
    ),
    "antrea": Plugin(
        devices=("antrea-*", "genev_sys_*"),
        chains=("ANTREA-*",),
        files=("etc/cni/net.d/*antrea*", "var/run/antrea/", "opt/cni/bin/antrea"),
    ),
    "kindnet": Plugin(
        tables=("kindnet-*", "kube-network-policies"),
        files=("etc/cni/net.d/*kindnet*",),
    ),
}


class Leftover(NamedTuple):
    """Something of another plugin: whose, what kind of thing, which, and the command that removes it."""

    plugin: str
    kind: str  # device, route, table, chain, file
    name: str
    command: str


async def leftovers(plugin: str = "", root: Path = Path("/")) -> list[Leftover]:
    """Return what one plugin, or (empty) any, has left in this network namespace and below `root`. Raises OSError.

    Rules of iptables-legacy cannot be seen from here.
    """
    chosen = {plugin: PLUGINS[plugin]} if plugin else PLUGINS
    links = [each.name for each in await devices.devices()]
    routes = [
        row for family in Family for row in await dump(routemessages.dump(family), routemessages.parse) if row.protocol
    ]
    tables, chains = await _nftables()
    found: list[Leftover] = []
    for name, its in chosen.items():
        found += (Leftover(name, "device", link, f"ip link del {link}") for link in _matching(links, its.devices))
        for route in routes:
            if route.protocol in its.protocols:
                version = "-6" if route.destination.family is Family.IPV6 else "-4"
                text = f"{route.destination} proto {route.protocol}"
                found.append(Leftover(name, "route", text, f"ip {version} route del {text}"))
        for family, table in tables:
            if _matching([table], its.tables):
                found.append(Leftover(name, "table", f"{family} {table}", f"nft delete table {family} {table}"))
        for program, table, chain in chains:
            if _matching([chain], its.chains):
                found.append(
                    Leftover(name, "chain", f"{program} {table} {chain}", _without_chain(program, table, chain))
                )
        found += (Leftover(name, "file", path, f"rm -r {path}") for path in _files(root, its.files))
    return found


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _without_chain(program: str, table: str, chain: str) -> str:
    """Return what removes a chain with whatever jumps to it."""
    return f"{program}-save -t {table} | grep -v {chain} | {program}-restore -T {table}"


def _files(root: Path, patterns: Iterable[str]) -> Iterator[str]:
    for pattern in patterns:
        for path in sorted(root.glob(pattern.rstrip("/"))):
            if path.is_dir() == pattern.endswith("/"):
                yield str(path)


async def _nftables() -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    """Return tables (family, name), and chains of iptables (program, table, name); none without nf_tables."""

    def parse_table(data: bytes, start: int, end: int) -> tuple[str, str] | None:
        found = dict(attributes(data, start + FAMILY_HEADER.size, end))
        return _FAMILIES.get(data[start], str(data[start])), read_name(found[_TABLE_NAME])

    def parse_chain(data: bytes, start: int, end: int) -> tuple[str, str, str] | None:
        program = _IPTABLES.get(NfFamily(data[start])) if data[start] in {NfFamily.IPV4, NfFamily.IPV6} else None
        found = dict(attributes(data, start + FAMILY_HEADER.size, end))
        return (program, read_name(found[_CHAIN_TABLE]), read_name(found[_CHAIN_NAME])) if program else None

    try:
        with contextlib.closing(Reader()) as reader:
            tables = await reader.dump(request(Subsystem.NFTABLES, _GETTABLE, 0, NfFamily.UNSPECIFIED), parse_table)
            chains = await reader.dump(request(Subsystem.NFTABLES, _GETCHAIN, 0, NfFamily.UNSPECIFIED), parse_chain)
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EINVAL}:
            return [], []
        raise
    return tables, chains
