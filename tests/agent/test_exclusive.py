from __future__ import annotations

import os

import pytest

from agent import exclusive


@pytest.fixture(autouse=True)
def _own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclusive, "NAME", f"\0tortie-test-{os.getpid()}")


def test_a_second_agent_is_refused_and_told_who_is_there() -> None:
    with (
        exclusive.claim(),
        pytest.raises(exclusive.AlreadyRunningError, match=rf"runs on this node already \(process {os.getpid()}\)"),
    ):
        exclusive.claim()


def test_the_place_is_free_once_its_holder_is_gone() -> None:
    exclusive.claim().close()
    exclusive.claim().close()
