"""One node's agent, wired: datastore → configuration → routing → kernel, and its ears. `run` is the whole of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from agent import exclusive, metrics
from agent.carrier import Carrier
from agent.cni.node import NO_RUNTIME, CniOptions, NodeCni, NodeFacts, open_cni
from agent.collector import StateCollector
from agent.control import serve
from agent.datastore import Batch, Datastore
from agent.draining import Draining
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.network import NodeNetwork
from agent.objects.kinds import OWN_NAMESPACE, Keyed
from agent.objects.model import Key
from agent.objects.policy_objects import PolicyObject
from agent.objects.problem import Problem
from agent.pathfinder import PathFinder
from agent.policy_kernel import open_policy_kernel
from agent.routing import Routing
from agent.source import Report, Source, open_directory, open_kubernetes
from agent.translate import problem_of, translate
from agent.tunnel_rules import tell_of_tunnels
from agent.view import View
from bgp.speaker import Speaker, SpeakerError
from bgp.speaker.exabgp.speaker import ExaBGPSpeaker
from felix import sysctl
from felix.backstops import KernelBackstops
from felix.fib import Fib
from felix.monitor import Monitor
from felix.netconf import SettingsMonitor
from felix.netlinktable import open_route_table
from felix.nft.drops import DropLog
from felix.nft.library import LibraryError
from felix.nft.probe import missing
from felix.resolver import NetlinkResolver
from felix.sysctl import Sysctls
from felix.tunnels import KernelTunnels
from policy.nftskeleton import LOG_GROUP

SPEAKER_RETRY_S: Final = 2.0

log = structlog.get_logger("agent")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line said."""

    config: Path | None  # directory of manifests; None: the Kubernetes API
    node: str
    run_dir: Path
    listen: tuple[str, int] | None
    cni: CniOptions = NO_RUNTIME
    kubeconfig: Path | None = None  # None: the pod's service account
    namespace: str = OWN_NAMESPACE  # the agent's own


class Agent:
    """Takes objects over into routing. Everything it touches is handed in."""

    def __init__(
        self,
        node: str,
        datastore: Datastore,
        routing: Routing,
        policy: NodePolicy,
        view: View,
        *,
        draining: Draining,
        cni: NodeCni,
        network: NodeNetwork,
        namespace: str = OWN_NAMESPACE,
        report: Report | None = None,
    ) -> None:
        self._node = node
        self._namespace = namespace
        self._datastore = datastore
        self._routing = routing
        self._policy = policy
        self._draining = draining
        self._cni = cni
        self._network = network
        self._view = view
        self._report = report
        self._objects: dict[Key, Keyed] = {}  # of routing
        self._problems: list[Problem | str] = []  # of routing
        self._full_lists = 0
        self._speaker_started = False

    async def run(self) -> None:
        """Follow objects, peers and kernel until cancelled."""
        await self._datastore.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._routing.run(), name="routing")
                tasks.create_task(self._policy.run(), name="policy")
                tasks.create_task(self._network.run(), name="network")
                tasks.create_task(self._view.drops.run(), name="drops")
                tasks.create_task(self._cni.run(), name="cni")
                tasks.create_task(self._follow_objects(tasks), name="objects")
                if self._report is not None:
                    tasks.create_task(self._report(), name="report")
        finally:
            await self._datastore.stop()

    @property
    def offers_restart(self) -> bool:
        """Whether peers are to keep our routes when we stop: else they are told that it is over."""
        return self._routing.offers_restart

    async def _follow_objects(self, tasks: asyncio.TaskGroup) -> None:
        async for batch in self._datastore.batches():
            self._policy.take(batch)
            self._network.take(batch)
            if self._is_about_routing(batch) and await self._take_over(batch) and not self._speaker_started:
                self._speaker_started = True
                tasks.create_task(self._start_speaker(), name="speaker start")
            self._cni.wake()
            self._tell([*batch.problems, *self._problems, *self._policy.problems])

    def _is_about_routing(self, batch: Batch) -> bool:
        """Take over what routing goes by; whether it has something to do."""
        changed = {key: item for key, item in batch.changed.items() if not isinstance(item, PolicyObject)}
        deleted = batch.deleted & self._objects.keys()
        self._objects.update(changed)
        for key in deleted:
            del self._objects[key]
        return batch.is_synced and bool(changed or deleted or batch.full_lists > self._full_lists)

    async def _take_over(self, batch: Batch) -> bool:
        """Have routing follow the objects; whether there is anything to route by."""
        metrics.OBJECT_CHANGES.inc()
        config, complaints = translate(self._objects.values(), self._namespace)
        problems: list[Problem | str] = [*map(problem_of, complaints)]
        node = config.nodes.get(self._node)
        if node is not None:
            self._draining.follow(node)
            plan = await self._routing.configure(config, node)
            problems += map(problem_of, plan.complaints)
            if batch.full_lists > self._full_lists:
                self._full_lists = batch.full_lists
                self._routing.confirm_full_list()
        elif self._routing.plan is None:
            problems.append(f"there is no Node object {self._node}: nothing is done until there is one")
        else:
            problems.append(f"Node {self._node} is gone: its last version stays in force")
        self._problems = problems
        return node is not None

    def _tell(self, problems: Sequence[Problem | str]) -> None:
        told = list(map(str, problems))
        for problem in told:
            if problem not in self._view.problems:
                log.warning("object.problem", problem=problem)
        self._view.problems = told
        self._view.objections = [problem for problem in problems if isinstance(problem, Problem)]

    async def _start_speaker(self) -> None:
        """Start speaking, now that there is something to say. What fails is tried again for ever."""
        while True:
            try:
                return await self._routing.speaker.start()
            except SpeakerError as error:
                log.error("speaker.failed", reason=str(error))  # noqa: TRY400 - a sentence for people, no trace
                await asyncio.sleep(SPEAKER_RETRY_S)


@contextlib.asynccontextmanager
async def assemble(options: Options, speaker: Speaker) -> AsyncIterator[Agent]:
    """Build the agent on the real kernel of this network namespace."""
    sysctls = Sysctls(options.run_dir / sysctl.FILE_NAME)
    report = await asyncio.to_thread(lambda: sysctls.apply(sysctl.for_routes()))
    if report.changed or report.failed:
        log.info("sysctl", changed=report.changed, failed=report.failed)
    async with contextlib.AsyncExitStack() as stack:
        table = stack.enter_context(contextlib.closing(open_route_table()))
        resolver = stack.enter_context(contextlib.closing(NetlinkResolver()))
        monitor = stack.enter_context(contextlib.closing(Monitor(table.port)))
        fib = Fib(table)
        await fib.adopt()
        tunnels = stack.enter_context(contextlib.closing(KernelTunnels()))
        backstops = stack.enter_context(contextlib.closing(KernelBackstops()))
        carrier = Carrier(resolver, tunnels, backstops, now=time.monotonic)
        routing = Routing(speaker, fib, carrier, monitor)
        datastore, reporter = _open_source(options)
        policy = await _open_policy(options.node, stack, table.port)
        drops = DropWatch(options.node, policy.engine, _open_drop_log(stack))
        settings = stack.enter_context(contextlib.closing(SettingsMonitor()))
        network = NodeNetwork(options.node, routing, policy, sysctls, settings.changes())
        tell_of_tunnels(routing, policy, network.mtu)
        draining = Draining(routing, options.run_dir / "drain.json")
        facts = NodeFacts(lambda: routing.own_prefixes, network.mtu.mtu, lambda: datastore.health().is_synced)
        cni = await stack.enter_async_context(open_cni(options.cni, options.run_dir, policy, facts))
        network.mtu.on_change(cni.wake)
        view = View(options.node, routing, policy, drops, datastore, network=network, cni=cni.report)
        metrics.REGISTRY.register(StateCollector(view))
        paths = PathFinder(view, routing, network)
        ears = serve(
            view, draining, paths, network.around, socket=options.run_dir / "agent.sock", listen=options.listen
        )
        await stack.enter_async_context(ears)
        yield Agent(
            options.node,
            datastore,
            routing,
            policy,
            view,
            draining=draining,
            cni=cni,
            network=network,
            namespace=options.namespace,
            report=reporter(view) if reporter else None,
        )


def _open_source(options: Options) -> Source:
    if options.config is not None:
        return open_directory(options.config)
    return open_kubernetes(options.kubeconfig, options.node, options.namespace)


async def _open_policy(node: str, stack: contextlib.AsyncExitStack, route_port: int) -> NodePolicy:
    """Return the node's policy; where it cannot be enforced, one that says so as long as any is wanted."""
    lacking = await missing()
    if lacking:
        return NodePolicy(node, None, "; ".join(map(str, lacking)))
    try:
        return NodePolicy(node, stack.enter_context(open_policy_kernel(route_port)))
    except (LibraryError, OSError) as error:
        return NodePolicy(node, None, str(error))


def _open_drop_log(stack: contextlib.AsyncExitStack) -> DropLog | None:
    """Return where dropped packets are heard of; None where that is not to be had, which harms nobody."""
    try:
        return stack.enter_context(contextlib.closing(DropLog(LOG_GROUP)))
    except OSError as error:
        log.warning("drops.unheard", reason=error.strerror or str(error))
        return None


def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Kernel routes stay; peers with graceful restart keep theirs."""
    # Routes are many, live long and have no cycles: looking for some less often saves a fifth of the CPU of 100,000.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    options.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive.claim():
        started = time.monotonic()
        speaker = ExaBGPSpeaker(options.run_dir)
        async with assemble(options, speaker) as agent:
            log.info("agent.started", config=str(options.config or "Kubernetes API"))
            running = asyncio.create_task(agent.run(), name="agent")
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, running.cancel)
            try:
                await running
            except asyncio.CancelledError:
                pass  # asked to
            finally:
                await speaker.stop(graceful=agent.offers_restart)
        log.info("agent.stopped", after_s=round(time.monotonic() - started, 1))
