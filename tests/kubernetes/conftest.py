from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from tests.kubernetes import assets
from tests.kubernetes.cluster import Cluster


@pytest.fixture(autouse=True)
def _cluster_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test leaves in the shared cluster, even a failed one, is not the next one's."""
    yield
    gc.collect()  # what a cancelled handshake left behind comes to light here, where it is expected
    if "cluster" in request.fixturenames:
        cluster: Cluster = request.getfixturevalue("cluster")
        cluster.clear()


@pytest.fixture
def _controller_manager() -> None:
    """What setup-envtest provides has none: a test that starts it asks for this."""
    if reason := assets.missing("kube-controller-manager"):
        pytest.skip(reason)
