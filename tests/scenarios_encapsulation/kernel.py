"""What this kernel can do."""

from __future__ import annotations

from pathlib import Path


def has_ip_in_ip() -> bool:
    """Whether it knows IPv4 in IPv4 and IPv6 in IPv6, as modules loaded or built in."""
    symbols = Path("/proc/kallsyms").read_text(encoding="ascii", errors="replace")
    return all(f" {name}" in symbols for name in ("ipip_rcv", "ip6_tnl_xmit"))
