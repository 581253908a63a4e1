"""The agent's token ends, as every token of a pod does: with the next one in its place, and with none."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kubernetes import permissions
from agent.namespace import OWN_NAMESPACE
from agent.report import StatusReport
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.node import WHY_NOT, AgentNode, until
from tests.kubernetes.rights import granted

pytestmark = [pytest.mark.kubernetes, pytest.mark.kernel, pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)]

LEEWAY_S = 60
"""How long after its end the API server takes a token yet: clocks differ."""

POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "restricted", "namespace": "default"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": []},
}
PROFILE = {
    "apiVersion": "tortie.dev/v1alpha1",
    "kind": "BGPNodeProfile",
    "metadata": {"name": "changed"},
    "spec": {"localASN": 65007},
}


class AccountFiles:
    """The files of a pod's service account, replaced as a kubelet does: all at once, by the name of a directory."""

    def __init__(self, cluster: Cluster, directory: Path, account: str) -> None:
        self.directory = directory
        self._cluster = cluster
        self._account = account
        self._versions = 0
        cluster.token(OWN_NAMESPACE, account)  # which makes the account
        self._uid = cluster.request("GET", f"/api/v1/namespaces/{OWN_NAMESPACE}/serviceaccounts/{account}")["metadata"][
            "uid"
        ]
        directory.mkdir()
        for name in ("token", "ca.crt", "namespace"):
            (directory / name).symlink_to(f"..data/{name}")

    def put(self, token: str) -> None:
        """Have a token in the file."""
        self._versions += 1
        version = self.directory / f"..version{self._versions}"
        version.mkdir()
        (version / "token").write_text(token)
        (version / "namespace").write_text(OWN_NAMESPACE)
        shutil.copy(self._cluster.certificate, version / "ca.crt")
        link = self.directory / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self.directory / "..data")

    def signed(self, lasts_s: float) -> str:
        """Return a token that the server takes for so long, shorter than it would give one for."""
        now = time.time()
        subject = {"name": self._account, "uid": self._uid}
        claims = {
            "iss": "https://kubernetes.default.svc",
            "aud": ["https://kubernetes.default.svc"],
            "sub": f"system:serviceaccount:{OWN_NAMESPACE}:{self._account}",
            "iat": int(now) - 3600,
            "nbf": int(now) - 3600,
            "exp": int(now + lasts_s) - LEEWAY_S,
            "kubernetes.io": {"namespace": OWN_NAMESPACE, "serviceaccount": subject},
        }
        parts = [json.dumps(each).encode() for each in ({"alg": "RS256", "typ": "JWT"}, claims)]
        signed = b".".join(map(_base64, parts))
        sign = ["openssl", "dgst", "-sha256", "-sign", self._cluster.directory / "service-accounts.key"]
        signature = subprocess.run(sign, input=signed, check=True, capture_output=True).stdout
        return (signed + b"." + _base64(signature)).decode()

    def is_taken(self, token: str) -> bool:
        """Whether the server knows who has this token."""
        port, tls = self._cluster.port, self._cluster.tls
        with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", port, context=tls, timeout=30)) as connection:
            connection.request("GET", "/api", headers={"Authorization": f"Bearer {token}"})
            return connection.getresponse().status != 401


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.fixture
def node(cluster: Cluster, tmp_path: Path) -> Iterator[AgentNode]:
    with AgentNode.built(cluster, tmp_path) as node:
        cluster.apply(node.manifest(), POLICY)
        yield node


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Iterator[AccountFiles]:
    roles = granted("expiring", "expiring", permissions.CLUSTER)
    cluster.apply(*roles)
    yield AccountFiles(cluster, tmp_path / "account", "expiring")
    cluster.delete(*roles)


def unreadable(status: StatusReport) -> str:
    return " ".join(each.message for each in status.conditions if each.type == "ObjectsUnreadable")


def test_a_token_that_ends_is_followed_by_the_next_one_in_its_file_and_nobody_notices(
    node: AgentNode, account: AccountFiles
) -> None:
    first = account.signed(20)
    account.put(first)
    node.start_in_pod(account.directory)
    node.until(lambda status: status.ready, "ready")
    before = node.routes()

    with node.silence():
        account.put(account.signed(3600))
        until(lambda: not account.is_taken(first), "the end of the first token")
        node.relay.cut()  # a watch is not asked again who it is
        node.until(lambda status: not unreadable(status), "is back")
        assert node.status().ready
    node.cluster.apply(PROFILE)
    node.until(lambda status: status.local_asn == 65007, "a change after it")
    assert node.routes() == before


def test_a_token_that_nobody_replaces_leaves_the_kernel_as_it_is_and_is_said(
    node: AgentNode, account: AccountFiles
) -> None:
    only = account.signed(20)
    account.put(only)
    node.start_in_pod(account.directory)
    node.until(lambda status: status.ready, "ready")
    before = node.routes()

    with node.silence():
        until(lambda: not account.is_taken(only), "the end of the token")
        node.relay.cut()
        status = node.until(lambda status: "401 Unauthorized" in unreadable(status), "says so")
        assert "the token of the pod's service account ended at " in unreadable(status)
        assert status.ready
        assert node.routes() == before

        account.put(account.signed(3600))
        node.until(lambda status: not unreadable(status), "is back")
    assert only not in node.log.read_text()


def test_an_agent_that_starts_with_a_token_that_has_ended_waits_for_the_next_one(
    node: AgentNode, account: AccountFiles
) -> None:
    account.put(account.signed(-10))
    node.start_in_pod(account.directory)
    node.until(lambda status: "ended at " in str(status.conditions), "says so")
    assert node.routes() == ""

    account.put(account.signed(3600))
    node.until(lambda status: status.ready, "ready")
