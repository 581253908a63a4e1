"""What the pods of this node have sent and received, by the counters of their links: what `tortie top` compares."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from agent.report import DropReport, PodTraffic
from agent.view import View
from felix.linkstats import LinkTraffic, traffic
from felix.podinterfaces import pod_links


async def pod_traffic(view: View) -> list[PodTraffic]:
    """Return the counts of each pod that has a link. Raises OSError."""
    endpoints = view.policy.engine.ruleset.endpoints
    links = await pod_links(endpoints) if endpoints else {}
    counts = await traffic()
    pods = {link: endpoints[address].pod for address, link in links.items()}
    dropped = _dropped(view.drops.recent)
    now = time.time()
    return [_report(pod, counts[link], dropped.get(pod, 0), now) for link, pod in pods.items() if link in counts]


def _report(pod: str, seen: LinkTraffic, dropped: int, now: float) -> PodTraffic:
    """Turn what the node's end of a link counts around: what it receives the pod has sent."""
    return PodTraffic(
        pod=pod,
        time_seconds=now,
        sent_packets=seen.received_packets,
        sent_bytes=seen.received_bytes,
        received_packets=seen.sent_packets,
        received_bytes=seen.sent_bytes,
        dropped=dropped,
    )


def _dropped(drops: Iterable[DropReport]) -> Mapping[str, int]:
    """Count packets that policy dropped, by the pod at either end."""
    found: dict[str, int] = {}
    for drop in drops:
        for end in (drop.source, drop.destination):
            found[end] = found.get(end, 0) + drop.count
    return found
