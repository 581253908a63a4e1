"""Network namespaces for a benchmark: made, joined by cables, and taken away whatever happens.

Names carry our process id, so that runs side by side do not meet. `node` is where the subject runs; routers are
where load comes from. Cable `i` is 10.99.i.0/24 and fd99:i::/64, the node being host 1.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
import struct
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, Self

from felix.namespaces import entered
from inet.prefix import Family, IPAddress

_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_IFREQ_FLAGS: Final = struct.Struct("16sh22x")  # struct ifreq with ifr_flags (linux/if.h)
_numbers = itertools.count()


def address(cable: int, host: int, family: Family) -> IPAddress:
    """Return the address of a host on a cable."""
    if family is Family.IPV4:
        return IPv4Address(f"10.99.{cable}.{host}")
    return IPv6Address(f"fd99:{cable}::{host:x}")


def run(*argv: str, text: str = "") -> str:
    """Run a program to its end and return what it wrote. Raises RuntimeError with its words."""
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


class Network:
    """The namespaces of one round. A context manager; what was started in them must be ended before."""

    def __init__(self, routers: int, hosts: int = 1) -> None:
        """Plan `routers` routers, each on its own cable to the node with `hosts` addresses in each family."""
        self._name = f"tb{os.getpid()}x{next(_numbers)}"
        self._hosts = hosts
        self.node = f"{self._name}n"
        self.routers = [f"{self._name}r{cable}" for cable in range(1, routers + 1)]

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for namespace in (*self.routers, self.node):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)

    def _build(self) -> None:
        for namespace in (self.node, *self.routers):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        with entered(self.node):
            for scope in ("all", "default"):
                # The kernel's own default, which a new namespace has only where the host kept it.
                Path(f"/proc/sys/net/ipv4/conf/{scope}/ignore_routes_with_linkdown").write_text("0", encoding="ascii")
        for cable, router in enumerate(self.routers, 1):
            # Unlike numbers at both ends: with equal ones the kernel tells a lost carrier up to a second late.
            command = f"link add eth{cable} index {10 + cable} type veth peer name eth0 index 50 netns {router}"
            run("ip", "-n", self.node, *command.split())
            lines = [f"addr add {address(cable, 2 + host, Family.IPV4)}/24 dev eth0" for host in range(self._hosts)]
            lines += [
                f"addr add {address(cable, 2 + host, Family.IPV6)}/64 dev eth0 nodad" for host in range(self._hosts)
            ]
            batch(router, [*lines, "link set eth0 up"])
            batch(
                self.node,
                [
                    f"addr add {address(cable, 1, Family.IPV4)}/24 dev eth{cable}",
                    f"addr add {address(cable, 1, Family.IPV6)}/64 dev eth{cable} nodad",
                    f"link set eth{cable} up",
                ],
            )


def batch(namespace: str, lines: Sequence[str]) -> str:
    """Have one `ip` do many things in a namespace."""
    return run("ip", "-n", namespace, "-batch", "-", text="\n".join(lines))


class Switch:
    """Sets a device down within microseconds: the other end of its cable loses carrier."""

    def __init__(self, namespace: str, device: str) -> None:
        self._device = device.encode()
        with entered(namespace):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def off(self) -> None:
        """Set the device down (ip link set down)."""
        request = _IFREQ_FLAGS.pack(self._device, 0)
        _, flags = _IFREQ_FLAGS.unpack(fcntl.ioctl(self._socket, _SIOCGIFFLAGS, request))
        fcntl.ioctl(self._socket, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(self._device, flags & ~_IFF_UP))
        self._socket.close()
