"""News that forwarding, rp_filter or their like were changed, as the kernel tells it (linux/netconf.h).

It tells of a few settings and not of others, so this is a reason to look, and no way to know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from felix.netlink import SOL_NETLINK, open_socket, readable

_ADD_MEMBERSHIP: Final = 1
_GROUPS: Final = (24, 25)  # RTNLGRP_IPV4_NETCONF, RTNLGRP_IPV6_NETCONF
_RECEIVE_BUFFER: Final = 256 * 1024
_RECEIVE_BYTES: Final = 64 * 1024
_GATHERING_S: Final = 0.05  # a new link makes half a dozen of them


class SettingsMonitor:
    """Listens from the moment it is made, in the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = open_socket(_RECEIVE_BUFFER)
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    async def changes(self) -> AsyncGenerator[None, None]:
        """Yield whenever something was changed, by whomever; what comes in together, once."""
        while True:
            await readable(self._socket)
            await asyncio.sleep(_GATHERING_S)
            with contextlib.suppress(OSError):  # empty, or news was lost: a reason to look all the same
                while True:
                    self._socket.recv(_RECEIVE_BYTES)
            yield
