"""What happens when the runtime wires a pod or takes it away, and what the CNI plugin is answered.

ADD marks the pod's link as one the rules judge, has policy take the pod's addresses over, and answers when the kernel
has both; until then nothing passes: a marked link without rules is shut, and so are rules without their link. So
neither waits for the other: who marks a link may have to wait for everybody who has to do with links. The runtime may
be faster than the watch: a pod that no object speaks of yet is waited for, as long as the plugin allows. Whatever
cannot be done is said so that its reader knows what to do, and the runtime tries again.

Links are looked at again every minute: one that is gone without a DEL is forgotten, one that somebody took out of the
group is put back.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import structlog

from agent import metrics
from agent.cni.attachments import Attachment, Slot, alias_of, from_alias
from agent.cni.conflist import NETWORK
from agent.cni.links import PodLinks
from agent.enforcement import NodePolicy
from inet.prefix import Family
from policy.nftskeleton import POD_INTERFACE_GROUP

LOOK_INTERVAL_S: Final = 60.0

# Codes of errors (CNI specification 1.1, "Error").
UNKNOWN_CONTAINER: Final = 3
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50
INTERNAL: Final = 999

_GONE: Final = frozenset({errno.ENODEV, errno.EADDRNOTAVAIL})  # the link went with its pod

log = structlog.get_logger("cni")


class RefusalError(Exception):
    """What is answered instead of yes: a sentence for people, and a CNI error code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Wired:
    """What the plugin says of a pod."""

    slot: Slot
    pod: str  # namespace/name
    uid: str
    addresses: tuple[bytes, ...]  # packed
    host_interface: str


class PodNetwork:
    """One node's pods as the runtime has them. Every method is called on the event loop."""

    def __init__(self, policy: NodePolicy, links: PodLinks) -> None:
        self._policy = policy
        self._links = links
        self._marking: set[Slot] = set()
        self._settling: set[asyncio.Task[None]] = set()

    @property
    def attachments(self) -> list[Attachment]:
        """Every interface of a pod that is known."""
        return self._policy.attachments.all

    async def adopt(self) -> None:
        """Take over what an agent before this one marked. Call it before any object is taken over."""
        try:
            links = await self._links.marked()
        except OSError as error:
            log.warning("cni.links_unknown", reason=error.strerror or str(error))
            return
        found = [known for link in links if (known := from_alias(link.alias, link.addresses, link.interface))]
        for attachment in found:
            self._policy.attach(attachment)
        if found:
            log.info("cni.adopted", pods=len(found))

    # The plugin's questions

    async def add(self, wired: Wired, limit_s: float) -> None:
        """Have a pod's policy in the kernel. Raises RefusalError where that takes longer than `limit_s`."""
        began = time.monotonic()
        attachment = self._attachment(wired)
        self._marking.add(attachment.slot)
        marking = asyncio.create_task(self._mark(attachment, wired.host_interface))
        attached = self._policy.attach(attachment)
        try:
            async with asyncio.timeout(limit_s):
                await marking
                self._start_settling(attachment)
                is_held = await self._policy.enforced(attachment, attached)
        except RefusalError:
            self._take_back(attachment)
            raise
        except TimeoutError:
            reason = self._why_not(attachment)
            if marking.cancelled():  # by this very end
                reason = f"link {wired.host_interface} waits for the kernel to mark it as a pod's"
            self._take_back(attachment)
            log.warning("cni.add_timed_out", pod=wired.pod, container=wired.slot.container, reason=reason)
            raise RefusalError(
                f"pod {wired.pod} gets no network yet, after {limit_s:g} s: {reason}",
                TRY_AGAIN_LATER,
            ) from None
        finally:
            self._marking.discard(attachment.slot)
            metrics.CNI_ADD_SECONDS.observe(time.monotonic() - began)
        if not is_held:
            raise RefusalError(
                f"container {wired.slot.container} of pod {wired.pod} was deleted, or its network made anew, "
                "before its policy was in force",
                TRY_AGAIN_LATER,
            )
        log.info("cni.added", pod=wired.pod, container=wired.slot.container, link=wired.host_interface)

    def _start_settling(self, attachment: Attachment) -> None:
        """Have the pod's IPv6 gateway answer. The plugin need not wait: containers start later."""
        if any(8 * len(each) == Family.IPV6.bits for each in attachment.addresses):
            settling = asyncio.create_task(self._settle(attachment))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)

    async def _settle(self, attachment: Attachment) -> None:
        try:
            await self._links.settle(attachment.link)
        except OSError as error:
            if error.errno not in _GONE:
                reason = error.strerror or str(error)
                log.warning("cni.gateway_unsettled", pod=attachment.pod, reason=reason)

    def _attachment(self, wired: Wired) -> Attachment:
        if self._policy.hindrance:
            raise RefusalError(f"this node cannot enforce policy: {self._policy.hindrance}", TRY_AGAIN_LATER)
        try:
            link = self._links.find(wired.host_interface)
        except OSError as error:
            raise _unmarked(wired.host_interface, wired.pod, error) from None
        return Attachment(wired.slot, wired.pod, wired.uid, wired.addresses, link)

    async def _mark(self, attachment: Attachment, name: str) -> None:
        try:
            is_there = await self._links.mark(attachment.link, alias_of(attachment))
        except OSError as error:
            raise _unmarked(name, attachment.pod, error) from None
        if not is_there:
            raise RefusalError(f"link {name} of pod {attachment.pod} is gone", INTERNAL)

    def _take_back(self, attachment: Attachment) -> None:
        """Forget an interface, unless it was wired anew meanwhile."""
        if self._policy.attachments.get(attachment.slot) == attachment:
            self._policy.detach([attachment.slot])

    async def check(self, wired: Wired) -> None:
        """Answer whether all is as ADD left it. Raises RefusalError."""
        known = self._policy.attachments.get(wired.slot)
        if known is None:
            raise RefusalError(f"no pod is known of container {wired.slot.container}", UNKNOWN_CONTAINER)
        if (known.pod, set(known.addresses)) != (wired.pod, set(wired.addresses)):
            raise RefusalError(f"container {wired.slot.container} is {known.pod}, with other addresses", INTERNAL)
        try:
            found = {each.interface: each for each in await self._links.marked()}.get(known.link)
        except OSError as error:
            raise RefusalError(f"links cannot be read: {error.strerror or error}", INTERNAL) from None
        if found is None or found.group != POD_INTERFACE_GROUP:
            raise RefusalError(f"link {wired.host_interface} is not in interface group {POD_INTERFACE_GROUP}", INTERNAL)
        if missing := set(wired.addresses) - set(found.addresses):
            raise RefusalError(f"no route leads to {len(missing)} of the pod's addresses", INTERNAL)
        if not self._policy.is_enforced(known):
            raise RefusalError(f"policy of pod {wired.pod} is not in force: {self._why_not(known)}", TRY_AGAIN_LATER)

    def delete(self, slot: Slot) -> None:
        """Forget an interface, known or not: what is sent to its addresses is dropped from now on."""
        if self._policy.attachments.get(slot) is not None:
            self._policy.detach([slot])
            log.info("cni.deleted", container=slot.container)

    def keep(self, valid: Collection[Slot], network: str) -> None:
        """Forget every interface that is not among those the runtime knows.

        It says so network by network. Those of another than ours are looked after by their links alone.
        """
        if network != NETWORK:
            return
        stale = [each.slot for each in self._policy.attachments.all if each.slot not in valid]
        if stale:
            self._policy.detach(stale)
            log.info("cni.collected", pods=len(stale))

    def _why_not(self, attachment: Attachment) -> str:
        stranger = self._policy.attachments.stranger(attachment)
        return self.hindrance() or stranger or "it has ended, or its namespace is not known here"

    def hindrance(self) -> str:
        """Why no pod can be given a network; empty where it can."""
        return self._policy.hindrance or self._policy.error

    # Looking after links

    async def run(self) -> None:
        """Look after links until cancelled."""
        while True:
            try:
                await self.look()
            except OSError as error:
                log.warning("cni.links_unknown", reason=error.strerror or str(error))
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def look(self) -> None:
        """Forget interfaces whose link is gone, and mark again what somebody unmarked. Raises OSError."""
        before = {each.slot: each for each in self._policy.attachments.all if each.slot not in self._marking}
        links = {each.interface: each for each in await self._links.marked()}
        for known in before.values():
            alias, link = alias_of(known), links.get(known.link)
            if not alias or self._policy.attachments.get(known.slot) != known:
                continue  # cannot be told by its link, or was wired again meanwhile
            if link is None or link.alias != alias:
                log.info("cni.link_gone", pod=known.pod, container=known.slot.container)
                self._policy.detach([known.slot])
            elif link.group != POD_INTERFACE_GROUP:
                log.warning("cni.link_unmarked", pod=known.pod, group=link.group)
                await self._links.mark(known.link, alias)


def _unmarked(link: str, pod: str, error: OSError) -> RefusalError:
    return RefusalError(f"link {link} of pod {pod}: {error.strerror or error}", INTERNAL)
