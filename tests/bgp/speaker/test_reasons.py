"""What people read when a session ends."""

from __future__ import annotations

import pytest

from bgp.speaker.exabgp.reasons import Ending, ending


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "notification received (6,4)",
            Ending("cease: administrative reset (sent by the peer)", (6, 4)),
        ),
        (
            'notification received (6,2): Shutdown Communication: "cable work"',
            Ending('cease: administrative shutdown (sent by the peer): "cable work"', (6, 2)),
        ),
        (
            "notification received (3,1): raw data that is not meant for people",
            Ending("UPDATE message error: malformed attribute list (sent by the peer)", (3, 1)),
        ),
        (
            "notification sent (4,0)",
            Ending("hold timer expired (sent to the peer)", (4, 0), sent=True),
        ),
        (
            "notification sent (2,2): ASN in OPEN (65009) did not match ASN expected (65002)",
            Ending(
                "OPEN message error: bad peer AS (sent to the peer): "
                "ASN in OPEN (65009) did not match ASN expected (65002)",
                (2, 2),
                sent=True,
            ),
        ),
        (
            "notification sent (6,3): Peer De-configured",
            Ending("cease: peer de-configured (sent to the peer)", (6, 3), sent=True),
        ),
        ("notification received (6,99)", Ending("cease: subcode 99 (sent by the peer)", (6, 99))),
        ("notification received (77,0)", Ending("error code 77 (sent by the peer)", (77, 0))),
        (
            "closing connection: the TCP connection was closed by the remote end",
            Ending("connection closed by the peer"),
        ),
        (
            "closing connection: issue reading on the socket: [Errno ECONNRESET] [Errno 104] Connection reset by peer",
            Ending("connection reset by peer"),
        ),
        (
            "closing connection: Could not connect to peer fd00::2:179 ([Errno ENETUNREACH] [Errno 101] Not reachable)",
            Ending("not reachable"),
        ),
        (
            "closing connection: This linux machine does not support TCP_MD5SIG, you can not use MD5 ([Errno 92] …)",
            Ending("the node's kernel knows no TCP MD5 passwords (CONFIG_TCP_MD5SIG)"),
        ),
        (
            "closing connection: Could not bind to local ip 10.0.0.1 - [Errno 99] Cannot assign requested address",
            Ending("local address 10.0.0.1: cannot assign requested address"),
        ),
        (
            "notification sent (4,0): problem with network while trying to send keepalive",
            Ending("connection broken"),
        ),
        ("closing connection: Connection refused", Ending("connection refused")),
        (
            "closing connection: no answer",
            Ending("no answer: unreachable, filtered, or the passwords differ"),
        ),
        ("stop, message [removed]", Ending("session removed", (6, 3), sent=True)),
        (
            "graceful restarted negotiated, closing without sending any notification",
            Ending("session settings changed"),
        ),
        ("", Ending("connection closed")),
    ],
)
def test_each_way_a_session_ends_has_its_words(said: str, expected: Ending) -> None:
    assert ending(said) == expected


@pytest.mark.parametrize(
    "said",
    [
        "closing outgoing connection as we have another incoming on with higher router-id",
        "connection received before we could fully establish one (connection failed)",
        "notification received (6,7)",
    ],
)
def test_an_attempt_that_makes_way_for_another_is_known_as_such(said: str) -> None:
    assert ending(said).is_collision
