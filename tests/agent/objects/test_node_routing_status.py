from __future__ import annotations

from pathlib import Path

import yaml

from agent.objects import NodeRoutingStatus
from agent.objects.kinds import KINDS, manifest
from agent.objects.model import Key

EXAMPLE = Path(__file__).parents[3] / "docs" / "reference" / "examples" / "NodeRoutingStatus.yaml"


def test_a_status_reads_back_as_it_was_written() -> None:
    content = yaml.safe_load(EXAMPLE.read_text())
    status = KINDS["NodeRoutingStatus"].decode(content)

    assert isinstance(status, NodeRoutingStatus)
    assert status.key == Key("NodeRoutingStatus", "", "n1")
    written = manifest(status)
    assert written["status"]["sessions"][0]["since"] == "2026-11-21T12:00:00Z"
    assert written["status"]["sessions"][0]["families"] == content["status"]["sessions"][0]["families"]
    assert KINDS["NodeRoutingStatus"].decode(written) == status
