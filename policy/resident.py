"""Who has an address: what explanations say of the two ends of a packet."""

from __future__ import annotations

import msgspec

from policy.objects import NamedPort


class Resident(msgspec.Struct, frozen=True, rename="camel"):
    """Who has an address. A node has no namespace labels; with neither name nor labels it is nobody known here."""

    address: str
    kind: str = ""  # Pod, Node, or empty
    name: str = ""  # namespace/name of a pod
    node: str = ""
    labels: dict[str, str] = {}
    namespace_labels: dict[str, str] | None = None
    ports: tuple[NamedPort, ...] = ()

    @property
    def short_name(self) -> str:
        """The name without its namespace, or the address of somebody unknown."""
        return self.name.rpartition("/")[2] or self.address

    @property
    def namespace(self) -> str:
        """The namespace of a pod."""
        return self.name.rpartition("/")[0]

    def __str__(self) -> str:
        if not self.name:
            return self.address
        return f"{self.name} ({self.address}{', ' + self.node if self.node and self.kind == 'Pod' else ''})"
