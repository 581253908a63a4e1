from __future__ import annotations

import json

import msgspec
import pytest
from typer.testing import CliRunner

from agent.cli import top
from agent.cli.client import UnreachableError
from agent.cli.main import app
from agent.report import PodTraffic

IDLE = PodTraffic("shop/idle", 100.0, 10, 1000, 10, 1000, 0)
BUSY = PodTraffic("shop/busy", 100.0, 10, 1000, 10, 1000, 3)


def later(before: PodTraffic, seconds: float, sent: int, received: int) -> PodTraffic:
    return msgspec.structs.replace(
        before,
        time_seconds=before.time_seconds + seconds,
        sent_bytes=before.sent_bytes + sent,
        sent_packets=before.sent_packets + sent // 100,
        received_bytes=before.received_bytes + received,
        received_packets=before.received_packets + received // 100,
    )


def test_rates_are_of_a_second_and_the_busiest_is_first() -> None:
    first, second = top.rates([IDLE, BUSY], [later(IDLE, 2, 200, 0), later(BUSY, 2, 4000, 8000)])
    assert (first.pod, first.sent_bits, first.received_bits, first.dropped) == ("shop/busy", 16000, 32000, 3)
    assert (first.sent_packets, first.received_packets) == (20, 40)
    assert (second.pod, second.sent_bits) == ("shop/idle", 800)


def test_a_pod_that_is_new_or_another_of_its_name_is_of_the_next_time() -> None:
    reborn = msgspec.structs.replace(BUSY, time_seconds=102.0, sent_bytes=5)
    assert top.rates([BUSY], [later(IDLE, 2, 0, 0), reborn]) == []
    assert top.rates([BUSY], [BUSY]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12.4, "12"), (999, "999"), (999.9, "1.0k"), (34_560, "34.6k"), (123_456, "123k"), (1.2e9, "1.2G"),
     (5e15, "5000T")],
)  # fmt: skip
def test_quantities_are_short(value: float, text: str) -> None:
    assert top.quantity(value) == text


@pytest.mark.parametrize("words", [[], ["--once"], ["-o", "json"]])
def test_it_measures_once_where_nobody_looks(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    answers = iter([[BUSY], [later(BUSY, 1, 1000, 0)]])
    monkeypatch.setattr(top, "ask", lambda *_: next(answers))
    monkeypatch.setattr(top.time, "sleep", lambda _: None)
    result = CliRunner().invoke(app, ["top", *words], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    if "json" in words:
        assert json.loads(result.output)[0]["sentBits"] == 8000
    else:
        assert result.output.splitlines()[1].split() == ["shop/busy", "8.0k", "0", "10", "0", "3"]


def test_no_agent_ends_with_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object) -> None:
        raise UnreachableError("no agent at /run/tortie/agent.sock")

    monkeypatch.setattr(top, "ask", nobody)
    result = CliRunner().invoke(app, ["top"])
    assert (result.exit_code, result.output) == (2, "tortie: no agent at /run/tortie/agent.sock\n")
