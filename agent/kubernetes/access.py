"""How the API server is reached, and as whom: from inside a pod, or by a kubeconfig.

The official client library reads both; it also renews what expires. What it makes is loaded again when the server
says that it knows us no more: tokens and certificates are replaced in files while the agent runs.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from agent.namespace import OWN_NAMESPACE

if TYPE_CHECKING:
    from kubernetes.aio.client.configuration import Configuration

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class AccessError(Exception):
    """Access to the API server that cannot be had as described; the text says why."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where to find the description: a kubeconfig, or several as in KUBECONFIG, or the pod's service account."""

    kubeconfig: Path | None = None
    context: str | None = None  # of the kubeconfig; None: its current one

    def __str__(self) -> str:
        return f"kubeconfig {self.kubeconfig}" if self.kubeconfig else "the pod's service account"

    async def load(self) -> Configuration:
        """Read it. Raises AccessError."""
        prepare()
        from kubernetes.aio.client.configuration import Configuration  # noqa: PLC0415 - only where it is needed
        from kubernetes.aio.config.config_exception import ConfigException  # noqa: PLC0415 - as above

        configuration = Configuration()
        try:
            if self.kubeconfig is None:
                from kubernetes.aio.config.incluster_config import load_incluster_config  # noqa: PLC0415 - as above

                load_incluster_config(configuration)  # type: ignore[no-untyped-call]  # the library's
            else:
                await self._load_kubeconfigs(kubeconfigs(self.kubeconfig), configuration)
        except (ConfigException, OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, LookupError | TypeError | AttributeError):  # of who reads it, not of who wrote it
                reason = f"it does not read as one ({reason})"
            raise AccessError(f"{self} cannot be used: {reason}") from None
        return configuration

    async def _load_kubeconfigs(self, files: list[Path], configuration: Configuration) -> None:
        """Read them as one, as kubectl does: of a name, and of the current context, what is said first stands."""
        from kubernetes.aio.config.kube_config import load_kube_config  # noqa: PLC0415 - only where it is needed

        read = ((str(file), yaml.safe_load(file.read_bytes())) for file in files if file.exists())
        said = {file: content for file, content in read if content is not None}
        if not said:
            raise AccessError(f"{self} cannot be used: there is no such file, or nothing in it")
        # The library's merger stumbles over a file with nothing in it, and takes the current context of the last one.
        context = self.context or next(filter(None, (content.get("current-context") for content in said.values())), "")
        if not context:
            raise AccessError(f"{self} cannot be used: it has no current-context")
        named = os.pathsep.join(said)  # they may be others': not to be written to
        await load_kube_config(named, context, configuration, persist_config=False)  # type: ignore[no-untyped-call]  # the library's


def kubeconfigs(named: Path) -> list[Path]:
    """Return the files that KUBECONFIG, or an option, names: with colons between there are several."""
    return [Path(each).expanduser() for each in str(named).split(os.pathsep) if each]


def is_in_pod(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is in a pod that is told where the API server is."""
    return bool(environment.get("KUBERNETES_SERVICE_HOST"))


def own_namespace(environment: Mapping[str, str] = os.environ, account: Path = _ACCOUNT) -> str:
    """Return the namespace the agent runs in, where its Secrets are: POD_NAMESPACE, else the service account's."""
    if named := environment.get("POD_NAMESPACE"):
        return named
    try:
        return (account / "namespace").read_text(encoding="utf-8").strip() or OWN_NAMESPACE
    except OSError:
        return OWN_NAMESPACE


def prepare() -> None:
    """Let `kubernetes.aio` be imported without what its packages drag in.

    `import kubernetes` brings the synchronous client, requests and urllib3 (227 modules, 7 MB of a node's 110), of
    which nothing is used here: the two packages are entered without running their `__init__`.
    """
    for name in ("kubernetes", "kubernetes.aio"):
        if name not in sys.modules:
            _enter(name)


def _enter(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise AccessError("the Python package kubernetes is not installed")
    package: Any = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
