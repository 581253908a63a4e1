"""What a text makes of chains and sets, but for rules: hooks and types, in the terms in which the kernel tells them.

Only what the texts of this product say is understood. Rules are libnftables' to understand: `felix.nft.library`.
"""

from __future__ import annotations

import re
from typing import Final

from felix.nft.table import DYNAMIC, INTERVAL, MAP, TIMEOUT, SetShape, SetText

_HOOK: Final = re.compile(r"\s*type (\w+) hook (\w+) priority ([^;]+);(?: policy (\w+);)?")
_COMMENT: Final = re.compile(r'^\s*comment "([^"]*)"', re.MULTILINE)
_TYPE: Final = re.compile(r"\btype ([^;\n]+)")
_FLAGS: Final = re.compile(r"\bflags ([\w,]+)")
_TIMEOUT: Final = re.compile(r"\btimeout (\d+)s")

_HOOKS: Final = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}  # NF_INET_*
_POLICIES: Final = {"drop": 0, "accept": 1}  # NF_*
_PRIORITIES: Final = {"raw": -300, "mangle": -150, "dstnat": -100, "": 0, "filter": 0, "security": 50, "srcnat": 100}
_TYPES: Final = {  # enum datatypes of libnftables
    "ipv4_addr": 7,
    "ipv6_addr": 8,
    "inet_proto": 12,
    "inet_service": 13,
    "mark": 19,
    "iface_index": 20,
    "ifname": 41,
}
_SET_FLAGS: Final = {"interval": INTERVAL, "timeout": TIMEOUT, "dynamic": DYNAMIC}
_TYPE_BITS: Final = 6  # of each field of a concatenation
_VERDICT: Final = 0xFFFFFF00  # NFT_DATA_VERDICT


def chain_header(kind: str, hook: int, priority: int, policy: int, comment: str) -> str:
    """Return what makes chains differ beside their rules; `kind` is empty for a chain without a hook."""
    return f"{kind} {hook} {priority} {policy} {comment}"


def header_of(text: str) -> str:
    """Return the header of a chain of this text."""
    found = _COMMENT.search(text)
    comment = found[1] if found else ""
    base = _HOOK.match(text)
    if base is None:
        return chain_header("", 0, 0, 0, comment)
    kind, hook, priority, policy = base.groups(default="accept")
    return chain_header(kind, _HOOKS[hook], _priority(priority), _POLICIES[policy], comment)


def _priority(text: str) -> int:
    """Return the number that is meant by a name, a number, or a number behind a name."""
    name = text.rstrip("+- 0123456789")
    return _PRIORITIES[name] + int(text.removeprefix(name).replace(" ", "") or 0)


def set_header(key: int, data: int, timeout_ms: int, comment: str) -> str:
    """Return what makes sets differ beside their flags: the types of keys and values, how long elements live."""
    return f"{key} {data} {timeout_ms} {comment}"


def shape_of(text: SetText) -> SetShape:
    """Return the shape of a set of this text."""
    found = _COMMENT.search(text.text)
    key = 0
    for field in _TYPE.findall(text.text)[0].partition(":")[0].split("."):
        key = key << _TYPE_BITS | _TYPES[field.strip()]
    flags = MAP if text.is_map else 0
    for word in ",".join(_FLAGS.findall(text.text)).split(","):
        flags |= _SET_FLAGS[word] if word else 0
    timeout_ms = 1000 * sum(map(int, _TIMEOUT.findall(text.text)))
    return SetShape(flags, set_header(key, _VERDICT if text.is_map else 0, timeout_ms, found[1] if found else ""))
