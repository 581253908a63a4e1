"""Keeps routing as the objects say. The speaker is started when they have said something for the first time."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from agent import metrics
from agent.datastore import Batch
from agent.draining import Draining
from agent.objects.problem import Problem
from agent.routing import Routing
from agent.translate import Translator, problem_of
from bgp.config import BgpConfig
from bgp.speaker import SpeakerError

SPEAKER_RETRY_S: Final = 2.0

log = structlog.get_logger("agent")


class Configurator:
    """One node's."""

    def __init__(self, node: str, namespace: str, routing: Routing, draining: Draining) -> None:
        self._node = node
        self._translator = Translator(namespace)  # the agent's own: its Secrets may be named
        self._routing = routing
        self._draining = draining
        self._config: BgpConfig | None = None  # that routing has
        self._problems: list[Problem | str] = []  # but for those of the plan
        self._full_lists = 0
        self._has_configured = asyncio.Event()

    @property
    def problems(self) -> list[Problem | str]:
        """What of the objects is not in force as written, by the plan in force: links change it, too."""
        plan = self._routing.plan
        return [*self._problems, *(map(problem_of, plan.complaints) if plan else ())]

    async def take(self, batch: Batch) -> bool:
        """Take over what changed; whether anything was to be done. Nothing is until all there is has been read once."""
        is_about_us = self._translator.take(batch.changed, batch.deleted, batch.unreadable)
        if batch.is_synced and (is_about_us or self._config is None or batch.full_lists > self._full_lists):
            await self._configure(batch.full_lists)
            return True
        return False

    async def _configure(self, full_lists: int) -> None:
        metrics.OBJECT_CHANGES.inc()
        config, complaints = self._translator.config()
        self._problems = [*map(problem_of, complaints)]
        node = config.nodes.get(self._node)
        if node is None:
            self._problems.append(
                f"there is no Node object {self._node}: nothing is done until there is one"
                if self._routing.plan is None
                else f"Node {self._node} is gone: its last version stays in force"
            )
            return
        self._draining.follow(node)
        if config is not self._config or full_lists > self._full_lists:
            await self._routing.configure(config, node)
            self._config = config
        if full_lists > self._full_lists:
            self._full_lists = full_lists
            self._routing.confirm_full_list()
        self._has_configured.set()

    async def run(self) -> None:
        """Start the speaker once there is something to say. What fails is tried again for ever."""
        await self._has_configured.wait()
        while True:
            try:
                return await self._routing.speaker.start()
            except SpeakerError as error:
                log.error("speaker.failed", reason=str(error))  # noqa: TRY400 - a sentence for people, no trace
                await asyncio.sleep(SPEAKER_RETRY_S)
