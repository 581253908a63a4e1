"""Dropped packets in words: who wanted what from whom, and which rule of which policy said no, or what else did.

In come counts of packets as the kernel logs them, out come reports. The kernel knows addresses, a link, and under
which name it logs: a direction in which policy denied, or another reason. What it does not know is asked of the
engine whose rules it runs. The last reports are kept for whoever asks later, others are handed each one as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, Protocol

import structlog

from agent import metrics
from agent.report import DropReport, timestamp
from felix.nft.drops import Drop, Drops
from policy.cidr import address_text
from policy.compiler import Engine
from policy.evaluator import Packet, evaluate
from policy.ir import Direction, Outcome
from policy.objects import PROTOCOL_NAMES

KEPT: Final = 1000
_DIRECTIONS: Final = frozenset(map(str, Direction))
_NAMES_KEPT: Final = 4096
_QUEUE: Final = 1000  # reports a follower may be behind

log = structlog.get_logger("drops")


class Source(Protocol):
    """Where dropped packets are heard of: `felix.nft.drops.DropLog`."""

    def batches(self) -> AsyncIterator[Drops]:
        """Yield what was dropped, for ever."""


class DropWatch:
    """Tells of the packets that one node drops. Without a source it tells of none."""

    def __init__(
        self, node: str, engine: Engine, source: Source | None, *, now: Callable[[], float] = time.time
    ) -> None:
        self.recent: Final[deque[DropReport]] = deque(maxlen=KEPT)
        self._node = node
        self._engine = engine
        self._source = source
        self._now = now
        self._names: dict[bytes, str] = {}
        self._followers: set[asyncio.Queue[DropReport]] = set()

    async def run(self) -> None:
        """Listen until cancelled."""
        if self._source is None:
            return
        try:
            async for drops in self._source.batches():
                self._names.clear()  # who has an address may have changed since
                for drop, count in drops.counts.items():
                    self._tell(self._report(drop, count))
                metrics.DROPS_NOT_TOLD.inc(drops.left_out)
        except OSError as error:  # packets are dropped all the same
            log.error("drops.unheard", reason=error.strerror or str(error))  # noqa: TRY400 - a sentence, no trace

    def _tell(self, report: DropReport) -> None:
        metrics.DROPS.labels(report.reason, report.direction, report.policy).inc(report.count)
        self.recent.append(report)
        for queue in self._followers:
            with contextlib.suppress(asyncio.QueueFull):  # who reads too slowly misses some
                queue.put_nowait(report)

    @contextlib.contextmanager
    def following(self) -> Iterator[asyncio.Queue[DropReport]]:
        """Hand out reports as they come, as long as the block lasts."""
        queue: asyncio.Queue[DropReport] = asyncio.Queue(_QUEUE)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)

    def _report(self, drop: Drop, count: int) -> DropReport:
        logged_as = drop.prefix.rpartition(" ")[2]
        is_by_policy = logged_as in _DIRECTIONS
        policy, rule = self._decision(drop) if is_by_policy else ("", "")
        return DropReport(
            time=timestamp(self._now()),
            node=self._node,
            source=self._name(drop.source),
            source_address=_text(drop.source),
            destination=self._name(drop.destination),
            destination_address=_text(drop.destination),
            protocol=PROTOCOL_NAMES.get(drop.protocol, str(drop.protocol)),
            port=drop.port,
            reason="policy" if is_by_policy else logged_as,
            direction=logged_as if is_by_policy else "",
            policy=policy,
            rule=rule,
            interface=_interface(drop.interface_in),
            count=count,
        )

    def _decision(self, drop: Drop) -> tuple[str, str]:
        """Return policy and rule, by the rules as they are now: they may have been others when the packet came."""
        if not drop.source or not drop.destination:
            return "", ""
        packet = Packet(drop.source, drop.destination, drop.protocol, drop.port)
        verdict = evaluate(self._engine.ruleset, packet)
        for judgement in verdict.judgements:
            if judgement.outcome is Outcome.DENY and judgement.decisions:
                decision = judgement.decisions[-1]
                if decision.rule is None:
                    return ", ".join(map(str, decision.chain.policies)), "no rule matched"
                name = f" ({decision.rule.rule.name})" if decision.rule.rule.name else ""
                return str(decision.rule.policy), f"rule {decision.rule.number}{name}"
        return "", "allowed by now"

    def _name(self, address: bytes) -> str:
        endpoint = self._engine.ruleset.endpoints.get(address)
        if endpoint is not None:
            return endpoint.pod
        if address not in self._names and len(self._names) < _NAMES_KEPT:
            self._names[address] = self._engine.who(address).name if address else ""
        return self._names.get(address) or _text(address)


def _text(address: bytes) -> str:
    return address_text(address) if address else "?"


def _interface(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # it is gone
        return ""
