"""The loop that keeps this node's policy in the kernel: objects and kernel events in, table and connections out.

What the table should be is decided in `policy`, written in `felix`. Here one worker does the writing: what changes
while it writes is gathered, so a burst of updates to one pod is one change. Whatever is refused, or done to the table
by others, ends in a `sync` of the whole, which finds out what differs and writes only that.

Nothing is touched before there is something to enforce: objects that speak of pods or policies, or a table that an
agent before this one left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

import msgspec
import structlog

from agent import metrics
from agent.cni.attachments import Attachment, Attachments, Slot
from agent.datastore import Batch
from agent.objects.kinds import Keyed
from agent.objects.model import Key
from agent.objects.policy_objects import READERS, deletion_of, notices, update_of
from agent.objects.problem import Problem
from agent.policy_cluster import Place, PolicyCluster, parse_port
from agent.policy_cutter import ConnectionCutter
from agent.policy_flows import doubtful
from agent.policy_kernel import PolicyKernel
from agent.policy_leftovers import Leftovers
from agent.policy_quarantine import Quarantine
from agent.policy_table import change_of, content_of, names_in
from felix import monitor
from felix.nft.enforcement import Change, Content, Enforcement
from felix.nft.parts import Parts, merged
from felix.nft.table import Refusal
from inet.prefix import Family
from policy.compiler import Deleted, Engine, Update
from policy.explain import Explanation, Stories, TierStory
from policy.ir import Delta
from policy.nft import decision_comment
from policy.nftskeleton import EGRESS_OK
from policy.objects import Node, Pod
from policy.policies import CLUSTER_NETWORK_POLICY, NETWORK_POLICY, Policy

RETRY_DELAYS_S: Final = (0.2, 0.5, 1, 2, 5, 10, 30)
"""Pauses between attempts to write what was refused."""

AUDIT_INTERVAL_S: Final = 300.0
"""How often the table is read back, whatever events say."""

POLICY_KINDS: Final = frozenset({NETWORK_POLICY, CLUSTER_NETWORK_POLICY})

log = structlog.get_logger("policy")


class NodePolicy:
    """One node's policy. Without a kernel it enforces nothing and says why: that is `hindrance`."""

    def __init__(
        self, node: str, kernel: PolicyKernel | None, hindrance: str = "", *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.engine: Final = Engine(node)
        self.attachments: Final = Attachments(node)
        self.cutter: Final = ConnectionCutter(self.engine.ruleset, now=now)
        self.hindrance: Final = hindrance  # why nothing can be enforced
        self.repaired = 0  # how often the table was found changed by others
        self.on_written: Callable[[], None] = lambda: None  # the table has come to be as it should be
        self._node = node
        self._kernel = kernel
        self._keeper = Enforcement(kernel.table) if kernel else None
        self._now = now
        self._quarantine = Quarantine()
        self.objects: Final[dict[Key, Keyed]] = {}  # what policy is made of, for questions
        self._policies: set[Key] = set()
        self._notices: dict[Key, list[Problem]] = {}
        self._has_node = False
        self._is_synced = False  # the objects are all there
        self._unreadable: frozenset[str] = frozenset()  # kinds we are not shown: the table stays as it is
        self._is_wanted = False
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._rounds = 0  # of work, begun
        self._written_round = 0  # the last after which the kernel had everything
        self._round_done = asyncio.Event()
        self._parts = Parts()
        self._leftovers = Leftovers(started=now())
        self._full_lists = 0
        self._has_table = False
        self._is_skeleton_written = False
        self._needs_sync = True
        self._in_kernel = False
        self._expects_difference = True  # the next sync is no repair
        self._error = ""
        self._failures = 0
        self._retry_at: float | None = None
        self._audit_at = now() + AUDIT_INTERVAL_S
        self._links_stale = True
        self._unmarked: frozenset[bytes] = frozenset()

    # Objects

    def take(self, batch: Batch) -> None:
        """Take over what changed."""
        for key, item in batch.changed.items():
            update = update_of(item)
            if update is not None:
                self.objects[key] = item
                if isinstance(update, Policy):
                    self._policies.add(key)
                self._is_wanted |= key.kind in READERS
                self._notices.pop(key, None)
                if found := notices([item]):
                    self._notices[key] = found
                self._apply(update)
        for key in batch.deleted:
            gone = deletion_of(key)
            if gone is not None and (gone.kind, gone.name) != ("Node", self._node):  # its last version stays in force
                self.objects.pop(key, None)
                self._policies.discard(key)
                self._notices.pop(key, None)
                self._apply(gone)
        self._unreadable = frozenset(key.kind for key in batch.unreadable if key.kind in READERS)
        self._is_synced |= batch.is_synced and not self._unreadable
        if batch.full_lists > self._full_lists:
            self._full_lists = batch.full_lists
            self._leftovers.confirm()
        self.wake()

    def expect(self, owner: str) -> None:
        """Have nothing written before an owner of a part of the table that is not policy has contributed."""
        self._parts.expect(owner)

    def contribute(self, owner: str, content: Content) -> None:
        """Have an owner's chains and sets beside policy's in the table, in place of what it had there before."""
        if self._parts.put(owner, content):
            self._retry_at = None
            self.wake()

    def _apply(self, update: Update) -> None:
        if isinstance(update, Node):
            self._has_node |= update.name == self._node
        if isinstance(update, Policy) or (isinstance(update, Deleted) and update.kind in POLICY_KINDS):
            self._quarantine.hear(update)
        if isinstance(update, Pod):
            update = self.attachments.resolve(update)
        elif isinstance(update, Deleted) and update.kind == "Pod":
            self.attachments.forget(f"{update.namespace}/{update.name}")
        self.engine.apply(update)

    # Pods as the runtime wires them

    def attach(self, attachment: Attachment) -> int:
        """Take over an interface that was wired: from now on its pod has its addresses.

        Returns the last round of work that does not know of it yet, for `enforced`.
        """
        self._is_wanted = True
        self._apply_all(self.attachments.add(attachment))
        return self._rounds

    def detach(self, slots: Collection[Slot]) -> None:
        """Take over that interfaces were taken away."""
        self._apply_all(self.attachments.remove(slots))

    def _apply_all(self, pods: Iterable[Pod]) -> None:
        for pod in pods:
            self.engine.apply(pod)
        self.wake()

    async def enforced(self, attachment: Attachment, attached: int) -> bool:
        """Wait until the kernel judges what an interface sends and gets by what its pod may; for ever if it never does.

        What was taken over before `attach` returned `attached` counts, what comes later may not. False: the interface
        was taken away, or it or its addresses were wired anew.
        """
        while is_held := self.attachments.get(attachment.slot) == attachment:
            if self._written_round > attached and self._is_endpoint(attachment):
                break
            await self._round_done.wait()
        return is_held

    def is_enforced(self, attachment: Attachment) -> bool:
        """Whether the kernel judges what an interface sends and gets, as far as anybody knows."""
        return self._in_kernel and self._is_endpoint(attachment)

    def _is_endpoint(self, attachment: Attachment) -> bool:
        found = (self.engine.ruleset.endpoints.get(address) for address in attachment.addresses)
        return all(each is not None and each.pod == attachment.pod for each in found)

    @property
    def problems(self) -> list[str]:
        """What is not enforced as written, for people."""
        found = [problem for each in self._notices.values() for problem in each]
        refused = [
            f"{owner} is not in force: the kernel refused it: {why}" for owner, why in self._parts.refused.items()
        ]
        why = self._error or (self.hindrance if self._parts.content.chains else "")
        unwritten = [f"table inet tortie is not as it should be: {why}"] if why and not self._is_wanted else []
        held = [self._leftovers.problem] if self._leftovers.problem else []
        return [*held, *map(str, sorted(found)), *self._quarantine.problems, *refused, *unwritten]

    # State

    @property
    def count(self) -> int:
        """How many policies there are, in the whole cluster."""
        return len(self._policies)

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to enforce."""
        return self._is_wanted

    @property
    def is_in_kernel(self) -> bool:
        """Whether the kernel has the table as it should be, as far as anybody knows."""
        return self._in_kernel

    @property
    def error(self) -> str:
        """Why the table is not in the kernel; empty where it is, or where nothing is wanted."""
        if self._unreadable and not self._is_synced:
            return f"{', '.join(sorted(self._unreadable))} cannot be read, and without them no policy is right"
        if not self._is_wanted or self._in_kernel:
            return ""
        return self.hindrance or self._error or "not written yet"

    @property
    def unlinked(self) -> int:
        """How many addresses of pods of this node have no link that leads there."""
        return len(self._unmarked)

    async def explain(self, source: str, destination: str, port: str, family: Family | None) -> Stories:
        """Explain a packet: this node's part from what it enforces, another's as that would. Raises QuestionError."""
        number, protocol = parse_port(port)
        objects = list(self.objects.values())

        def prepare() -> tuple[PolicyCluster, Place, Place]:
            cluster = PolicyCluster(objects, {self._node})
            here, there = cluster.place(source), cluster.place(destination)
            for node in {here.node, there.node} - {self._node, ""}:
                cluster.engine(node)
            return cluster, here, there

        cluster, here, there = await asyncio.to_thread(prepare)
        cluster.engines[self._node] = self.engine
        parts = cluster.explain(here, there, number, protocol, family)
        own = [await self._counted(story) for story in parts.get(self._node, ())]
        return {**parts, self._node: own} if own else parts

    async def _counted(self, story: Explanation) -> Explanation:
        tiers = tuple([await self._counted_tier(tier) for tier in story.tiers])
        return msgspec.structs.replace(story, tiers=tiers)

    async def _counted_tier(self, tier: TierStory) -> TierStory:
        """Add how often this node's kernel has decided like this."""
        chain = self.engine.ruleset.chains.get(tier.chain)
        if chain is None or self._kernel is None:
            return tier
        wanted = decision_comment(chain, tier.decided_by)
        try:
            counts = await self._kernel.counts(chain.name)
        except OSError:
            return tier
        return msgspec.structs.replace(tier, packets=sum(each.packets for each in counts if each.comment == wanted))

    # Running

    def hear(self, events: Sequence[monitor.Event]) -> None:
        """Take news of the kernel: where pods are that no runtime tells of, only their links say."""
        if any(map(_is_about_pods, events)):
            self._links_stale = True
            is_told_of_all = all(map(self.attachments.has, self.engine.ruleset.endpoints))
            if not is_told_of_all or self._leftovers.held_until is not None:
                self.wake()

    def wake(self) -> None:
        """Something changed: have the worker look."""
        self._idle.clear()
        self._wake.set()

    async def written(self) -> None:
        """Wait until what was taken over is in the kernel, or was refused."""
        await self._idle.wait()

    async def settled(self) -> None:
        """Wait until there is nothing left to do but to wait."""
        await self.written()
        await self.cutter.settled()

    async def run(self) -> None:
        """Keep the table until cancelled."""
        if self._kernel is None or self._keeper is None:
            log.error("policy.unavailable", reason=self.hindrance)
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_table(self._kernel), name="table events")
            tasks.create_task(self._work(self._kernel, self._keeper), name="policy worker")
            tasks.create_task(self.cutter.run(self._kernel), name="denied connections")

    async def _follow_table(self, kernel: PolicyKernel) -> None:
        async for event in kernel.table_events():
            log.info("policy.table_event", what=str(event))
            self._needs_sync = True
            self.wake()

    async def _work(self, kernel: PolicyKernel, keeper: Enforcement) -> None:
        with contextlib.suppress(OSError):  # `sync` meets it again, and says so
            if (found := await kernel.table.read()) is not None:
                self._has_table = True
                self._is_wanted |= EGRESS_OK in found.chains
                await self._leftovers.find(kernel.table, found)
        while True:
            deadlines = (self._audit_at, self._retry_at, self._leftovers.held_until)
            delay = min(each for each in deadlines if each is not None) - self._now()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, delay)):
                    await self._wake.wait()
            self._wake.clear()
            if self._has_work and self._is_synced and self._has_node:
                self._rounds += 1
                await self._work_once(kernel, keeper)
            if not self._wake.is_set():
                self._idle.set()

    def _end_round(self) -> None:
        if self._in_kernel and not self._needs_sync:
            self._written_round = self._rounds
        self._round_done.set()
        self._round_done = asyncio.Event()

    @property
    def _has_work(self) -> bool:
        """Whether there is anything to write, and everybody has said what."""
        return self._parts.is_complete and (self._is_wanted or self._has_table or bool(self._parts.content.chains))

    async def _work_once(self, kernel: PolicyKernel, keeper: Enforcement) -> None:
        now = self._now()
        if now >= self._audit_at:
            self._audit_at = now + AUDIT_INTERVAL_S
            self._needs_sync = True
            for policy in self._quarantine.release():
                self.engine.apply(policy)
            self._expects_difference |= self._parts.retry()
        delta = self.engine.flush()
        beside = self._parts.change()
        if beside is None or self._is_wanted is not self._is_skeleton_written:
            self._needs_sync = self._expects_difference = True
        self.cutter.gone(address for address, (_, after) in delta.endpoints.items() if after is None)
        new = (address for address, (before, after) in delta.endpoints.items() if after and not before)
        if self._links_stale or not all(map(self.attachments.has, new)):
            await self._mark_pods(kernel)
        is_due = self._retry_at is None or now >= self._retry_at
        if self._needs_sync and (is_due or delta):
            if await self._may_begin(kernel):
                await self._sync(keeper, names_in(change_of(delta)) | names_in(beside or Change()))
        elif not self._needs_sync:
            await self._change_parts(keeper, beside or Change())
            await self._change(keeper, delta)
        self._end_round()

    async def _may_begin(self, kernel: PolicyKernel) -> bool:
        """Whether the table that was found may follow the objects, most of which may be missing."""
        try:
            return await self._leftovers.may_go(kernel, self.engine.ruleset.endpoints.keys(), self._now())
        except OSError as error:
            self._fail(f"pod links cannot be read: {error.strerror or error}")
            return False

    async def _mark_pods(self, kernel: PolicyKernel) -> None:
        """Find and mark the links of pods that no runtime told of; of the others `agent.cni` sees to it."""
        self._links_stale = False
        addresses = {each for each in self.engine.ruleset.endpoints if not self.attachments.has(each)}
        try:
            self._unmarked = frozenset(addresses - set(await kernel.mark_pods(addresses)))
        except OSError as error:
            self._links_stale = True
            self._fail(f"pod links cannot be marked: {error.strerror or error}")

    # Writing

    async def _change_parts(self, keeper: Enforcement, change: Change) -> None:
        """Write a difference of what is not policy; what is refused is left to `_sync`."""
        content = self._parts.content
        if change and (refusals := await keeper.change(change)):
            log.warning("policy.change_refused", reasons=[str(each) for each in refusals[:3]])
            self._needs_sync = self._expects_difference = True
            self.wake()
        else:
            self._parts.written(content)

    async def _change(self, keeper: Enforcement, delta: Delta) -> None:
        """Write a difference; what is refused is left to `_sync`."""
        if not self._is_skeleton_written:
            return
        if delta:
            with metrics.POLICY_WRITE_SECONDS.time():
                refusals = await keeper.change(change_of(delta))
            if refusals:
                log.warning("policy.change_refused", reasons=[str(each) for each in refusals[:3]])
                self._needs_sync = self._expects_difference = True
                self.wake()
                return
        self._quarantine.succeeded()
        self.cutter.doubt(doubtful(self.engine.ruleset, delta))

    async def _sync(self, keeper: Enforcement, pending: Collection[str]) -> None:
        """Have the kernel hold the whole of it, whatever it holds now; `pending` chains and sets have changed here."""
        self._needs_sync = False
        beside, is_wanted = self._parts.content, self._is_wanted
        content = merged((content_of(self.engine.ruleset), beside)) if is_wanted else beside
        try:
            with metrics.POLICY_WRITE_SECONDS.time():
                report = await keeper.sync(content)
        except OSError as error:
            self._fail(error.strerror or str(error))
            return
        harm = [str(each) for each in report.differences if each.subject.rpartition(" ")[2] not in pending]
        if harm and not self._expects_difference:
            self.repaired += 1
            log.warning("policy.repaired", differences=harm[:5])
        if report.refusals:
            self._expects_difference = True
            self._refused(report.refusals)
            return
        self._parts.written(beside)
        self._is_skeleton_written, self._has_table = is_wanted, True
        had_it, self._in_kernel = self._in_kernel, is_wanted
        self._error, self._failures, self._retry_at = "", 0, None
        if self._in_kernel and not had_it:
            self.on_written()
        self._expects_difference = False
        self._quarantine.succeeded()
        if report.differences:
            log.info("policy.written", chains=len(content.chains), sets=len(content.sets))
            self.cutter.doubt(self.engine.ruleset.endpoints.keys())

    def _refused(self, refusals: Sequence[Refusal]) -> None:
        """Put those policies aside that the kernel named, or try again later."""
        reason = "; ".join(str(each) for each in refusals[:3])
        if self._parts.isolate(refusals):
            self._fail(f"the kernel refused it: {reason}", delay_s=0.0)
            return
        substitutes = self._quarantine.isolate(self.engine.ruleset, refusals)
        for policy in substitutes:
            self.engine.apply(policy)
        self._fail(f"the kernel refused it: {reason}", delay_s=0.0 if substitutes else None)

    def _fail(self, reason: str, delay_s: float | None = None) -> None:
        if reason != self._error:
            log.error("policy.refused", reason=reason)
        self._in_kernel = False
        self._needs_sync = True
        self._error = reason
        if delay_s is None:
            delay_s = RETRY_DELAYS_S[min(self._failures, len(RETRY_DELAYS_S) - 1)]
            self._failures += 1
        self._retry_at = self._now() + delay_s


def _is_about_pods(event: monitor.Event) -> bool:
    if isinstance(event, monitor.ForeignRouteChanged):
        return event.destination.is_host
    return isinstance(event, monitor.LinkChanged | monitor.Overflow)
