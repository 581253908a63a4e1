"""The MTU of pods: found out from uplinks and tunnels, told to whoever wires pods, given to those that run.

`look` compares all of it with the kernel. It happens when objects, links, routes or tunnels changed, never more than a
fraction of the time, and once a minute whatever events say: what happens inside a pod nobody hears of.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

import structlog

from agent.cni.attachments import from_alias
from agent.enforcement import NodePolicy
from agent.objects.scalars import SMALLEST_MTU
from agent.surroundings import Surroundings
from felix import devices, podmtu, uplinks
from felix.devices import Device
from felix.monitor import Event, LinkChanged
from felix.nft import clamp
from felix.podmtu import Correction, Uncorrected
from felix.uplinks import Uplink
from inet.prefix import Family
from policy.nftskeleton import POD_INTERFACE_GROUP

OWNER: Final = "MSS clamping"
LOOK_INTERVAL_S: Final = 60.0
GATHERING_S: Final = 1.0  # where many pods are started, each has a new link
REST: Final = 20
"""How many times as long as a look took nobody looks again: 5 % of a core at most."""

log = structlog.get_logger("mtu")


class MtuKernel(Protocol):
    """The links of this network namespace, and of the pods behind them."""

    async def devices(self) -> Sequence[Device]:
        """Return every link. Raises OSError."""

    async def routed(self, candidates: Sequence[Device], destinations: Sequence[bytes]) -> list[Uplink]:
        """Return the links on the way to packed addresses, without any on the default way. Raises OSError."""

    async def correct(self, pod_links: Sequence[Device], mtu: int) -> Correction:
        """Give pods' links, by the hosts' ends, an MTU at both ends. Raises OSError."""


class RealMtuKernel:
    """The real ones."""

    async def devices(self) -> Sequence[Device]:
        """Return every link."""
        return await devices.devices()

    async def routed(self, candidates: Sequence[Device], destinations: Sequence[bytes]) -> list[Uplink]:
        """Return the links on the way to packed addresses."""
        return await asyncio.to_thread(uplinks.routed, candidates, destinations)

    async def correct(self, pod_links: Sequence[Device], mtu: int) -> Correction:
        """Give pods' links an MTU at both ends."""
        return await podmtu.correct(pod_links, mtu)


def whose(link: Uncorrected) -> str:
    """Return the pod that a link leads to, by the link's alias; the link where that does not say."""
    attachment = from_alias(link.alias, (), 0)
    return f"Pod {attachment.pod}" if attachment else f"link {link.link}"


class PodMtu:
    """Keeps pods' MTU. `mtu` is None until it is known."""

    def __init__(self, around: Surroundings, policy: NodePolicy, kernel: MtuKernel) -> None:
        self.uplinks: Sequence[Uplink] = ()
        self.corrected = 0  # ends of pods' links that were given another MTU
        self.uncorrected: tuple[Uncorrected, ...] = ()
        self.pod_links: frozenset[str] = frozenset()  # by name
        self.overhead = 0  # bytes that tunnels in use add at most
        self._awaits_overhead = False
        self._around = around
        self._policy = policy
        self._kernel = kernel
        self.tunnels: frozenset[str] = frozenset()  # names of our tunnel devices in use
        self._mtu: int | None = None
        self._listeners: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._reported: Collection[str] = ()
        policy.expect(OWNER)

    # For others

    def mtu(self) -> int | None:
        """Return the MTU of pods; None until it is known."""
        return self._mtu

    @property
    def uplink(self) -> int | None:
        """The largest packet that every uplink takes; None until it is known."""
        return min((each.mtu for each in self.uplinks), default=None)

    @property
    def route_mtu(self) -> int:
        """What routes to pods are to say themselves: their MTU, where an uplink takes more; 0 where none does.

        Never more than gets through, whatever pods are given: IPv6 believes a route rather than its link.
        """
        largest, room = max((each.mtu for each in self.uplinks), default=0), self._room()
        takes = min(self._mtu, room) if self._mtu is not None and room is not None else 0
        return takes if takes < largest else 0

    def on_change(self, hear: Callable[[], None]) -> None:
        """Have a function called whenever the MTU of pods or of the uplinks is another."""
        self._listeners.append(hear)

    def expect_overhead(self) -> None:
        """Find nothing before `set_overhead` was called: or pods would be given two MTUs when the agent starts."""
        self._awaits_overhead = True

    def set_overhead(self, size: int) -> None:
        """Say how many bytes tunnels in use add to a packet, at most."""
        if size != self.overhead or self._awaits_overhead:
            self.overhead, self._awaits_overhead = size, False
            self.wake()

    def set_tunnels(self, names: frozenset[str]) -> None:
        """Say which links are tunnels of ours in use: they are no uplinks, and segments that leave by them are cut."""
        if names != self.tunnels:
            self.tunnels = names
            if self._mtu is not None:  # at once: after a restart the table is about to be compared
                self._policy.contribute(OWNER, clamp.render(self._clamped(self._mtu)))
            self.wake()

    @property
    def problems(self) -> list[str]:
        """What is not as it should be, for people."""
        found = []
        said, takes = self._around.network.mtu, self._room()
        if takes is not None and isinstance(said, int) and said > takes:
            found.append(
                f"NetworkConfiguration default: spec.mtu: {said} is more than the uplinks take ({self._why(takes)}): "
                "larger packets are lost"
            )
        elif takes is not None and takes < SMALLEST_MTU and self._has_ipv6:
            found.append(f"pods' MTU stays at {SMALLEST_MTU}, which IPv6 needs; the uplinks take {self._why(takes)}")
        if self.uncorrected:
            first = self.uncorrected[0]
            others = f" and {len(self.uncorrected) - 1} others" if len(self.uncorrected) > 1 else ""
            found.append(
                f"{whose(first)}{others}: MTU {first.mtu} instead of {self._mtu}: {first.reason}; restart the pod"
            )
        return found

    # Running

    def wake(self) -> None:
        """Something that the MTU depends on may have changed."""
        self._wake.set()

    def hear(self, events: Sequence[Event]) -> None:
        """Take news of the kernel."""
        if any(isinstance(event, LinkChanged) for event in events):
            self.wake()

    async def run(self) -> None:
        """Keep it until cancelled."""
        while True:
            began = time.monotonic()
            self._wake.clear()
            try:
                await self.look()
            except OSError as error:
                log.warning("mtu.links_unreadable", reason=error.strerror or str(error))
                self._policy.contribute(OWNER, clamp.render(self.tunnels))  # policy is not to wait for this
            if self._is_ready:  # before, policy waits for the first look of all
                await asyncio.sleep(GATHERING_S + REST * (time.monotonic() - began))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._wake.wait()

    async def look(self) -> None:
        """Find out the MTU and have pods get it. Raises OSError."""
        if not self._is_ready:
            return
        every = await self._kernel.devices()
        pods = [each for each in every if each.group == POD_INTERFACE_GROUP]
        self.pod_links = frozenset(each.name for each in pods)
        others = [
            each
            for each in every
            if each.group != POD_INTERFACE_GROUP and not each.is_loopback and each.name not in self.tunnels
        ]
        await self._find(others)
        if self._mtu is None:
            self._policy.contribute(OWNER, clamp.render(self.tunnels))
            return
        done = await self._kernel.correct(pods, self._mtu)
        self._note(done)
        self._policy.contribute(OWNER, clamp.render(self._clamped(self._mtu)))

    async def _find(self, candidates: Sequence[Device]) -> None:
        """Find out uplinks and MTU; tell those who listen where it is another."""
        patterns = self._around.network.uplinks
        if patterns:
            found = uplinks.named(candidates, patterns)
        else:
            nodes = [host.packed for node in self._around.others for host in node.hosts]
            found = await self._kernel.routed(candidates, nodes)
        if not found and not self.uplinks:  # nobody to talk to as yet: no way is known, all may be one
            found = uplinks.named(candidates, ["*"])
        before = (self._mtu, self.uplink)
        if found:  # links that are down for a moment are no reason to change every pod
            self.uplinks = found
        self._mtu = self._wanted()
        if (self._mtu, self.uplink) != before:
            log.info("mtu.found", mtu=self._mtu, uplinks={each.name: each.mtu for each in self.uplinks})
            for hear in self._listeners:
                hear()

    def _room(self) -> int | None:
        return None if self.uplink is None else self.uplink - self.overhead

    def _why(self, takes: int) -> str:
        return f"{self.uplink} less {self.overhead} for the tunnel" if self.overhead else str(takes)

    def _wanted(self) -> int | None:
        said = self._around.network.mtu
        if isinstance(said, int):
            return said
        takes = self._room()
        return max(takes, SMALLEST_MTU) if takes is not None and self._has_ipv6 else takes

    @property
    def _is_ready(self) -> bool:
        return self._around.is_known and not self._awaits_overhead

    @property
    def _has_ipv6(self) -> bool:
        own = self._around.own
        return own is not None and any(cidr.family is Family.IPV6 for cidr in own.pod_cidrs)

    def _note(self, done: Correction) -> None:
        self.corrected += done.changed
        self.uncorrected = done.failed
        if done.changed:
            log.info("mtu.corrected", ends=done.changed, mtu=self._mtu)
        reasons = {f"{whose(each)}: {each.reason}" for each in done.failed}
        for reason in sorted(reasons - set(self._reported)):
            log.warning("mtu.uncorrected", reason=reason)
        self._reported = reasons

    def _clamped(self, mtu: int) -> frozenset[str]:
        """Return the links by which something leaves that may be too large for them."""
        largest = max([mtu, *(each.mtu for each in self.uncorrected)])
        return self.tunnels | {each.name for each in self.uplinks if each.mtu < largest}
