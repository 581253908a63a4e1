"""One node's agent, wired: objects → policy, network settings, routing → kernel, and its ears.

`assemble` puts the parts together, each of which has a `run`; `run` runs them until a signal comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import structlog

from agent import exclusive, metrics, termination
from agent.carrier import Carrier
from agent.cni.node import NO_RUNTIME, CniOptions, NodeFacts, open_cni
from agent.collector import StateCollector
from agent.configurator import Configurator
from agent.control import serve
from agent.draining import Draining
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.garbage import collect_seldom
from agent.intake import Intake
from agent.namespace import OWN_NAMESPACE
from agent.network import NodeNetwork
from agent.pathfinder import PathFinder
from agent.policy_kernel import open_policy_kernel
from agent.routing import Routing
from agent.source import Run, Source, open_directory, open_kubernetes
from agent.trials import TunnelTrials
from agent.tunnel_rules import tell_of_tunnels
from agent.view import View
from bgp.speaker.exabgp.speaker import ExaBGPSpeaker
from felix import sysctl
from felix.backstops import KernelBackstops
from felix.fib import Fib
from felix.kubelet import host_uses_iptables
from felix.monitor import Monitor
from felix.netconf import SettingsMonitor
from felix.netlinktable import open_route_table
from felix.nft.drops import DropLog
from felix.nft.library import LibraryError
from felix.nft.probe import missing
from felix.resolver import NetlinkResolver
from felix.sysctl import Sysctls
from felix.trials import KernelTrials
from felix.tunnels import KernelTunnels
from policy.nftskeleton import LOG_GROUP

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


@contextlib.asynccontextmanager
async def assemble(options: Options) -> AsyncIterator[Sequence[Run]]:
    """Put the agent together on the real kernel of this network namespace. What comes out is to run, side by side."""
    sysctls = Sysctls(options.run_dir / sysctl.FILE_NAME)
    report = await asyncio.to_thread(lambda: sysctls.apply(sysctl.for_routes()))
    if report.changed or report.failed:
        log.info("sysctl", changed=report.changed, failed=report.failed)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_context
        table = enter(closing(open_route_table()))
        monitor = enter(closing(Monitor(table.port)))  # before the routes are read: nothing is missed
        fib = Fib(table)
        await fib.adopt()
        resolver, tunnels = enter(closing(NetlinkResolver())), enter(closing(KernelTunnels()))
        backstops = enter(closing(KernelBackstops()))
        carrier = Carrier(resolver, tunnels, backstops, now=time.monotonic)
        speaker = ExaBGPSpeaker(options.run_dir)
        routing = Routing(speaker, fib, carrier, monitor)
        datastore, open_reporter = _open_source(options)
        policy = await _open_policy(options.node, stack)
        routing.kernel_listeners.append(policy.hear)
        drops = DropWatch(options.node, policy.engine, _open_drop_log(stack))
        settings = enter(closing(SettingsMonitor()))
        network = NodeNetwork(options.node, routing, policy, sysctls, settings.changes())
        tell_of_tunnels(routing, policy, network.mtu)
        draining = Draining(routing, options.run_dir / "drain.json")
        configurator = Configurator(options.node, options.namespace, routing, draining)
        facts = NodeFacts(
            lambda: routing.own_prefixes,
            network.mtu.mtu,
            lambda: datastore.health().is_synced,
            routing.coming_up,
            host_uses_iptables,
        )
        cni = await stack.enter_async_context(open_cni(options.cni, options.run_dir, policy, facts))
        network.mtu.on_change(cni.wake)
        policy.on_written = cni.wake
        intake = Intake(datastore, policy, network, configurator, cni=cni)
        view = View(
            options.node,
            routing,
            policy,
            drops,
            datastore,
            network=network,
            cni=cni.report,
            problems=intake.problems,
        )
        metrics.REGISTRY.register(StateCollector(view))
        paths = PathFinder(view, routing, network)
        socket = options.run_dir / "agent.sock"
        await stack.enter_async_context(serve(view, draining, paths, socket=socket, listen=options.listen))
        trials = TunnelTrials(carrier, enter(closing(KernelTrials())), routing.wake)
        parts = [routing.run, trials.run, policy.run, network.run, drops.run, cni.run, configurator.run, intake.run]
        if open_reporter is not None:
            parts.append(open_reporter(view))
        try:
            await datastore.start()
            yield parts
        finally:
            await datastore.stop()
            await speaker.stop(graceful=routing.offers_restart)  # or else peers are told that it is over


def _open_source(options: Options) -> Source:
    if options.config is not None:
        return open_directory(options.config)
    return open_kubernetes(options.kubeconfig, options.node, options.namespace)


async def _open_policy(node: str, stack: contextlib.AsyncExitStack) -> NodePolicy:
    """Return the node's policy; where it cannot be enforced, one that says so as long as any is wanted."""
    lacking = await missing()
    if lacking:
        return NodePolicy(node, None, "; ".join(map(str, lacking)))
    try:
        return NodePolicy(node, stack.enter_context(open_policy_kernel()))
    except (LibraryError, OSError) as error:
        return NodePolicy(node, None, str(error))


def _open_drop_log(stack: contextlib.AsyncExitStack) -> DropLog | None:
    """Return where dropped packets are heard of; None where that is not to be had, which harms nobody."""
    try:
        return stack.enter_context(closing(DropLog(LOG_GROUP)))
    except OSError as error:
        log.warning("drops.unheard", reason=error.strerror or str(error))
        return None


def run(options: Options) -> None:
    """Run until SIGTERM or SIGINT. Kernel routes stay; peers with graceful restart keep theirs."""
    collect_seldom()
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    loop, started = asyncio.get_running_loop(), time.monotonic()
    agent = asyncio.create_task(_live(options), name="agent")

    def stop() -> None:
        if not agent.cancelling():  # who asks again does not keep it from ending what it began
            agent.cancel()

    # Not the loop's own handlers: they give SIGINT back to Python, and SIGTERM to the kernel, before all is over.
    termination.tell(lambda: loop.call_soon_threadsafe(stop))
    try:
        await agent
    except asyncio.CancelledError:  # asked to
        log.info("agent.stopped", after_s=round(time.monotonic() - started, 1))
    finally:
        termination.ignore()


async def _live(options: Options) -> None:
    options.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusive.claim():
        async with assemble(options) as parts:
            log.info("agent.started", config=str(options.config or "Kubernetes API"))
            await _side_by_side(parts)


async def _side_by_side(parts: Sequence[Run]) -> None:
    """Run until cancelled, or until one part fails."""
    async with asyncio.TaskGroup() as tasks:
        for run_part in parts:
            tasks.create_task(run_part(), name=run_part.__qualname__)
