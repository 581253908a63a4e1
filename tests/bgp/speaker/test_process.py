"""The child's log: what is kept of it, and what never leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgp.speaker.exabgp.process import validate, without_secrets


@pytest.mark.parametrize(
    "line",
    [
        'line 12: md5-password "czNjcmV0" ;',
        "line 12: md5-password czNjcmV0 ;",
        "syntax error | md5-password 'czNjcmV0' and more",
    ],
)
def test_no_password_is_in_a_text_that_leaves(line: str) -> None:
    assert "czNjcmV0" not in without_secrets(line)
    assert "md5-password" in without_secrets(line)


async def test_the_validator_names_what_is_wrong_without_the_password(tmp_path: Path) -> None:
    file = tmp_path / "bad.conf"
    file.write_text('neighbor 10.0.0.2 {\n  router-id 10.0.0.1;\n  md5-password "czNjcmV0" "x";\n  hold-time x;\n}\n')
    why = await validate(file)
    assert "hold-time" in why
    assert "czNjcmV0" not in why


async def test_the_validator_accepts_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "good.conf"
    file.write_text("neighbor 10.0.0.2 {\n router-id 10.0.0.1; local-address 10.0.0.1; local-as 1; peer-as 2;\n}\n")
    assert await validate(file) == ""
