from __future__ import annotations

import json

import pytest
import structlog

from agent import logs
from bgp.speaker import Secret


def test_a_line_is_json_with_the_nodes_name(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", node="n1")
    structlog.get_logger().info("session.up", peer="172.16.0.254")
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["node"], line["peer"], line["level"]) == ("session.up", "n1", "172.16.0.254", "info")


def test_less_than_the_level_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", node="n1")
    structlog.get_logger().info("session.up")
    assert not capsys.readouterr().err


def test_a_password_is_never_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", node="n1")
    structlog.get_logger().info("x", session=Secret("hunter2"), all=[Secret("hunter2")], password="hunter2")
    assert "hunter2" not in capsys.readouterr().err
