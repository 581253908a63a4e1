"""The network configuration that makes the container runtime wire pods: what is in it, and how it is kept.

The file appears when this node can take pods and not before: a kubelet calls its node ready by it. It follows the
node's pod CIDRs and the MTU, and stays when the agent stops: what runs then waits for the next one.

host-local's book of addresses is on the disk, not in /run: after a reboot it goes on where it was, so that an address
does not come back to another pod while the rest of the cluster still takes it for the pod that had it before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.cni.atomic import replace_file
from inet.prefix import Family, Prefix

FILE_NAME: Final = "10-tortie.conflist"
NETWORK: Final = "tortie"
CNI_VERSIONS: Final = ("1.0.0", "1.1.0")
"""What we write, the oldest first: runtimes before libcni 1.2 know the first alone, and not `cniVersions`."""

VERSIONS_FILE: Final = "cni-versions"
"""In the run directory: those that all plugins on this node speak, as `tortie cni install` found them."""

PLUGINS: Final = ("ptp", "host-local", "portmap", "bandwidth", "tortie-cni")
"""The programs it names, in the order of their turn."""

_DEFAULT_ROUTES: Final = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}


def render(
    pod_cidrs: Iterable[Prefix],
    *,
    mtu: int | None,
    socket: Path,
    data_dir: Path,
    timeout_s: float,
    iptables: bool = False,
    versions: Sequence[str] = CNI_VERSIONS[:1],
) -> bytes:
    """Return the conflist of a node with these pod CIDRs; a pod gets one address of each family.

    `mtu` None leaves it to the kernel. `iptables` says that the node has one that works. `versions` are those that
    every plugin on this node speaks.
    """
    cidrs = list(pod_cidrs)
    families = [family for family in Family if any(cidr.family is family for cidr in cidrs)]
    ipam = {
        "type": "host-local",
        "dataDir": str(data_dir),
        "ranges": [[{"subnet": str(cidr)} for cidr in cidrs if cidr.family is family] for family in families],
        "routes": [{"dst": _DEFAULT_ROUTES[family]} for family in families],
    }
    # At the front it spares pods with IPv6 the seconds that ptp waits for duplicate address detection.
    first = [{"type": "tortie-cni", "prepare": True}] if Family.IPV6 in families else []
    plugins: list[dict[str, Any]] = [
        *first,
        # Our own tables translate what leaves the cluster; ptp's would for each pod.
        {"type": "ptp", "ipMasq": False, **({"mtu": mtu} if mtu else {}), "ipam": ipam},
        # Left to itself it runs iptables twice, for each pod, to see whether there is one.
        {"type": "portmap", **({"backend": "iptables"} if iptables else {}), "capabilities": {"portMappings": True}},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "tortie-cni", "socket": str(socket), "timeoutSeconds": timeout_s},
    ]
    content: dict[str, Any] = {"cniVersion": versions[0]}
    if len(versions) > 1:
        content["cniVersions"] = list(versions)
    content |= {"name": NETWORK, "plugins": plugins}
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def write(directory: Path, content: bytes) -> bool:
    """Have the file say this; whether it said something else. Nobody sees half of it. Raises OSError."""
    return replace_file(directory / FILE_NAME, content)
