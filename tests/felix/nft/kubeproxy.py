"""Rules as kube-proxy writes them, in its iptables and nftables modes, for one service with one endpoint.

Chains, order, marks and comments are those of kube-proxy 1.3x, less what is not about this service. Its mark for
packets to be masqueraded is 0x4000. `cluster` are the pods: from elsewhere traffic to a service is masqueraded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from inet.prefix import Family
from tests.felix.nft.outside import run

CLUSTER = {Family.IPV4: "10.64.0.0/16", Family.IPV6: "fd64::/16"}
SERVICES = {Family.IPV4: "10.43.0.0/16", Family.IPV6: "fd43::/112"}
PORT = 80


@dataclass(frozen=True)
class Service:
    """A service address and the only endpoint behind it; `is_masqueraded` as with --masquerade-all."""

    family: Family
    name: str
    address: str
    endpoint: str
    endpoint_port: int
    is_masqueraded: bool = False


def load_iptables(services: Iterable[Service]) -> None:
    services = list(services)
    for family, program in ((Family.IPV4, "iptables-nft-restore"), (Family.IPV6, "ip6tables-nft-restore")):
        run(program, "--noflush", text=_iptables([each for each in services if each.family is family]))


def _iptables(services: list[Service]) -> str:
    chains = ["KUBE-SERVICES", "KUBE-POSTROUTING", "KUBE-MARK-MASQ", "KUBE-NODEPORTS"]
    chains += [f"KUBE-{kind}-{each.name}" for each in services for kind in ("SVC", "SEP")]
    lines = ["*nat", *(f":{chain} - [0:0]" for chain in chains)]
    portal = "-m comment --comment"
    lines += [
        f'-A PREROUTING {portal} "kubernetes service portals" -j KUBE-SERVICES',
        f'-A OUTPUT {portal} "kubernetes service portals" -j KUBE-SERVICES',
        f'-A POSTROUTING {portal} "kubernetes postrouting rules" -j KUBE-POSTROUTING',
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        f'-A KUBE-POSTROUTING {portal} "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    ]
    for each in services:
        bits = each.family.bits
        to = f"-d {each.address}/{bits} -p udp -m udp --dport {PORT}"
        elsewhere = "" if each.is_masqueraded else f"! -s {CLUSTER[each.family]} "
        endpoint = f"[{each.endpoint}]" if each.family is Family.IPV6 else each.endpoint
        lines += [
            f'-A KUBE-SERVICES {to} {portal} "x/{each.name} cluster IP" -j KUBE-SVC-{each.name}',
            f'-A KUBE-SVC-{each.name} {elsewhere}{to} {portal} "x/{each.name} cluster IP" -j KUBE-MARK-MASQ',
            f'-A KUBE-SVC-{each.name} {portal} "x/{each.name} -> {each.endpoint}" -j KUBE-SEP-{each.name}',
            f'-A KUBE-SEP-{each.name} -s {each.endpoint}/{bits} {portal} "x/{each.name}" -j KUBE-MARK-MASQ',
            f"-A KUBE-SEP-{each.name} -p udp -m udp -j DNAT --to-destination {endpoint}:{each.endpoint_port}",
        ]
    return "\n".join([*lines, "COMMIT", ""])


def load_nftables(services: Iterable[Service]) -> None:
    services = list(services)
    for family in Family:
        run("nft", "-f", "-", text=_nftables(family, [each for each in services if each.family is family]))


def _nftables(family: Family, services: list[Service]) -> str:
    ip, kind = ("ip", "ipv4_addr") if family is Family.IPV4 else ("ip6", "ipv6_addr")
    elements = ", ".join(f"{each.address} . udp . {PORT} : goto service-{each.name}" for each in services)
    lines = [
        f"table {ip} kube-proxy {{",
        'comment "rules for kube-proxy"',
        f"set cluster-ips {{\n type {kind}\n elements = {{ {', '.join(each.address for each in services)} }}\n}}",
        "chain mark-for-masquerade {\n mark set mark or 0x4000\n}",
        "chain masquerading {",
        " mark and 0x4000 == 0 return",
        " mark set mark xor 0x4000",
        " masquerade fully-random",
        "}",
    ]
    for each in services:
        endpoint = f"[{each.endpoint}]" if family is Family.IPV6 else each.endpoint
        elsewhere = "" if each.is_masqueraded else f"{ip} saddr != {CLUSTER[family]} "
        lines += [
            f"chain endpoint-{each.name} {{",
            f" {ip} saddr {each.endpoint} jump mark-for-masquerade",
            f" meta l4proto udp dnat to {endpoint}:{each.endpoint_port}",
            "}",
            f"chain service-{each.name} {{",
            f" {ip} daddr {each.address} udp dport {PORT} {elsewhere}jump mark-for-masquerade",
            f" numgen random mod 1 vmap {{ 0 : goto endpoint-{each.name} }}",
            "}",
        ]
    lines += [
        f"map service-ips {{\n type {kind} . inet_proto . inet_service : verdict\n elements = {{ {elements} }}\n}}",
        f"chain services {{\n {ip} daddr . meta l4proto . th dport vmap @service-ips\n}}",
        f"chain cluster-ips-check {{\n {ip} daddr @cluster-ips reject\n}}",
        "chain nat-prerouting {\n type nat hook prerouting priority dstnat;\n jump services\n}",
        "chain nat-output {\n type nat hook output priority -100;\n jump services\n}",
        "chain nat-postrouting {\n type nat hook postrouting priority srcnat;\n jump masquerading\n}",
        "chain filter-forward {\n type filter hook forward priority -110;\n ct state new jump cluster-ips-check\n}",
        "}",
        "",
    ]
    return "\n".join(lines)
