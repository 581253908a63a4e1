"""What all kinds have in common: how fields are spelled, what is refused, and what every object carries.

Field names are the camelCase of the manifests outside and snake_case inside. A field nobody knows is refused in
our own kinds; in Kubernetes' kinds only the few fields used are modelled and the rest is skipped. A field set to
null is a field left out, as the Kubernetes API has it. Objects are frozen: an unchanged one compares equal.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar, Final, NamedTuple

from pydantic import AliasGenerator, BaseModel, ConfigDict, Field, model_validator

from agent.objects.scalars import LabelKey, LabelValue, Name, Time

_SPELLED: Final = {"asn": "ASN", "id": "ID", "cidr": "CIDR", "cidrs": "CIDRs", "nat": "NAT"}
_UNUSED_METADATA: Final = frozenset(
    {
        "annotations",
        "deletionGracePeriodSeconds",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
    }
)
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)


def camel_case(name: str) -> str:
    """Return `pod_cidrs` as `podCIDRs`, `hold_time_seconds` as `holdTimeSeconds`, `import_` as `import`."""
    first, *rest = name.strip("_").split("_")
    return first + "".join(_SPELLED.get(word, word.capitalize()) for word in rest)


class Model(BaseModel):
    """A mapping in a manifest of ours."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(alias=camel_case),
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # an input may be a password in the wrong place
        populate_by_name=True,  # for code; manifests are read by alias alone
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        if isinstance(data, dict) and None in data.values():
            known = {field.alias for field in cls.model_fields.values()} | cls.model_fields.keys()
            return {name: value for name, value in data.items() if value is not None or name not in known}
        return data


class KubernetesModel(Model):
    """A mapping in one of Kubernetes' own kinds, of which only some fields are modelled."""

    model_config = ConfigDict(extra="ignore")


class Key(NamedTuple):
    """What names an object for good. `namespace` is empty for a cluster-scoped kind."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Metadata(Model):
    """What every object says of itself; what else Kubernetes has here is skipped."""

    name: Name = Field(description="Names the object among those of its kind.")
    namespace: str = Field(default="", description="Namespace of a namespaced kind.")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, description="What selectors choose by.")
    uid: str = Field(
        default="", description="Given by the API server; another one means another object of the same name."
    )
    creation_timestamp: Time | None = Field(default=None, description="Given by the API server; the older object wins.")
    deletion_timestamp: Time | None = Field(
        default=None, description="Set by the API server when the object is on its way out."
    )

    @model_validator(mode="before")
    @classmethod
    def _skip_what_is_not_used(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if name not in _UNUSED_METADATA}


class Object(Model):
    """An object: `metadata` here, `spec` or what else it has in its kind."""

    kind: ClassVar[str]

    metadata: Metadata = Field(description="Name and labels.")

    @property
    def name(self) -> str:
        """The object's name."""
        return self.metadata.name

    @property
    def key(self) -> Key:
        """What names the object for good."""
        return Key(self.kind, self.metadata.namespace, self.metadata.name)

    @property
    def seniority(self) -> tuple[datetime, str]:
        """Sorts the object that wins first: the older, then by name. Objects from files are all of one age."""
        return (self.metadata.creation_timestamp or _BEGINNING, self.metadata.name)


class KubernetesMetadata(Metadata):
    """What one of Kubernetes' own objects says of itself."""

    model_config = ConfigDict(extra="ignore")


class KubernetesObject(Object):
    """An object of one of Kubernetes' own kinds."""

    model_config = ConfigDict(extra="ignore")

    metadata: KubernetesMetadata = Field(description="Name and labels.")
