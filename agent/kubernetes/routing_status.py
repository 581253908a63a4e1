"""What NodeRoutingStatus says of a node, made from the reports that `tortie status` and `peers` show. Pure.

Two kinds of content: states, which people wait for, and counts, which change with every route of the cluster. A new
state is worth a request at once, a new count is not: a thousand nodes would write because one got a prefix.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agent.report import ConditionReport, PeerReport, StatusReport

MAX_SESSIONS: Final = 200
"""So many sessions are listed, those that are down first: an object has to stay small (a mesh may have 5,000)."""
MAX_PROBLEMS: Final = 5
MAX_MESSAGE: Final = 1024

_COUNTED: Final = frozenset({"families", "routes"})
_TOLD_BY_REPORT: Final = frozenset({"MassDeleteHeldBack"})
"""Conditions with a countdown in their message: news every second, which `tortie status` shows."""


def content(status: StatusReport, peers: Sequence[PeerReport], before: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the status as it should be. `before` is the one written last; `now` is RFC 3339.

    What has no value is left out, as server-side apply removes a field that its owner leaves out.
    """
    shown = sorted(peers, key=lambda peer: peer.state == "Established")[:MAX_SESSIONS]
    conditions = [*status.conditions, accepted(status.problems)]
    return _without_nothing(
        {
            "localASN": status.local_asn,
            "routerID": status.router_id,
            "sessions": [_session(peer) for peer in shown],
            "establishedSessions": status.sessions_established,
            "wantedSessions": status.sessions_configured,
            "routes": {"installed": status.routes_installed, "refused": status.routes_refused},
            "drain": _drain(status),
            "conditions": list(_conditions(conditions, before.get("conditions", ()), now)),
        }
    )


def states(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return a status without what is only counted."""
    sessions = [_without(session) for session in status.get("sessions", ())]
    return _without(status) | {"sessions": sessions}


def accepted(problems: Sequence[str]) -> ConditionReport:
    """Return whether every object is in force as written, with the first that are not."""
    if not problems:
        return ConditionReport("ObjectsAccepted", "True", "AllInForce", "")
    message = "\n".join(problems[:MAX_PROBLEMS])[:MAX_MESSAGE]
    left = len(problems) - MAX_PROBLEMS
    return ConditionReport(
        "ObjectsAccepted", "False", "NotAsWritten", f"{message}\nand {left} more" if left > 0 else message
    )


def _session(peer: PeerReport) -> dict[str, Any]:
    families = [
        {
            "family": each.family,
            "received": each.received,
            "accepted": each.accepted,
            "refused": each.refused,
            "announced": each.announced,
        }
        for each in peer.families
    ]
    return _without_nothing(
        {
            "peer": peer.peer,
            "object": peer.origin,
            "peerASN": peer.peer_asn,
            "state": peer.state,
            "since": peer.since,
            "families": families,
            "lastError": peer.reason or peer.last_error,
        }
    )


def _drain(status: StatusReport) -> dict[str, Any] | None:
    drain = status.drain
    if not drain.state:
        return None
    return _without_nothing(
        {"state": drain.state, "since": drain.since, "withdrawAt": drain.withdraw_at, "reason": drain.reason}
    )


def _conditions(
    conditions: Iterable[ConditionReport], before: Iterable[Mapping[str, Any]], now: str
) -> Iterable[dict[str, Any]]:
    known = {each["type"]: each for each in before}
    for each in conditions:
        old = known.get(each.type, {})
        is_same = old.get("status") == each.status
        yield {
            "type": each.type,
            "status": each.status,
            "reason": each.reason,
            "message": "" if each.type in _TOLD_BY_REPORT else each.message[:MAX_MESSAGE],
            "lastTransitionTime": old["lastTransitionTime"] if is_same else now,
        }


def _without(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in _COUNTED}


def _without_nothing(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if value not in (None, "")}
