"""Objects from the Kubernetes API, behind the same Protocol as a directory of manifests.

One reflector for each kind. Most kinds are read as a whole; Secrets only those that others name, one watch each; pods
those of this node, and all others only while some policy speaks of pods. A policy that is the first to do so is told
once the pods are: else it would cut off for a moment whom it means to let in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from random import random
from typing import Final, NamedTuple

import structlog

from agent.datastore import Batch, DatastoreHealth
from agent.datastore.absences import CONFIRM_AFTER_S
from agent.datastore.feed import Feed
from agent.datastore.kubernetes.demand import needs_all_pods, secret_names
from agent.datastore.kubernetes.reflector import Reflector, Scope
from agent.datastore.kubernetes.source import Source
from agent.datastore.kubernetes.wire import read_page, reader_of, resource_of
from agent.kubernetes.client import Client, Request
from agent.objects import BGPConfiguration, BGPPeer, Secret
from agent.objects.kinds import KINDS, Keyed, Kind
from agent.objects.model import Key
from agent.objects.policy_objects import READERS
from agent.objects.problem import Problem

NARROW_AFTER_S: Final = 300.0
"""The pods of all nodes are read for so long after the last policy that needs them is gone."""

_LIVING: Final = "status.phase!=Succeeded,status.phase!=Failed"
_EVERYWHERE: Final = Scope(resource_of(KINDS["Pod"]), fields=f"spec.nodeName!=,{_LIVING}")

log = structlog.get_logger("kubernetes")


class _Followed(NamedTuple):
    """A kind, or one Secret, that is read."""

    about: Key  # without a name: all of a kind
    kind: Kind
    source: Source
    reflector: Reflector
    task: asyncio.Task[None]

    @property
    def is_done_without(self) -> bool:
        """Whether the server does not show it, and routing can begin without: who needs it is told to wait."""
        may_lack = self.kind.name in READERS or self.kind.name == Secret.kind
        return may_lack and self.reflector.is_refused and not self.source.has_listed

    @property
    def is_told(self) -> bool:
        """Whether all there is has been told in this round, as far as that can be."""
        is_not_served = self.source.has_listed and not self.reflector.is_served
        return self.source.is_listed or is_not_served or self.is_done_without


class KubernetesDatastore:
    """What one node's agent reads. `namespace` is its own, where Secrets are. It closes the client it is given."""

    def __init__(
        self,
        client: Client,
        node: str,
        namespace: str,
        *,
        confirm_after_s: float = CONFIRM_AFTER_S,
        narrow_after_s: float = NARROW_AFTER_S,
        chance: Callable[[], float] = random,
    ) -> None:
        self._client = client
        self._own_pods = Scope(_EVERYWHERE.resource, fields=f"spec.nodeName={node},{_LIVING}")
        self._namespace = namespace
        self._confirm_after_s = confirm_after_s
        self._narrow_after_s = narrow_after_s
        self._chance = chance
        self._feed = Feed()
        self._followed: dict[str, _Followed] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._need_pods: set[Key] = set()  # policies that speak of pods
        self._withheld: dict[Key, Keyed] = {}  # of these, those that wait for pods to be told
        self._pods: Scope | None = None  # whose list is complete
        self._narrowing: asyncio.TimerHandle | None = None

    # Datastore

    async def start(self) -> None:
        """Begin to read; a server that cannot be reached is tried again for ever."""
        for kind in KINDS.values():
            if kind.name == "Pod":
                self._follow(kind.name, kind, self._own_pods)
            elif kind.name != Secret.kind and not kind.is_written_by_agents:
                self._follow(kind.name, kind, Scope(resource_of(kind)))

    def batches(self) -> AsyncIterator[Batch]:
        """Tell what there is, then what changes."""
        return self._feed.batches()

    def health(self) -> DatastoreHealth:
        """Return what cannot be read at present, and why."""
        names: dict[str, list[str]] = {}
        for name, followed in self._followed.items():
            if error := followed.reflector.error:
                names.setdefault(error, []).append(name)
        is_all = any(len(each) == len(self._followed) for each in names.values())
        error = "; ".join(error if is_all else f"{', '.join(each)}: {error}" for error, each in names.items())
        return DatastoreHealth(str(self._client), self._feed.full_lists > 0, error)

    async def stop(self) -> None:
        """Stop reading and let go of everything."""
        self._feed.close()
        if self._narrowing is not None:
            self._narrowing.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._client.close()

    def uid(self, key: Key) -> str:
        """Return the uid of an object, good or bad; empty where it is not known."""
        name = f"{key.kind} {key.name}" if key.kind == Secret.kind else key.kind
        followed = self._followed.get(name)
        return followed.source.uids.get(key, "") if followed else ""

    def names(self, kind: str) -> list[str]:
        """Return the names of all objects of a kind."""
        return [key.name for key in self._followed[kind].source.objects] if kind in self._followed else []

    def relist(self) -> None:
        """List every kind again, whatever is known."""
        for followed in self._followed.values():
            followed.reflector.relist()

    def _follow(self, name: str, kind: Kind, scope: Scope, about: str = "") -> None:
        source = Source(name, self, confirm_after_s=self._confirm_after_s)
        reflector = Reflector(
            self._client,
            scope,
            reader_of(kind.name),
            source,
            is_optional=kind.is_ours or kind.name == "ClusterNetworkPolicy",
            on_back=self._look_back if kind.name == "Node" else None,  # one that looks is enough
            chance=self._chance,
        )
        task = asyncio.create_task(reflector.run(), name=f"follow {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self._followed[name] = _Followed(Key(kind.name, scope.namespace, about), kind, source, reflector, task)

    async def _look_back(self) -> None:
        """List every kind again where the server has not come as far as it was: its etcd was restored from a backup.

        It would have watches go on from where they were, and tell nothing of what happens before. Where kinds have
        etcds of their own, whose versions have nothing to do with each other, that is a list too many now and then.
        """
        known = max(each.reflector.version for each in self._followed.values())  # before others hear more
        page = read_page(await self._client.send(Request("list", resource_of(KINDS["Node"]), query={"limit": "1"})))
        theirs = page.metadata.resource_version
        if theirs.isdecimal() and int(theirs) < known:
            log.warning("kubernetes.restored", was=known, now=int(theirs))
            self.relist()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Let whoever takes the batches know of an error of ours."""
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._feed.close(error)

    # What the sources say

    def changed(self, item: Keyed) -> None:
        """Tell of an object, a policy perhaps later."""
        key = item.key
        self._withheld.pop(key, None)
        if needs_all_pods(item):
            self._need_pods.add(key)
        else:
            self._need_pods.discard(key)
        self._look_at_pods()
        if key in self._need_pods and self._pods != _EVERYWHERE:
            self._withheld[key] = item
        else:
            self._feed.put(item)
        if isinstance(item, BGPConfiguration | BGPPeer):
            self._look_at_secrets()

    def deleted(self, key: Key) -> None:
        """Tell that an object is gone."""
        self._withheld.pop(key, None)
        self._need_pods.discard(key)
        self._look_at_pods()
        self._feed.delete(key)
        if key.kind in {BGPConfiguration.kind, BGPPeer.kind}:
            self._look_at_secrets()

    def set_problems(self, origin: str, *problems: Problem) -> None:
        """Tell what is wrong with something."""
        self._feed.set_problems(origin, problems)

    def progressed(self) -> None:
        """Tell that everything has been told, when it has."""
        self._tell_what_is_not_served()
        pods = self._followed["Pod"]
        if pods.source.is_listed and self._pods != pods.reflector.scope:
            self._pods = pods.reflector.scope
        if self._pods == _EVERYWHERE or pods.is_done_without:
            for item in self._withheld.values():
                self._feed.put(item)
            self._withheld.clear()
        every = self._followed.values()
        self._feed.set_unreadable({each.about: each.reflector.error for each in every if each.is_done_without})
        if not self._withheld and all(each.is_told for each in every):
            for each in every:
                each.source.begin_round()
            self._feed.listed()

    # What is wanted

    def _look_at_pods(self) -> None:
        """Read the pods of all nodes, or of this one, as policies need."""
        if "Pod" not in self._followed:
            return
        reflector = self._followed["Pod"].reflector
        if self._need_pods:
            if self._narrowing is not None:
                self._narrowing.cancel()
                self._narrowing = None
            if reflector.scope != _EVERYWHERE:
                self._read_pods(_EVERYWHERE)
        elif reflector.scope == _EVERYWHERE and self._narrowing is None:
            loop = asyncio.get_running_loop()
            self._narrowing = loop.call_later(self._narrow_after_s, self._read_pods, self._own_pods)

    def _read_pods(self, scope: Scope) -> None:
        self._narrowing = None
        self._pods = None
        followed = self._followed["Pod"]
        followed.source.begin_round()
        followed.reflector.relist(scope)

    def _look_at_secrets(self) -> None:
        """Follow the Secrets that are named, and no others."""
        wanted = {
            f"{Secret.kind} {name}": name
            for kind in (BGPConfiguration.kind, BGPPeer.kind)
            if kind in self._followed
            for name in secret_names(self._followed[kind].source.objects.values())
        }
        kind = KINDS[Secret.kind]
        for name in [name for name, each in self._followed.items() if each.kind is kind and name not in wanted]:
            followed = self._followed.pop(name)
            followed.task.cancel()
            followed.source.clear()
        for name in wanted.keys() - self._followed.keys():
            scope = Scope(resource_of(kind), self._namespace, f"metadata.name={wanted[name]}")
            self._follow(name, kind, scope, wanted[name])

    def _tell_what_is_not_served(self) -> None:
        for _, kind, _, reflector, _ in self._followed.values():
            if kind.is_ours:
                lacking = Problem(
                    kind="CustomResourceDefinition",
                    name=str(reflector.scope.resource),
                    message=f"is not installed: no {kind.name} can be read",
                    consequence="Everything is as if there were none.",
                )
                self._feed.set_problems(f"definition of {kind.name}", () if reflector.is_served else (lacking,))
