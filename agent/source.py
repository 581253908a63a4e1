"""Where an agent's objects come from, and where it reports to: a directory and nowhere, or the Kubernetes API."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from agent.datastore import Datastore
from agent.datastore.directory import DirectoryDatastore
from agent.view import View

Run: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""What goes on beside everything else for as long as the agent does."""


class Source(NamedTuple):
    """`reporter` takes what to report of, and returns what does so."""

    datastore: Datastore
    reporter: Callable[[View], Run] | None = None


def open_directory(path: Path) -> Source:
    """Return manifests."""
    return Source(DirectoryDatastore(path))


def open_kubernetes(kubeconfig: Path | None, node: str, namespace: str) -> Source:
    """Return the API server of a kubeconfig, or with none of the pod."""
    # Only where it is used: with manifests an agent needs none of the client library.
    from agent.datastore.kubernetes.datastore import KubernetesDatastore  # noqa: PLC0415 - as said
    from agent.kubernetes.access import Access  # noqa: PLC0415 - as said
    from agent.kubernetes.client import Client  # noqa: PLC0415 - as said
    from agent.kubernetes.reporter import Reporter  # noqa: PLC0415 - as said

    client = Client(Access(kubeconfig))
    datastore = KubernetesDatastore(client, node, namespace)
    return Source(datastore, lambda view: Reporter(client, view, datastore).run)
