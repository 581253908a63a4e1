"""Where an agent's objects come from, and where it reports to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agent.kubernetes.reporter import Reporter
from agent.source import open_directory, open_kubernetes
from inet.prefix import Family
from tests.agent.routing_world import World
from tests.agent.test_view import view_of

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: one
contexts: [{name: one, context: {cluster: one, user: one}}]
clusters: [{name: one, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: one, user: {}}]
"""


def test_a_directory_has_objects_and_takes_no_reports(tmp_path: Path) -> None:
    source = open_directory(tmp_path)
    assert source.datastore.health().source == f"directory {tmp_path}"
    assert source.reporter is None


async def test_an_api_server_has_objects_and_is_reported_to(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(KUBECONFIG)
    source = open_kubernetes(tmp_path / "config", "n1", "tortie-system")
    assert "API server" in source.datastore.health().source
    assert source.reporter is not None
    run = source.reporter(view_of(World(Family.IPV4)))
    assert isinstance(run.__self__, Reporter)
    await source.datastore.stop()


def test_an_agent_with_manifests_does_not_load_the_client_library(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.source import open_directory; "
        f"open_directory(Path({str(tmp_path)!r})); print('kubernetes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
