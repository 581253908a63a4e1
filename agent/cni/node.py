"""The CNI side of one node, whole: the plugin's socket, the conflist, and the addresses that nobody has any more.

`PodNetwork` answers the plugin. Here is what goes on beside it: the conflist is written when this node can take pods
and whenever what it says has changed, and host-local's leases are compared with the links there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent import metrics
from agent.cni import conflist, hostlocal
from agent.cni.leases import LeakWatch
from agent.cni.links import KernelPodLinks, PodLinks
from agent.cni.podnetwork import PodNetwork
from agent.cni.server import SOCKET_NAME, serve_cni
from agent.enforcement import NodePolicy
from agent.report import CniReport
from inet.prefix import Prefix

LOOK_INTERVAL_S: Final = 60.0
ARRIVAL_LOOK_S: Final = 0.2  # while a fresh node waits for its peers, for some seconds
ADD_LIMIT_S: Final = 10.0
"""How long an ADD may wait for the pod's policy. A kubelet tries again, with a sandbox made anew."""

log = structlog.get_logger("cni")


@dataclass(frozen=True, slots=True)
class CniOptions:
    """Where the container runtime looks. None: it is none of our business here, and left alone."""

    conf_dir: Path | None = None
    state_dir: Path = Path("/var/lib/cni/networks")


NO_RUNTIME: Final = CniOptions()
"""Pods come from manifests alone."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What the conflist depends on, read whenever it is looked at."""

    pod_cidrs: Callable[[], Sequence[Prefix]]
    mtu: Callable[[], int | None]  # None: not known yet; 0: the kernel's
    is_synced: Callable[[], bool]
    coming_up: Callable[[], Collection[object]]  # peers without whom a fresh node does not know its way yet
    uses_iptables: Callable[[], bool]  # False also where that is not known. May raise OSError


class NodeCni:
    """Keeps conflist and leases. Built by `open_cni`."""

    def __init__(
        self,
        options: CniOptions,
        run_dir: Path,
        network: PodNetwork,
        links: PodLinks,
        facts: NodeFacts,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.network: Final = network
        self._options = options
        self._run_dir = run_dir
        self._links = links
        self._facts = facts
        self._now = now
        self._leaks = LeakWatch()
        self._wake = asyncio.Event()
        self._error = ""  # of files
        self._reported = ""
        self.leaked = 0  # addresses freed

    def report(self) -> CniReport:
        """Say what the runtime has of us."""
        conf_dir = self._options.conf_dir
        return CniReport(
            conflist=str(conf_dir / conflist.FILE_NAME) if conf_dir else "",
            pods=len(self.network.attachments),
            leaked=self.leaked,
            hindrance=(self.hindrance() or self._error) if conf_dir else "",
        )

    def hindrance(self) -> str:
        """Why this node can take no pod; empty where it can. Addresses are our business where the conflist is."""
        if reason := self.network.hindrance():
            return reason
        if not self._facts.is_synced():
            return "the objects have not been read yet"
        if self._options.conf_dir is None:
            return ""
        if not self._facts.pod_cidrs():
            return "this Node has no podCIDRs: its pods can have no address (is allocate-node-cidrs on?)"
        if self._facts.mtu() is None:
            return "the MTU of pods is not known yet"
        return self._unconnected()

    def _unconnected(self) -> str:
        """Why pods would reach no other node yet, where none has been taken so far. A restart waits for nobody."""
        if not self._facts.coming_up() or (
            self._options.conf_dir is not None and (self._options.conf_dir / conflist.FILE_NAME).exists()
        ):
            return ""
        return "its sessions are coming up, which a fresh node awaits for some seconds"

    def wake(self) -> None:
        """Something that the conflist depends on may have changed."""
        self._wake.set()

    async def run(self) -> None:
        """Keep all of it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.network.run(), name="pod links of the runtime")
            if self._options.conf_dir is not None:
                tasks.create_task(self._keep(self._options.conf_dir), name="conflist and leases")

    async def _keep(self, conf_dir: Path) -> None:
        look_at = 0.0
        while True:
            self._wake.clear()
            try:
                await self._keep_conflist(conf_dir)
                if self._now() >= look_at:
                    look_at = self._now() + LOOK_INTERVAL_S
                    await self.free_leaked()
                self._error = ""
            except OSError as error:
                self._error = f"{error.filename or 'CNI files'}: {error.strerror or error}"
                self._report(self._error)
            with contextlib.suppress(TimeoutError):
                pause_s = ARRIVAL_LOOK_S if self._unconnected() else max(1.0, look_at - self._now())
                async with asyncio.timeout(min(LOOK_INTERVAL_S, pause_s)):
                    await self._wake.wait()

    async def _keep_conflist(self, conf_dir: Path) -> None:
        if reason := self.hindrance():
            self._report(reason)
            return
        content = conflist.render(
            self._facts.pod_cidrs(),
            mtu=self._facts.mtu(),
            socket=(self._run_dir / SOCKET_NAME).absolute(),
            data_dir=self._options.state_dir.absolute(),
            timeout_s=ADD_LIMIT_S,
            iptables=self._facts.uses_iptables(),
            versions=self._versions(),
        )
        self._report("")
        if await asyncio.to_thread(conflist.write, conf_dir, content):
            log.info("cni.conflist_written", path=str(conf_dir / conflist.FILE_NAME))

    def _versions(self) -> Sequence[str]:
        spoken: list[str] = []
        with contextlib.suppress(OSError):
            spoken = (self._run_dir / conflist.VERSIONS_FILE).read_text(encoding="ascii").split()
        return [each for each in conflist.CNI_VERSIONS if each in spoken] or conflist.CNI_VERSIONS[:1]

    def _report(self, reason: str) -> None:
        if reason and reason != self._reported:
            log.info("cni.not_ready", reason=reason)
        self._reported = reason

    async def free_leaked(self) -> None:
        """Free addresses that sandboxes which are gone left taken. Raises OSError."""
        directory = self._options.state_dir / conflist.NETWORK
        leases = await asyncio.to_thread(hostlocal.read, directory)
        if not leases:
            return
        reached = await self._links.reached()
        containers = {each.slot.container for each in self.network.attachments}
        doomed = self._leaks.look(leases, containers, reached, self._now())
        if doomed:
            freed = await asyncio.to_thread(hostlocal.free, directory, doomed)
            self.leaked += len(freed)
            metrics.CNI_LEAKED.inc(len(freed))
            log.warning("cni.leaked_addresses_freed", addresses=[each.name for each in freed])


@contextlib.asynccontextmanager
async def open_cni(options: CniOptions, run_dir: Path, policy: NodePolicy, facts: NodeFacts) -> AsyncIterator[NodeCni]:
    """Find the pods that are wired, and serve the plugin until the block ends. Raises OSError."""
    with contextlib.closing(KernelPodLinks()) as links:
        network = PodNetwork(policy, links)
        await network.adopt()
        node = NodeCni(options, run_dir, network, links, facts)
        async with serve_cni(network, run_dir / SOCKET_NAME, node.hindrance):
            yield node
