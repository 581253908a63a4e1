"""A content of the table, as a node with a few pods and one policy has it, and how to vary it."""

from __future__ import annotations

from dataclasses import replace

from felix.nft.elements import PLAIN, Interval, Value, concatenate
from felix.nft.enforcement import Content, SetContent
from felix.nft.table import SetText

A, B, C = b"\x0a\0\0\1", b"\x0a\0\0\2", b"\x0a\0\0\3"
A6, B6 = b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2"

FORWARD = """type filter hook forward priority filter; policy accept;
ct state established,related accept
iifgroup 97 goto from_pod
oifgroup 97 counter drop comment "closed"
"""
FROM_POD = "ip saddr vmap @from_pod4\nip6 saddr vmap @from_pod6\ncounter drop"
POLICY = 'ip daddr @db4 tcp dport 5432 counter accept comment "shop/db rule 1"\nip6 daddr @db6 accept\ncounter drop'

CONTENT = Content(
    {"forward": FORWARD, "from_pod": FROM_POD, "db_in": POLICY},
    {
        "from_pod4": SetContent(
            SetText("type ipv4_addr : verdict", is_map=True), {A: Value("jump", "db_in", "shop/a"), B: Value("accept")}
        ),
        "from_pod6": SetContent(
            SetText("type ipv6_addr : verdict", is_map=True), {A6: Value("jump", "db_in", "shop/a")}
        ),
        "db4": SetContent(SetText('type ipv4_addr\ncomment "pods of db"'), {B: PLAIN, C: PLAIN}),
        "db6": SetContent(SetText("type ipv6_addr; flags interval"), {Interval(A6, B6): PLAIN}),
        "named4": SetContent(
            SetText("type ipv4_addr . inet_proto . inet_service"), {concatenate(A, b"\6", b"\0\x50"): PLAIN}
        ),
    },
    skeleton={"forward", "from_pod", "from_pod4", "from_pod6"},
)


def with_chain(content: Content, name: str, text: str) -> Content:
    return replace(content, chains={**content.chains, name: text})


def with_set(content: Content, name: str, each: SetContent) -> Content:
    return replace(content, sets={**content.sets, name: each})


def without(content: Content, name: str) -> Content:
    return replace(
        content,
        chains={key: text for key, text in content.chains.items() if key != name},
        sets={key: each for key, each in content.sets.items() if key != name},
    )
