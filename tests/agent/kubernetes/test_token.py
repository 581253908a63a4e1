from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest

from agent.kubernetes.token import end_of


def jwt(claims: bytes) -> str:
    return f"bearer e30.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.c2ln"


def test_a_token_says_when_it_ends() -> None:
    assert end_of(jwt(b'{"exp": 1795296000, "sub": "x"}')) == datetime(2026, 11, 21, 21, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    "token",
    ["", "Bearer admin-token", "a.b.c", "bearer a.!.c", jwt(b"{}"), jwt(b'{"exp": "soon"}'), jwt(b'{"exp": 1e99}'),
     jwt(b'{"exp": 99999999999999}'), jwt(b"\xff")],
)  # fmt: skip
def test_what_does_not_say_so_is_no_error(token: str) -> None:
    assert end_of(token) is None
