"""What tests anywhere may ask for: both address families, libnftables, a Kubernetes control plane of real programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from felix.nft.library import Library, LibraryError
from inet.prefix import Family
from tests.kubernetes import assets
from tests.kubernetes.cluster import Cluster

# How long an example takes is the machine's affair, too.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def family(request: pytest.FixtureRequest) -> Family:
    """Both families, one after the other."""
    return Family(request.param)


@pytest.fixture
def library() -> Library:
    """libnftables."""
    try:
        return Library()
    except LibraryError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server with the project's kinds, shared by all tests that ask for it: leave it as you found it."""
    if reason := assets.missing(*assets.SERVER):
        pytest.skip(reason)
    with Cluster.started(tmp_path_factory.mktemp("kubernetes")) as running:
        running.install_crds()
        yield running
