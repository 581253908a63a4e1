"""A fault of kernels before 5.7: checksums that the network card was to compute come out wrong inside VXLAN.

When such a kernel translates the address of an encapsulated packet it updates the outer checksum even where there is
none (mended by "netfilter: nat: never update the UDP checksum when it's 0", 5.7), and packets of TCP are lost until
it gives up, for 63 seconds. Others switch off the checksum offload of the tunnel device by hand; here it is done
where the kernel is of those days.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import re
import socket
import struct
from typing import Final

_SIOCETHTOOL: Final = 0x8946
_GET_TRANSMIT_CHECKSUM: Final = 0x16  # ETHTOOL_GTXCSUM
_SET_TRANSMIT_CHECKSUM: Final = 0x17  # ETHTOOL_STXCSUM
_VALUE: Final = struct.Struct("=II")  # ethtool_value: command, data
_REQUEST: Final = struct.Struct("@16sP16x")  # ifreq: name, address of the value
_MENDED_IN: Final = (5, 7)


def is_checksum_broken(release: str) -> bool:
    """Return whether a kernel, by its release such as 5.4.0-90-generic, has the fault. An unreadable one has not."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return found is not None and (int(found[1]), int(found[2])) < _MENDED_IN


def disable_transmit_checksum(interface: str) -> None:
    """Have checksums of what leaves by a link computed by the processor. A link that cannot be told is left alone."""
    with contextlib.suppress(OSError):
        _ethtool(interface, _SET_TRANSMIT_CHECKSUM, 0)


def has_transmit_checksum(interface: str) -> bool:
    """Return whether checksums are left to the link. Raises OSError."""
    return bool(_ethtool(interface, _GET_TRANSMIT_CHECKSUM, 0))


def _ethtool(interface: str, command: int, data: int) -> int:
    value = array.array("B", _VALUE.pack(command, data))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, _REQUEST.pack(interface.encode(), value.buffer_info()[0]))
    found: int = _VALUE.unpack(value.tobytes())[1]
    return found
