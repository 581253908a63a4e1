"""Outgoing NAT and the service guard, from objects and routes into this node's table.

What is translated is a pure function (`masquerade_of`); the rest keeps the table at what it says: at once when objects
change, and a moment after routes did, where learned destinations are exempt, or nodes of a large cluster. Learned is
what the kernel has our routes to: so a restart, which finds the routes of its former life, changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain
from typing import Final

from agent.enforcement import NodePolicy
from agent.surroundings import KnownNode, Surroundings
from agent.translate import selector_of
from felix.nft import masquerade, serviceguard
from felix.nft.masquerade import Masquerade
from felix.nft.parts import NOTHING
from inet.prefix import Family, IPAddress, Prefix, family_of

NAT: Final = "outgoing NAT"
GUARD: Final = "the service guard"

UNIQUE_LOCAL: Final = Prefix.parse("fc00::/7")
"""RFC 4193: addresses that mean nothing outside of a site."""

GATHERING_S: Final = 0.05
"""Routes and nodes come in thousands: what changes within this time is one change."""

REST: Final = 20
"""How many times as long as a change took nothing more is done about routes: 5 % of a core at most."""

FEW: Final = 256
"""Prefixes of a cluster whose set is made at once."""


def masquerade_of(
    around: Surroundings, learned: Iterable[Prefix], tunnelled: Collection[IPAddress] = frozenset()
) -> Masquerade:
    """Return what this node translates.

    `learned` are the destinations of our routes. `tunnelled` are addresses of nodes that pods' packets reach only in
    a tunnel: the fabric in between drops pods' addresses, so the way to the nodes themselves is none for them.
    """
    said, own = around.network.outgoing_nat, around.own
    if not said.enabled or own is None:
        return Masquerade()
    hosts: Iterable[Prefix] = chain.from_iterable(node.hosts for node in around.nodes.values())
    if tunnelled:
        hidden = {address.packed for address in tunnelled}
        hosts = (host for host in hosts if host.packed not in hidden)
    return Masquerade(
        pods=tuple(cidr for cidr in own.pod_cidrs if _is_for(cidr, said.families)),
        cluster=(
            *around.pod_cidrs,
            *around.network.service_cidrs,
            *hosts,
        ),
        excluded=said.exclude,
        learned=tuple(prefix for prefix in learned if not prefix.is_default) if said.exempt_learned else (),
        opted_out=frozenset(_opted_out(around)),
        ports=(said.ports.first, said.ports.last) if said.ports else None,
        fully_random=said.fully_random,
        addresses=_addresses(own) if said.source == "Node" else {},
    )


def verdict(wanted: Masquerade, source: bytes, destination: bytes) -> str | None:
    """Say what becomes of the source of a packet that leaves this node; None if nothing does. Addresses are packed."""
    if masquerade.untranslated(wanted, source, destination):
        return None
    family = Family.IPV4 if len(source) == 4 else Family.IPV6
    address = wanted.addresses.get(family)
    where = f"to {ip_address(address)}" if address else "to the address of the interface it leaves by"
    return f"masqueraded {where} (NetworkConfiguration spec.outgoingNAT)"


def _is_for(cidr: Prefix, families: Collection[Family]) -> bool:
    if families:
        return cidr.family in families
    return cidr.family is Family.IPV4 or UNIQUE_LOCAL.contains(cidr)


def _addresses(node: KnownNode) -> dict[Family, bytes]:
    """Return the node's first address of each family."""
    return {family_of(address): address.packed for address in reversed(node.internal_addresses)}


def _opted_out(around: Surroundings) -> Iterable[bytes]:
    choices = [
        (
            selector_of(each.namespace_selector) if each.namespace_selector else None,
            selector_of(each.pod_selector) if each.pod_selector else None,
        )
        for each in around.network.outgoing_nat.opt_out
    ]
    for pod in around.pods.values() if choices else ():
        of_namespace = around.namespaces.get(pod.namespace, {})
        for namespaces, pods in choices:
            if (namespaces is None or namespaces.matches(of_namespace)) and (pods is None or pods.matches(pod.labels)):
                yield from pod.addresses
                break


class OutgoingNat:
    """Keeps the node's part of the table. `destinations` are those of our routes that lead somewhere."""

    def __init__(
        self,
        around: Surroundings,
        policy: NodePolicy,
        destinations: Callable[[], Iterable[Prefix]],
        tunnelled: Callable[[], Collection[IPAddress]],
    ) -> None:
        self.wanted = Masquerade()
        self._content = NOTHING
        self._around = around
        self._policy = policy
        self._destinations = destinations
        self._tunnelled = tunnelled
        self._wake = asyncio.Event()
        policy.expect(NAT)
        policy.expect(GUARD)

    def refresh(self) -> None:
        """Have the table say what objects and routes ask for. Before all objects are read, it is left as it is.

        Where only the cluster is another, and it is large, that follows in a moment, like routes (`run`).
        """
        wanted = self._plan()
        if wanted is None:
            return
        is_large = min(len(wanted.cluster), len(self.wanted.cluster)) > FEW
        if is_large and wanted != self.wanted and replace(wanted, cluster=self.wanted.cluster) == self.wanted:
            self._wake.set()
        else:
            self._have(wanted)

    def _have(self, wanted: Masquerade) -> None:
        if wanted != self.wanted:
            self.wanted, self._content = wanted, masquerade.render(wanted)
        self._policy.contribute(NAT, self._content)
        self._policy.contribute(GUARD, serviceguard.render(self._around.network.service_cidrs))

    def _plan(self) -> Masquerade | None:
        if not self._around.is_known:
            return None
        learned = self._destinations() if self._around.network.outgoing_nat.exempt_learned else ()
        return masquerade_of(self._around, learned, self._tunnelled())

    def pods_changed(self) -> None:
        """Say that pods or namespaces are others than they were: of many nodes, all else need not be looked at."""
        if self.wanted.pods and self._around.network.outgoing_nat.opt_out:
            opted_out = frozenset(_opted_out(self._around))
            if opted_out != self.wanted.opted_out:
                self.wanted = replace(self.wanted, opted_out=opted_out)
                self._content = masquerade.with_opted_out(self._content, opted_out)
                self._policy.contribute(NAT, self._content)

    def routes_changed(self) -> None:
        """Say that our routes are others than they were."""
        self._wake.set()

    async def run(self) -> None:
        """Follow routes until cancelled."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHERING_S)
            self._wake.clear()
            began = time.monotonic()
            if (wanted := self._plan()) is not None and wanted != self.wanted:
                await asyncio.to_thread(masquerade.render, wanted)  # of many prefixes: then their sets are known
                if not self._wake.is_set():
                    self._have(wanted)
            await asyncio.sleep(REST * (time.monotonic() - began))
