"""Opens the route table that this kernel can have."""

from __future__ import annotations

import contextlib
import errno

from felix import nexthops
from felix.inlinetable import InlineRouteTable
from felix.netlink import NetlinkSocket
from felix.nexthops import HOP_IDS
from felix.objecttable import ObjectRouteTable


def open_route_table() -> ObjectRouteTable | InlineRouteTable:
    """Return the table for this network namespace: on nexthop objects where the kernel knows them (Linux 5.3)."""
    return ObjectRouteTable() if kernel_has_nexthop_objects() else InlineRouteTable()


def kernel_has_nexthop_objects() -> bool:
    """Whether this kernel has nexthop objects, and lets them be asked for."""
    with contextlib.closing(NetlinkSocket()) as netlink:
        try:
            netlink.ask(nexthops.get(HOP_IDS.start))
        except OSError as error:
            return error.errno == errno.ENOENT  # a kernel without them says EOPNOTSUPP
    return True
