"""What a kubelet leaves in the kernel for those that cannot see the programs of its node."""

from __future__ import annotations

import contextlib
import errno
from typing import Final

from felix.nfnetlink import NfFamily, Reader, Subsystem, name, request

_GETCHAIN: Final = 4  # NFT_MSG_GETCHAIN
_TABLE, _NAME = 1, 3  # NFTA_CHAIN_*
_NONE: Final = frozenset({errno.ENOENT, errno.EPROTONOSUPPORT, errno.EINVAL})  # no chain, no table, no nf_tables


def host_uses_iptables() -> bool:
    """Whether this node has an iptables that works, and works on nf_tables. Raises OSError.

    Where it has, the kubelet keeps the chain KUBE-IPTABLES-HINT in its mangle table (KEP-3178). False leaves it open:
    there may be no kubelet yet, and what iptables-legacy has cannot be seen from here.
    """
    chain = request(
        Subsystem.NFTABLES, _GETCHAIN, 0, NfFamily.IPV4, name(_TABLE, "mangle"), name(_NAME, "KUBE-IPTABLES-HINT")
    )
    try:
        with contextlib.closing(Reader()) as reader:
            reader.ask(chain)
    except OSError as error:
        if error.errno in _NONE:
            return False
        raise
    return True
