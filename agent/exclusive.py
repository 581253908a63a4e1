"""One agent for each node: two would take each other's routes away.

A node is a network namespace, and so is the scope of an abstract unix socket: whoever holds the name is the
node's agent, and the kernel gives the name back the moment that process is gone, however it went.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

NAME: Final = "\0tortie-agent"


class AlreadyRunningError(Exception):
    """Another agent holds this node; the text says which process."""


def claim() -> socket.socket:
    """Become the node's only agent, as long as the returned socket is open. Raises AlreadyRunningError."""
    claimed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claimed.bind(NAME)
    except OSError:
        claimed.close()
        raise AlreadyRunningError(
            f"another tortie agent runs on this node already{_holder()}; stop it first (one agent for each node)"
        ) from None
    claimed.listen(1)
    return claimed


def _holder() -> str:
    """Ask the kernel who listens (SO_PEERCRED); "" where it will not say."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)  # noqa: FBT003 - the argument is what the method is about
            asking.connect(NAME)
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
    except OSError:
        return ""
    return f" (process {pid})"
