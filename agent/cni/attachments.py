"""Which pod has which addresses on this node, as the container runtime wired it.

The API server hears of a pod's addresses seconds after its containers run, and keeps naming them after they are gone.
Here a pod has the addresses of its interfaces from the moment they are wired to the moment they are taken away:
`resolve` puts them in the place of those its object tells. An address belongs to whoever is wired to it.

A sandbox is looked for by its pod's uid, not by its name alone: the next pod of a name is another pod, with labels of
its own.

What is known survives the agent in the kernel: the link that leads to a pod bears its name and sandbox as alias, and
the routes over it are the pod's addresses. Both go when the link does, so there is nothing to tidy up or to disagree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from policy.objects import Pod

_ALIAS_MARK: Final = "tortie"
_NOTHING: Final = "-"
ALIAS_LIMIT: Final = 255
"""Bytes of a link's alias (IFALIASZ, linux/if.h, without its last)."""


class Slot(NamedTuple):
    """One interface of one sandbox: what CNI calls an attachment's key."""

    container: str
    interface: str  # as it is called inside: eth0


@dataclass(frozen=True, slots=True)
class Attachment:
    """A pod's interface, wired."""

    slot: Slot
    pod: str  # namespace/name
    uid: str  # empty: not known
    addresses: tuple[bytes, ...]  # packed
    link: int  # ifindex of the host's end

    def is_of(self, pod: Pod) -> bool:
        """Whether this is an interface of a pod, rather than of one before or after it with its name."""
        return self.pod == pod.key and (not self.uid or not pod.uid or self.uid == pod.uid)


def alias_of(attachment: Attachment) -> str:
    """Return what to write on the link; empty where it does not fit, which only names beyond 63 bytes can do."""
    slot = attachment.slot
    text = f"{_ALIAS_MARK} {attachment.pod} {attachment.uid or _NOTHING} {slot.container}/{slot.interface}"
    return text if len(text.encode()) <= ALIAS_LIMIT else ""


def from_alias(alias: str, addresses: Iterable[bytes], link: int) -> Attachment | None:
    """Return what the alias of a link says; None where it is not one of ours."""
    words = alias.split(" ")
    if len(words) != 4 or words[0] != _ALIAS_MARK:
        return None
    _, pod, uid, place = words
    container, _, interface = place.rpartition("/")
    if not container or "/" not in pod:
        return None
    return Attachment(Slot(container, interface), pod, "" if uid == _NOTHING else uid, tuple(addresses), link)


class Attachments:
    """The attachments of one node. Whatever changes them returns the pods that are other than they were.

    Where it ends does not depend on whether pods or their interfaces are heard of first.
    """

    def __init__(self, node: str) -> None:
        self._node: Final = node
        self._by_slot: dict[Slot, Attachment] = {}
        self._owners: dict[bytes, Slot] = {}
        self._pods: dict[str, Pod] = {}  # of this node, as their objects tell
        self._left: dict[str, tuple[str, set[bytes]]] = {}  # by pod: uid, and addresses it was cut off from

    def __len__(self) -> int:
        return len(self._by_slot)

    @property
    def all(self) -> list[Attachment]:
        """Every one."""
        return list(self._by_slot.values())

    def get(self, slot: Slot) -> Attachment | None:
        """Return one."""
        return self._by_slot.get(slot)

    def has(self, address: bytes) -> bool:
        """Whether an address is wired."""
        return address in self._owners

    # The runtime

    def add(self, new: Attachment) -> list[Pod]:
        """Take over an interface that was wired. What was wired to its addresses before is gone."""
        stale = {self._owners[address] for address in new.addresses if address in self._owners} | {new.slot}
        changed = self._drop(stale)
        self._by_slot[new.slot] = new
        self._owners |= dict.fromkeys(new.addresses, new.slot)
        left = self._left.get(new.pod)
        if left is not None:
            left[1].difference_update(new.addresses)
        return self._resolve_touched({*changed, new.pod}, new.addresses)

    def remove(self, slots: Collection[Slot]) -> list[Pod]:
        """Forget interfaces that were taken away."""
        addresses = {address for slot in slots if slot in self._by_slot for address in self._by_slot[slot].addresses}
        return self._resolve_touched(self._drop(slots), addresses)

    def _drop(self, slots: Iterable[Slot]) -> set[str]:
        pods = set()
        for slot in slots:
            old = self._by_slot.pop(slot, None)
            if old is None:
                continue
            pods.add(old.pod)
            for address in old.addresses:
                if self._owners.get(address) == slot:
                    del self._owners[address]
            known = self._pods.get(old.pod)
            if known is not None and old.is_of(known):
                uid, gone = self._left.setdefault(old.pod, (known.uid, set()))
                if uid == known.uid:
                    gone.update(old.addresses)
        return pods

    def _resolve_touched(self, names: Collection[str], addresses: Collection[bytes]) -> list[Pod]:
        touched = set(addresses)
        return [
            self._resolved(pod)
            for pod in self._pods.values()
            if pod.key in names or not touched.isdisjoint(pod.addresses)
        ]

    # Objects

    def resolve(self, pod: Pod) -> Pod:
        """Return a pod with the addresses it has here, whatever its object tells."""
        if pod.node not in {self._node, ""}:
            self.forget(pod.key)
            return pod
        self._pods[pod.key] = pod
        left = self._left.get(pod.key)
        if left is not None and left[0] != pod.uid:
            del self._left[pod.key]
        return self._resolved(pod)

    def _resolved(self, pod: Pod) -> Pod:
        wired = [each for each in self._by_slot.values() if each.is_of(pod)]
        if wired:
            addresses = tuple(dict.fromkeys(address for each in wired for address in each.addresses))
            return msgspec.structs.replace(pod, addresses=addresses, node=self._node)
        _, gone = self._left.get(pod.key, ("", set()))
        addresses = tuple(each for each in pod.addresses if each not in self._owners and each not in gone)
        return pod if addresses == pod.addresses else msgspec.structs.replace(pod, addresses=addresses)

    def forget(self, pod: str) -> None:
        """Hear that the object of a pod is gone. Its interfaces stay until the runtime takes them away."""
        self._pods.pop(pod, None)
        self._left.pop(pod, None)

    def stranger(self, attachment: Attachment) -> str:
        """Return why nobody knows whose interface this is; empty where its pod's object is there."""
        pod = self._pods.get(attachment.pod)
        if pod is None:
            return f"pod {attachment.pod} is not known here yet"
        if not attachment.is_of(pod):
            return f"pod {attachment.pod} of uid {attachment.uid} is not known here yet, only the one before it"
        return ""
