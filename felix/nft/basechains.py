"""Everybody's base chains: whose rules a packet meets on its way, and what becomes of it where none of them speaks."""

from __future__ import annotations

import contextlib
from typing import Final, NamedTuple

from felix.netlink import attributes
from felix.nfnetlink import FAMILY_HEADER, NfFamily, Reader, Subsystem, read_name, request

_GETCHAIN: Final = 4
_TABLE, _NAME, _HOOK, _POLICY = 1, 3, 4, 5  # NFTA_CHAIN_*
_HOOKNUM, _PRIORITY = 1, 2  # NFTA_HOOK_*
_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}
_HOOKS: Final = {0: "prerouting", 1: "input", 2: "forward", 3: "output", 4: "postrouting"}
_DROP: Final = 0  # NF_DROP


class BaseChain(NamedTuple):
    """A chain that hangs on a hook. `drops` is its policy."""

    family: str
    table: str
    name: str
    hook: str
    priority: int
    drops: bool


async def base_chains() -> list[BaseChain]:
    """Return those of the IP families, those of iptables-nft among them. Raises OSError."""
    with contextlib.closing(Reader()) as reader:
        return await reader.dump(request(Subsystem.NFTABLES, _GETCHAIN, 0, NfFamily.UNSPECIFIED), _parse)


def _parse(data: bytes, start: int, end: int) -> BaseChain | None:
    family = _FAMILIES.get(data[start])
    found = dict(attributes(data, start + FAMILY_HEADER.size, end))
    if family is None or _HOOK not in found:
        return None
    hook = dict(attributes(found[_HOOK], 0, len(found[_HOOK])))
    number = int.from_bytes(hook.get(_HOOKNUM, b"\xff"))
    return BaseChain(
        family,
        read_name(found[_TABLE]),
        read_name(found[_NAME]),
        _HOOKS.get(number, str(number)),
        int.from_bytes(hook.get(_PRIORITY, b""), signed=True),
        drops=int.from_bytes(found.get(_POLICY, b"\1")) == _DROP,
    )
