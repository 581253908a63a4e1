"""Reaching into the network namespaces of pods, without going there; and going into one of our own making.

A netlink socket belongs for good to the namespace it was opened in. So a thread is made that enters a pod's namespace,
opens a socket and ends; what the socket is used for happens here, and is a conversation with the kernel alone. Nothing
is executed, looked up by name or read from a file inside: a pod may do there what it likes.

Which file stands for the namespace that the kernel knows by a number (IFLA_LINK_NETNSID) is found by asking it of
every candidate: the names under /run/netns, where container runtimes keep the namespaces of their sandboxes, and the
processes that can be seen.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from felix.netlink import U32, NetlinkSocket, attribute, attributes, message

NAMED: Final = Path("/run/netns")
PROCESSES: Final = Path("/proc")

_GETNSID: Final = 90  # RTM_GETNSID (linux/net_namespace.h)
_NSID: Final = 1
_FD: Final = 3
_RTGENMSG: Final = struct.Struct("=Bxxx")
_S32: Final = struct.Struct("=i")

_CLONE_NEWNET: Final = 0x40000000
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_OPEN_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def open_namespaces(
    numbers: Iterable[int], named: Path = NAMED, processes: Path = PROCESSES
) -> tuple[dict[int, int], set[int]]:
    """Return open files of namespaces by the kernel's number for them, and the numbers for which there is none.

    Whoever asks closes the files. Looks through directories: not for the thread of an event loop. Raises OSError.
    """
    wanted = set(numbers)
    found: dict[int, int] = {}
    with contextlib.closing(NetlinkSocket()) as netlink:
        for path in _candidates(named, processes):
            if not wanted:
                break
            try:
                file = os.open(path, _OPEN_FLAGS)
            except OSError:
                continue
            number = _number_of(netlink, file)
            if number in wanted:
                wanted.discard(number)
                found[number] = file
            else:
                os.close(file)
    return found, wanted


def _candidates(named: Path, processes: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from named.iterdir()
    seen = set()
    with contextlib.suppress(OSError):
        for process in processes.iterdir():
            if process.name.isdecimal():
                path = process / "ns" / "net"
                with contextlib.suppress(OSError):
                    if (name := path.readlink()) not in seen:
                        seen.add(name)
                        yield path


def _number_of(netlink: NetlinkSocket, file: int) -> int | None:
    """Return the number that the kernel has for a namespace; None if it has none, or the file is no namespace."""
    body = _RTGENMSG.pack(0) + attribute(_FD, U32.pack(file))
    try:
        answer = netlink.ask(message(_GETNSID, 0, body))
    except OSError:
        return None
    found = dict(attributes(answer, _RTGENMSG.size, len(answer)))
    number: int = _S32.unpack(found[_NSID])[0] if _NSID in found else -1
    return None if number < 0 else number


def open_netlink(file: int) -> NetlinkSocket:
    """Return a netlink socket of the namespace that a file stands for. Raises OSError.

    Waits for the thread that opens it, which is a matter of microseconds.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:  # of its own: it never leaves that namespace
        return thread.submit(_enter_and_open, file).result()


def _enter_and_open(file: int) -> NetlinkSocket:
    enter(file)
    return NetlinkSocket()


def enter(file: int) -> None:
    """Have this thread, and what it starts, live in the namespace that a file stands for. Raises OSError."""
    if _LIBC.setns(file, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Have this thread live in a namespace of `ip netns` until the end of the block. Raises OSError.

    Sockets stay in the namespace that they were opened in.
    """
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(there)
            yield
        finally:
            enter(home)
            os.close(there)
    finally:
        os.close(home)
