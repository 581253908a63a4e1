"""A Kubernetes control plane of real programs: etcd, kube-apiserver and, where asked for, the controllers.

    with Cluster.started(directory) as cluster:
        cluster.apply({"apiVersion": "v1", "kind": "Node", ...})
        datastore = ... cluster.kubeconfig()

It is on loopback, or at an address of a network namespace of its own where there are nodes that have to reach it.
The ServiceAccount admission plugin is off there, so that pods can be created without controllers that make accounts
first; service accounts and their tokens work all the same. Nothing outlives the process that started it.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml

from felix.namespaces import entered
from tests.kubernetes import assets
from tests.kubernetes.audit import POLICY, Call, read_calls

DEADLINE_S = 120.0
LOOPBACK = "127.0.0.1"
ADMIN = "admin"
SERVICE_CIDRS = "10.96.0.0/16,fd96::/112"
CONTROLLERS = (
    "node-ipam-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
"""What the controller manager runs unless told otherwise: nothing that minds nodes without a kubelet."""

_OPERATIONS = 128
"""What etcd takes in one transaction."""

_CRDS = Path(__file__).parents[2] / "charts" / "tortie" / "crds"
_PLURALS = {
    "ClusterNetworkPolicy": "clusternetworkpolicies",
    "NetworkPolicy": "networkpolicies",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "NodeRoutingStatus": "noderoutingstatuses",
    "EndpointSlice": "endpointslices",
}


class ApiError(Exception):
    """What the API server answered instead."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(f"{status} {body.get('reason', '')}: {body.get('message', '')}")
        self.status = status
        self.reason = body.get("reason", "")


class Cluster:
    """A control plane below one directory. Methods that take time return when what they do is done."""

    def __init__(
        self,
        directory: Path,
        *,
        namespace: str = "",
        address: str = LOOPBACK,
        nodes: Iterable[str] = (),
        service_cidrs: str = SERVICE_CIDRS,
    ) -> None:
        self.directory = directory
        self.namespace = namespace
        self.address = address
        self._service_cidrs = service_cidrs
        self._nodes = tuple(nodes)  # whose kubelets have a token
        self.programs = assets.directory()
        self.port, self._etcd_port, self._peer_port = free_ports(3)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._connections: dict[int, http.client.HTTPSConnection] = {}  # by thread

    @classmethod
    @contextlib.contextmanager
    def started(cls, directory: Path, api_flags: Iterable[str] = (), **where: Any) -> Iterator[Self]:
        """Run a control plane for as long as the block lasts; `where` as in the constructor."""
        cluster = cls(directory, **where)
        try:
            cluster.prepare()
            cluster.start_etcd()
            cluster.start_api(*api_flags)
            yield cluster
        finally:
            for connection in cluster._connections.values():
                connection.close()
            for name in reversed(list(cluster._running)):
                cluster.stop(name)

    # Programs

    def prepare(self) -> None:
        """Make keys and files."""
        self.directory.mkdir(parents=True, exist_ok=True)
        key = self.directory / "service-accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        users = [f"{ADMIN}-token,{ADMIN},{ADMIN},system:masters"]
        users += [f"{name}-token,system:node:{name},{name},system:nodes" for name in self._nodes]
        (self.directory / "tokens.csv").write_text("\n".join(users) + "\n")
        (self.directory / "audit-policy.yaml").write_text(yaml.safe_dump(POLICY))

    def start_etcd(self) -> None:
        """Start etcd, on what it held before if it ran before."""
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        self._start(
            "etcd",
            f"--data-dir={self.directory / 'etcd'}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self._until(lambda: self._etcd("/health", {}, "GET"), "etcd answers")

    def start_api(self, *flags: str) -> None:
        """Start the API server, with further flags, and wait until it is ready."""
        key = self.directory / "service-accounts.key"
        for_nodes = ["--enable-admission-plugins=NodeRestriction", "--kubelet-preferred-address-types=InternalIP"]
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            f"--cert-dir={self.directory / 'certificates'}",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            *(for_nodes if self._nodes else ["--disable-admission-plugins=ServiceAccount"]),
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            f"--service-cluster-ip-range={self._service_cidrs}",
            "--allow-privileged=true",
            f"--audit-policy-file={self.directory / 'audit-policy.yaml'}",
            f"--audit-log-path={self.audit_log}",
            *flags,
        )
        self._until(self._is_ready, "the API server is ready")

    def start_controllers(
        self, controllers: Sequence[str] = CONTROLLERS, cidrs: str = "10.42.0.0/16,fd42::/48", *flags: str
    ) -> None:
        """Start the controller manager with these controllers, giving nodes a /24 and a /64 of `cidrs`."""
        self._start(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig()}",
            "--secure-port=0",
            "--leader-elect=false",
            f"--controllers={','.join(controllers)}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={cidrs}",
            f"--service-cluster-ip-range={self._service_cidrs}",
            f"--service-account-private-key-file={self.directory / 'service-accounts.key'}",
            f"--root-ca-file={self.certificate}",
            "--use-service-account-credentials=false",
            *flags,
        )

    def start_scheduler(self) -> None:
        """Start the scheduler."""
        self._start("kube-scheduler", f"--kubeconfig={self.kubeconfig()}", "--secure-port=0", "--leader-elect=false")

    def stop(self, program: str, how: signal.Signals = signal.SIGKILL) -> None:
        """End one of the programs, by default as a crash would: an API server takes its time to say goodbye."""
        process = self._running.pop(program)
        process.send_signal(how)
        process.wait(DEADLINE_S)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal, such as SIGSTOP for a server that does not answer any more."""
        self._running[program].send_signal(number)

    def pid(self, program: str) -> int:
        """Return the process of a program that runs."""
        return self._running[program].pid

    def _start(self, program: str, *arguments: str) -> None:
        command = ["setpriv", "--pdeathsig", "KILL", "--", *self._inside, str(self.programs / program), *arguments]
        with (self.directory / f"{program}.log").open("ab") as log:
            self._running[program] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException, ApiError):
                if condition():
                    return
            for name, process in self._running.items():
                if process.poll() is not None:
                    raise AssertionError(f"{name} ended: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}; {self._last_words('kube-apiserver')}")
            time.sleep(0.05)  # between two looks

    def _last_words(self, program: str) -> str:
        return "\n".join((self.directory / f"{program}.log").read_text().splitlines()[-10:])

    @property
    def _inside(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []

    # Access

    @property
    def url(self) -> str:
        """Where the API server is."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"https://{host}:{self.port}"

    @property
    def certificate(self) -> Path:
        """What the API server is known by."""
        return self.directory / "certificates" / "apiserver.crt"

    @property
    def tls(self) -> ssl.SSLContext:
        """What trusts it."""
        return ssl.create_default_context(cafile=str(self.certificate))

    @property
    def audit_log(self) -> Path:
        """What the API server noted of every request."""
        return self.directory / "audit.log"

    def calls(self, user: str) -> set[Call]:
        """Return what a user has asked the API server for: verb, group, resource, and so on."""
        return read_calls(self.audit_log, user)

    def token(self, namespace: str, account: str, expires_s: int = 3600) -> str:
        """Return a new token of a service account, which is made where it is missing. At least 600 s."""
        path = f"/api/v1/namespaces/{namespace}"
        for made in (
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}},
        ):
            self.apply(made)
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": expires_s},
        }
        answer = self.request("POST", f"{path}/serviceaccounts/{account}/token", asked)
        return str(answer["status"]["token"])

    def kubeconfig(self, token: str = f"{ADMIN}-token", *, server: str = "", name: str = ADMIN) -> Path:
        """Write a kubeconfig for a token, by default the administrator's, and return where it is."""
        cluster = {"server": server or self.url, "certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
        }
        path = self.directory / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(content))
        return path

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as the administrator and return what it prints. Raises CalledProcessError."""
        command = [*self._inside, str(self.programs / "kubectl"), f"--kubeconfig={self.kubeconfig()}", *arguments]
        environment = os.environ | {"HOME": str(self.directory)}
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise AssertionError(f"{' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def request(
        self, method: str, path: str, body: Any = None, *, content_type: str = "application/json"
    ) -> dict[str, Any]:
        """Ask the API server for something as the administrator. Raises ApiError. Usable from any thread."""
        payload = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {ADMIN}-token", "Content-Type": content_type}
        try:
            status, raw = self._exchange(method, path, payload, headers)
        except (http.client.HTTPException, OSError):  # a connection kept that the server closed
            self._hang_up()
            status, raw = self._exchange(method, path, payload, headers)
        answer = json.loads(raw) if raw.startswith(b"{") else {"message": raw.decode()}
        if status >= 400:
            raise ApiError(status, answer)
        return answer

    def _exchange(self, method: str, path: str, payload: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        connection = self._connections.get(threading.get_ident())
        if connection is None:
            connection = http.client.HTTPSConnection(self.address, self.port, context=self.tls, timeout=60)
            with self._within():
                connection.connect()
            self._connections[threading.get_ident()] = connection
        connection.request(method, path, payload, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def _within(self) -> contextlib.AbstractContextManager[None]:
        return entered(self.namespace) if self.namespace else contextlib.nullcontext()

    def _hang_up(self) -> None:
        if connection := self._connections.pop(threading.get_ident(), None):
            connection.close()

    def _is_ready(self) -> bool:
        return self.certificate.exists() and self.request("GET", "/readyz")["message"] == "ok"

    # Objects

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """Create or replace objects (server-side apply); a status is written as well."""
        for document in documents:
            path = f"{path_of(document)}?fieldManager=tests&force=true"
            content = {key: value for key, value in document.items() if key != "status"}
            self.request("PATCH", path, content, content_type="application/apply-patch+yaml")
            if "status" in document:
                # Not applied: of a Node's addresses the API takes one a type that way, and a node has two families.
                place, status = f"{path_of(document)}/status", {"status": document["status"]}
                self.request("PATCH", place, status, content_type="application/merge-patch+json")

    def delete(self, *documents: Mapping[str, Any]) -> None:
        """Delete objects at once, pods without any grace."""
        for document in documents:
            with contextlib.suppress(ApiError):
                self.request("DELETE", path_of(document) + "?gracePeriodSeconds=0")

    def clear(self) -> None:
        """Delete every object of the kinds that tests make, in `default` and the project's namespace."""
        for path in (
            "/api/v1/nodes",
            "/api/v1/namespaces/default/pods",
            "/api/v1/namespaces/tortie-system/secrets",
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            "/apis/events.k8s.io/v1/namespaces/default/events",
            *(f"/apis/tortie.dev/v1alpha1/{file.stem.partition('_')[2]}" for file in _CRDS.glob("*.yaml")),
        ):
            with contextlib.suppress(ApiError):
                self.request("DELETE", f"{path}?gracePeriodSeconds=0")

    def get(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Return an object as it is in the API, given what names it. Raises ApiError."""
        return self.request("GET", path_of(document))

    def install_crds(self) -> None:
        """Install the project's own kinds, as the chart has them, and wait until they are served."""
        documents = [yaml.safe_load(file.read_text()) for file in sorted(_CRDS.glob("*.yaml"))]
        self.define(*documents)

    def define(self, *definitions: Mapping[str, Any]) -> None:
        """Install CustomResourceDefinitions and wait until they are served."""
        self.apply(*definitions)
        for definition in definitions:
            spec = definition["spec"]
            path = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
            self._until(lambda path=path: self.request("GET", path), f"{path} is served")

    # Faults

    def compact(self) -> None:
        """Have etcd forget all that was before now, so that no watch can go on from there."""
        revision = int(self._etcd("/v3/kv/range", {"key": "AA=="})["header"]["revision"])
        self._etcd("/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def store(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Put objects straight into etcd, whole as the API server gives them: past every check, and a hundred at once.

        In JSON, which it reads as well as what it writes itself. It has to be started anew to have them all.
        """
        rest = iter(objects)
        while batch := list(itertools.islice(rest, _OPERATIONS)):
            puts = [{"requestPut": {"key": _base64(_key(each)), "value": _base64(json.dumps(each))}} for each in batch]
            self._etcd("/v3/kv/txn", {"success": puts})

    def _etcd(self, path: str, body: Mapping[str, Any], method: str = "POST") -> dict[str, Any]:
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{self._etcd_port}{path}", data, method=method)
        with self._within(), urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own etcd
            answer: dict[str, Any] = json.load(response)
        return answer


def path_of(document: Mapping[str, Any]) -> str:
    """Return where an object is in the API."""
    group_version, kind, metadata = document["apiVersion"], document["kind"], document["metadata"]
    plural = _PLURALS.get(kind) or f"{kind.lower()}s"
    place = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
    if "namespace" in metadata:
        place += f"/namespaces/{metadata['namespace']}"
    return f"{place}/{plural}/{metadata['name']}"


def _key(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    return f"/registry/{document['kind'].lower()}s/{metadata['namespace']}/{metadata['name']}"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def free_ports(count: int) -> Iterable[int]:
    """Return ports of loopback that nobody listens on at present."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
