"""IPv6 addresses of a link that are still being looked for elsewhere: duplicate address detection (RFC 4862, 5.4).

For a second or two nobody is answered there. On a link with two ends, one of them ours, there is nothing to
find: `settle` gives the addresses to the link again, as ones that need no looking for.
"""

from __future__ import annotations

import struct
from typing import Final

from felix.links import DELADDR, NEWADDR
from felix.netlink import Flag, NetlinkSocket, attribute, attributes, message
from inet.prefix import Family

_GETADDR: Final = 22
_IFADDRMSG: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_IFA_ADDRESS: Final = 1
_IFA_F_NODAD: Final = 0x02
_IFA_F_TENTATIVE: Final = 0x40


async def settle(netlink: NetlinkSocket, interface: int) -> int:
    """Make the tentative addresses of a link usable at once; return how many there were.

    The link-local one counts: without it the kernel asks for nobody's link-layer address. Raises OSError where the
    kernel does not allow it.
    """

    def parse(data: bytes, start: int, end: int) -> tuple[bytes, int, int] | None:
        family, length, flags, scope, index = _IFADDRMSG.unpack_from(data, start)
        if family != Family.IPV6 or index != interface or not flags & _IFA_F_TENTATIVE:
            return None
        return dict(attributes(data, start + _IFADDRMSG.size, end))[_IFA_ADDRESS], length, scope

    found, _ = await netlink.dump(message(_GETADDR, 0, _IFADDRMSG.pack(Family.IPV6, 0, 0, 0, interface)), parse)
    requests = []
    for address, length, scope in found:
        where = attribute(_IFA_ADDRESS, address)
        old = _IFADDRMSG.pack(Family.IPV6, length, 0, scope, interface) + where
        new = _IFADDRMSG.pack(Family.IPV6, length, _IFA_F_NODAD, scope, interface) + where
        requests += [message(DELADDR, 0, old), message(NEWADDR, Flag.CREATE | Flag.EXCL, new)]
    for failure in await netlink.write(requests):
        raise OSError(failure.errno, failure.message)
    return len(found)
