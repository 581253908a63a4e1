"""IP in IP as an attribute of a next hop, on the wire (linux/lwtunnel.h): the outer header that a packet gets.

A device in external mode has no far end of its own; each next hop that leads out of it says which. So there is one
device however many nodes, and what a destination's tunnel is stands where its route points, in the same write.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from felix.netlink import U16, attribute, attributes

_NESTED: Final = 0x8000  # NLA_F_NESTED
_TYPE_OF: Final = {4: U16.pack(2), 16: U16.pack(4)}  # LWTUNNEL_ENCAP_IP, _IP6, by the length of the outer address

# enum lwtunnel_ip_t and lwtunnel_ip6_t, which agree in these.
_DESTINATION: Final = 2
_SOURCE: Final = 3
_TTL: Final = 4

_OUTER_TTL: Final = bytes([64])  # else it is the inner one, and packets die on the way between two nodes


class Outer(NamedTuple):
    """The outer header: packed addresses, both 4 or both 16 bytes."""

    destination: bytes
    source: bytes = b""  # empty: the kernel chooses


def pack(outer: Outer, kind: int, content: int) -> bytes:
    """Return the two attributes of a route's or nexthop's encapsulation, whose numbers differ between the two."""
    body = attribute(_DESTINATION, outer.destination) + attribute(_TTL, _OUTER_TTL)
    if outer.source:
        body += attribute(_SOURCE, outer.source)
    return attribute(kind, _TYPE_OF[len(outer.destination)]) + attribute(content | _NESTED, body)


def parse(found: dict[int, bytes], kind: int, content: int) -> Outer | None:
    """Read those two attributes; None where there is no encapsulation, or none in IP."""
    if found.get(kind) not in _TYPE_OF.values():
        return None
    fields = dict(attributes(found[content], 0, len(found[content])))
    source = fields.get(_SOURCE, b"")
    return Outer(fields.get(_DESTINATION, b""), source if any(source) else b"")
