"""From the API's JSON to objects: only the fields somebody reads, straight from the bytes.

A page of a list and a line of a watch hold their objects as raw JSON, so that one that makes no sense harms only
itself. A pod costs 15 us and leaves nothing of its 4 KB but what policy looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from agent.kubernetes.client import Resource
from agent.objects.kinds import KINDS, Keyed, Kind, decode, key_of
from agent.objects.model import Key
from agent.objects.policy_objects import PolicyObject, invalid_of
from agent.objects.problem import Finding, Invalid
from policy.fields import RefusedError
from policy.objects import PodWire, pod_of


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a list or watch. `object` is None where `findings` say why it is none."""

    key: Key
    version: str  # resourceVersion: where a watch can go on from
    uid: str
    object: Keyed | None
    findings: tuple[Finding, ...] = ()


Reader = Callable[[msgspec.Raw], Item]


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(msgspec.Struct):
    """A page of a list."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] = {}


class Bookmark(msgspec.Struct):
    """How far a watch has come; of one that began with all there is, also that this is now told."""

    metadata: _BookmarkMeta

    @property
    def ends_list(self) -> bool:
        """Whether everything there was has been told by now."""
        return self.metadata.annotations.get("k8s.io/initial-events-end") == "true"


class _Document(msgspec.Struct, omit_defaults=True):
    """Any object but a pod; what is not named here is passed over unread, such as a node's list of images."""

    metadata: dict[str, Any]
    spec: Any = None
    data: Any = None


class _NodeStatus(msgspec.Struct, omit_defaults=True):
    addresses: Any = None


class _Node(_Document, omit_defaults=True):
    status: _NodeStatus | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class _Named(msgspec.Struct):
    metadata: _Metadata


read_page: Final = msgspec.json.Decoder(Page).decode
read_event: Final = msgspec.json.Decoder(Event).decode
read_bookmark: Final = msgspec.json.Decoder(Bookmark).decode
_read_named: Final = msgspec.json.Decoder(_Named).decode
_read_pod: Final = msgspec.json.Decoder(PodWire).decode
_DOCUMENTS: Final[Mapping[str, type[_Document]]] = {"Node": _Node}


def resource_of(kind: Kind) -> Resource:
    """Return how the API's paths name a kind."""
    group, _, version = kind.group_version.rpartition("/")
    return Resource(group, version, kind.plural)


def reader_of(name: str) -> Reader:
    """Return what reads objects of a kind. It raises msgspec.DecodeError for what is no object at all."""
    if name == "Pod":
        return _pod
    kind, read = KINDS[name], msgspec.json.Decoder(_DOCUMENTS.get(name, _Document)).decode

    def document(raw: msgspec.Raw) -> Item:
        try:
            content = msgspec.to_builtins(read(raw))
            key, metadata = key_of(kind, content), content["metadata"]
            return Item(key, metadata.get("resourceVersion", ""), metadata.get("uid", ""), decode(kind, key, content))
        except Invalid as invalid:
            return _refused(name, raw, invalid.findings)
        except msgspec.ValidationError as error:
            return _refused(name, raw, (Finding((), str(error)),))

    return document


def _pod(raw: msgspec.Raw) -> Item:
    try:
        wire = _read_pod(raw)
        pod = pod_of(wire)
    except RefusedError as refused:
        return _refused("Pod", raw, invalid_of(refused).findings)
    except msgspec.ValidationError as error:
        return _refused("Pod", raw, (Finding((), str(error)),))
    key = Key("Pod", pod.namespace, pod.name)
    return Item(key, wire.metadata.resource_version or "", "", PolicyObject(key, pod))


def _refused(kind: str, raw: msgspec.Raw, findings: tuple[Finding, ...]) -> Item:
    metadata = _read_named(raw).metadata
    key = Key(kind, metadata.namespace, metadata.name)
    return Item(key, metadata.resource_version, metadata.uid, None, findings)
