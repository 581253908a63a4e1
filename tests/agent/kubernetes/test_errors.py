"""Answers that are refusals, in words."""

from __future__ import annotations

import pytest

from agent.kubernetes.errors import refusal


def test_the_servers_own_words_are_told() -> None:
    error = refusal(403, b'{"kind": "Status", "reason": "Forbidden", "message": "nodes is forbidden"}')
    assert (str(error), error.status, error.reason) == ("403 Forbidden: nodes is forbidden", 403, "Forbidden")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"upstream timed out\n", "503: upstream timed out"),
        (b"", "503: no explanation"),
        (b'{"message": "\xff"}', "503: "),
        (b"x" * 10_000, f"503: {'x' * 200}"),
    ],
    ids=["a proxy's", "none", "no text", "a whole page"],
)
def test_an_answer_that_is_no_status_is_shown_as_far_as_it_goes(body: bytes, words: str) -> None:
    assert str(refusal(503, body)).startswith(words)


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)])
def test_how_long_the_server_asks_to_wait_is_kept(header: str, seconds: float) -> None:
    assert refusal(429, b"{}", header).retry_after_s == seconds
