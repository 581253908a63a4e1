"""TCP segments no larger than the way out takes, as a part of our table.

What a connection may send in one segment is agreed on in its first two packets. Where these leave by a link with less
room than pods have, a tunnel above all, the kernel lowers the number in them to what the routes of both directions
take: then nobody depends on ICMP errors, which firewalls on the way like to drop. The number is never raised.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from felix.nft.elements import PLAIN
from felix.nft.enforcement import Content, SetContent
from felix.nft.parts import NOTHING
from felix.nft.table import SetText

PRIORITY: Final = -150
"""Where packets are changed before they are judged (mangle)."""

_NAME_BYTES: Final = 16  # IFNAMSIZ


def render(links: Collection[str]) -> Content:
    """Return the chain and set for connections that leave by links of these names; nothing without any."""
    if not links:
        return NOTHING
    chain = (
        f"type filter hook forward priority {PRIORITY}; policy accept;",
        "oifname @clamp_links tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu",
    )
    names = (name.encode().ljust(_NAME_BYTES, b"\0") for name in links)
    return Content(
        {"clamp": "\n".join(chain)}, {"clamp_links": SetContent(SetText("type ifname"), dict.fromkeys(names, PLAIN))}
    )
