"""As much of the Container Runtime Interface (runtime.v1) as a kubelet needs to start and stop pods.

Messages are described by hand, field numbers as in k8s.io/cri-api/pkg/apis/runtime/v1/api.proto; what is not
described here is passed over when it is received.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _FIELD.TYPE_STRING,
    "uint32": _FIELD.TYPE_UINT32,
    "int32": _FIELD.TYPE_INT32,
    "int64": _FIELD.TYPE_INT64,
    "bool": _FIELD.TYPE_BOOL,
}

# Message: fields as NUMBER NAME TYPE, `*` before the type of repeated ones, `%` for a map of strings.
_MESSAGES: Final = {
    "PodSandboxMetadata": "1 name string, 2 uid string, 3 namespace string, 4 attempt uint32",
    "PortMapping": "1 protocol int32, 2 container_port int32, 3 host_port int32",
    "LinuxPodSandboxConfig": "1 cgroup_parent string",
    "PodSandboxConfig": "1 metadata PodSandboxMetadata, 2 hostname string, 3 log_directory string, "
    "5 port_mappings *PortMapping, 7 annotations %, 8 linux LinuxPodSandboxConfig",
    "RunPodSandboxRequest": "1 config PodSandboxConfig",
    "RunPodSandboxResponse": "1 pod_sandbox_id string",
    "StopPodSandboxRequest": "1 pod_sandbox_id string",
    "StopPodSandboxResponse": "",
    "RemovePodSandboxRequest": "1 pod_sandbox_id string",
    "RemovePodSandboxResponse": "",
    "PodIP": "1 ip string",
    "PodSandboxNetworkStatus": "1 ip string, 2 additional_ips *PodIP",
    "PodSandboxStatus": "1 id string, 2 metadata PodSandboxMetadata, 3 state int32, 5 network PodSandboxNetworkStatus",
    "PodSandboxStatusRequest": "1 pod_sandbox_id string, 2 verbose bool",
    "PodSandboxStatusResponse": "1 status PodSandboxStatus, 2 info %",
    "ListPodSandboxRequest": "",
    "PodSandbox": "1 id string, 2 metadata PodSandboxMetadata, 3 state int32",
    "ListPodSandboxResponse": "1 items *PodSandbox",
    "RuntimeCondition": "1 type string, 2 status bool, 3 reason string, 4 message string",
    "RuntimeStatus": "1 conditions *RuntimeCondition",
    "StatusRequest": "",
    "StatusResponse": "1 status RuntimeStatus",
}


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="cri_subset.proto", package="runtime.v1", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in filter(None, fields.split(", ")):
            number, field, kind = text.split()
            label = _FIELD.LABEL_REPEATED if kind[0] in "*%" else _FIELD.LABEL_OPTIONAL
            described = message.field.add(name=field, number=int(number), label=label)
            if kind == "%":
                entry = message.nested_type.add(name=f"{field.title()}Entry")
                entry.options.map_entry = True
                for position, part in enumerate(("key", "value"), 1):
                    entry.field.add(name=part, number=position, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
                described.type, described.type_name = _FIELD.TYPE_MESSAGE, f".runtime.v1.{name}.{entry.name}"
            elif (kind := kind.lstrip("*")) in _SCALARS:
                described.type = _SCALARS[kind]
            else:
                described.type, described.type_name = _FIELD.TYPE_MESSAGE, f".runtime.v1.{kind}"
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(_describe())


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"runtime.v1.{name}"))


class CriError(Exception):
    """What the runtime answered instead."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's sandbox as the runtime has it."""

    id: str
    pod: str
    is_ready: bool


class Runtime:
    """What a kubelet asks of a runtime. Every call blocks; calls may be made from several threads."""

    def __init__(self, socket: Path, cgroup_parent: str, logs: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._cgroup_parent = cgroup_parent
        self._logs = logs

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, limit_s: float = 60.0, **fields: Any) -> Any:
        ask = self._channel.unary_unary(
            f"/runtime.v1.RuntimeService/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_message(f"{method}Response").FromString,
        )
        try:
            return ask(_message(f"{method}Request")(**fields), timeout=limit_s)
        except grpc.RpcError as error:
            raise CriError(f"{method}: {error.details()}") from None

    def wait(self, within_s: float = 30.0) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                self._call("Status", 1.0)
            except CriError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def network_ready(self) -> bool:
        """Return what a kubelet makes its node's readiness of."""
        conditions = {each.type: each.status for each in self._call("Status").status.conditions}
        return bool(conditions["NetworkReady"])

    def run(self, name: str, *, namespace: str = "shop", uid: str = "", attempt: int = 0, **config: Any) -> str:
        """Start a pod's sandbox and return its id: ADD has ended by then. Raises CriError."""
        metadata = {"name": name, "uid": uid or f"uid-{name}", "namespace": namespace, "attempt": attempt}
        linux = {"cgroup_parent": self._cgroup_parent}
        whole = {"metadata": metadata, "hostname": name, "log_directory": str(self._logs), "linux": linux, **config}
        return str(self._call("RunPodSandbox", config=whole).pod_sandbox_id)

    def stop(self, sandbox: str) -> None:
        """Stop a sandbox: DEL has ended by then."""
        self._call("StopPodSandbox", pod_sandbox_id=sandbox)

    def remove(self, sandbox: str) -> None:
        """Stop and remove a sandbox."""
        self.stop(sandbox)
        self._call("RemovePodSandbox", pod_sandbox_id=sandbox)

    def list(self) -> list[Sandbox]:
        """Return every sandbox, the newest first."""
        items = self._call("ListPodSandbox").items
        return [Sandbox(each.id, each.metadata.name, each.state == 0) for each in items]

    def addresses(self, sandbox: str) -> list[str]:
        """Return a sandbox's addresses."""
        network = self._call("PodSandboxStatus", pod_sandbox_id=sandbox).status.network
        return [network.ip, *(each.ip for each in network.additional_ips)]

    def pid(self, sandbox: str) -> int:
        """Return the process of a sandbox, whose namespaces are the pod's."""
        return int(self._info(sandbox)["pid"])

    def netns(self, sandbox: str) -> str:
        """Return where a sandbox's network namespace is kept, as the runtime sees it."""
        namespaces = self._info(sandbox)["runtimeSpec"]["linux"]["namespaces"]
        return next(str(each["path"]) for each in namespaces if each["type"] == "network")

    def _info(self, sandbox: str) -> Any:
        return json.loads(self._call("PodSandboxStatus", pod_sandbox_id=sandbox, verbose=True).info["info"])
