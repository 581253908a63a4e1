"""GoBGP: a RIB and sessions, no kernel routes (its zebra client does not survive FRR 8.4).

It passes on what it learns, but packets do not follow: use it where sessions and routes are the matter. What it
originates is not in its file but added through its API, again after each start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.lab.namespaces import CommandError, run
from agent.lab.speakers import DaemonError, Neighbour, Program, RouteView, SessionView, Speaker
from agent.lab.topology import Announcement
from inet.prefix import Family, IPAddress, Prefix

_SOCKET = "gobgp.sock"
_STATES = ("Unknown", "Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established")
_AFI_IPV4 = 1
# Attribute type codes (RFC 4271 section 5, RFC 1997, RFC 4760)
_AS_PATH, _NEXT_HOP, _MED, _LOCAL_PREF, _COMMUNITIES, _MP_REACH_NLRI = 2, 3, 4, 5, 8, 14


@dataclass(frozen=True, slots=True)
class GoBgp:
    """GoBGP in a namespace; its files are in `directory`."""

    speaker: Speaker
    namespace: str
    directory: Path

    def render(self, _announced: Sequence[Announcement]) -> Mapping[str, str]:
        """Return gobgpd.toml, which does not name what is originated."""
        return {"gobgpd.toml": "\n".join(_configure(self.speaker)) + "\n"}

    def programs(self, *, recover: bool) -> Sequence[Program]:
        """Return the one process."""
        socket = self.directory / _SOCKET
        argv = (
            "gobgpd",
            "-f",
            str(self.directory / "gobgpd.toml"),
            "--api-hosts",
            f"unix://{socket}",
            "--pprof-disable",
        )
        return (Program("gobgpd", (*argv, "-r") if recover else argv, socket),)

    async def started(self, announced: Sequence[Announcement]) -> None:
        """Originate everything."""
        for announcement in announced:
            await self.announce(announcement)

    async def announce(self, new: Announcement, /) -> None:
        """`global rib add`."""
        words = ["global", "rib", "-a", _family(new.prefix.family), "add", str(new.prefix), "origin", "igp"]
        if new.next_hop is not None:
            words += ["nexthop", str(new.next_hop)]
        if new.med is not None:
            words += ["med", str(new.med)]
        if new.communities:
            words += ["community", ",".join(new.communities)]
        if new.as_path:
            words += ["aspath", " ".join(map(str, new.as_path))]
        await self.ask(*words)

    async def withdraw(self, prefix: Prefix, /) -> None:
        """`global rib del`."""
        await self.ask("global", "rib", "-a", _family(prefix.family), "del", str(prefix))

    async def disable(self, neighbour: Neighbour) -> None:
        """`neighbor disable` sends Cease, Administrative Shutdown."""
        await self.ask("neighbor", str(neighbour.address), "disable")

    async def enable(self, neighbour: Neighbour) -> None:
        """`neighbor enable`."""
        await self.ask("neighbor", str(neighbour.address), "enable")

    async def sessions(self) -> Mapping[IPAddress, SessionView]:
        """Read `neighbor` and, for the counts of each family, `neighbor ADDRESS`."""
        summary = json.loads(await self.ask("-j", "neighbor") or "[]")
        details = [json.loads(await self.ask("-j", "neighbor", it["state"]["neighbor_address"])) for it in summary]
        return {view.peer: view for view in map(read_session, details)}

    async def routes(self) -> Sequence[RouteView]:
        """Read `global rib` of both families."""
        texts = [await self.ask("-j", "global", "rib", "-a", _family(family)) for family in Family]
        return tuple(route for text in texts for route in parse_routes(text))

    async def ask(self, *words: str) -> str:
        """Run gobgp."""
        try:
            return await run(["gobgp", "--target", f"unix://{self.directory / _SOCKET}", *words])
        except CommandError as error:
            raise DaemonError(f"GoBGP on {self.speaker.machine}: {error}") from None


def _family(family: Family) -> str:
    return family.label.lower()


def _configure(speaker: Speaker) -> Iterator[str]:
    yield "[global.config]"
    yield f"  as = {speaker.asn}"
    yield f'  router-id = "{speaker.router_id}"'
    yield "[global.use-multiple-paths.config]"
    yield "  enabled = true"
    restarts = str(speaker.restart_time_s is not None).lower()
    for it in speaker.neighbours:
        yield ""
        yield "[[neighbors]]"
        yield "  [neighbors.config]"
        yield f'    neighbor-address = "{it.address}"'
        yield f"    peer-as = {it.asn}"
        if speaker.password is not None:
            yield f'    auth-password = "{speaker.password}"'
        yield "  [neighbors.transport.config]"
        yield f'    local-address = "{it.local}"'
        yield f"    passive-mode = {str(speaker.passive).lower()}"
        yield "  [neighbors.timers.config]"
        yield f"    hold-time = {speaker.hold_time_s}"
        yield f"    keepalive-interval = {max(1, speaker.hold_time_s // 3)}"
        yield "    connect-retry = 2"
        yield "    idle-hold-time-after-reset = 1"
        if speaker.restart_time_s is not None:
            yield "  [neighbors.graceful-restart.config]"
            yield "    enabled = true"
            yield f"    restart-time = {speaker.restart_time_s}"
        for family in it.families:
            yield "  [[neighbors.afi-safis]]"
            yield "    [neighbors.afi-safis.config]"
            yield f'      afi-safi-name = "{_family(family)}-unicast"'
            yield "    [neighbors.afi-safis.mp-graceful-restart.config]"
            yield f"      enabled = {restarts}"
        yield from (f"  {line}" for line in speaker.session.splitlines())
    if speaker.config:
        yield ""
        yield speaker.config.rstrip()


def read_session(it: Mapping[str, Any]) -> SessionView:
    """Read one neighbour of `gobgp -j neighbor ADDRESS`. Zeroes are left out of its JSON."""
    state = it["state"]
    is_established = _STATES[state.get("session_state", 0)] == "Established"
    counted = {}
    for entry in it.get("afi_safis", ()) if is_established else ():
        counts = entry.get("state", {})
        family = Family.IPV4 if counts.get("family", {}).get("afi") == _AFI_IPV4 else Family.IPV6
        counted[family] = (counts.get("received", 0), counts.get("advertised", 0))
    return SessionView(
        peer=ip_address(state["neighbor_address"]),
        state=_STATES[state.get("session_state", 0)],
        peer_asn=state.get("peer_asn"),
        received={family: received for family, (received, _) in counted.items()},
        sent={family: sent for family, (_, sent) in counted.items()},
        last_error="",
    )


def parse_routes(text: str) -> Iterator[RouteView]:
    """Read `gobgp -j global rib -a FAMILY`: per prefix a list of paths with attributes by type number."""
    for prefix, paths in (json.loads(text or "{}") or {}).items():
        for it in paths:
            attributes = {attribute["type"]: attribute for attribute in it["attrs"]}
            hop = (attributes.get(_MP_REACH_NLRI) or attributes.get(_NEXT_HOP) or {}).get("nexthop")
            peer = it.get("neighbor-ip")
            yield RouteView(
                prefix=Prefix.parse(prefix),
                peer=ip_address(peer) if peer else None,
                next_hop=ip_address(hop) if peer and hop else None,
                as_path=tuple(
                    asn for segment in attributes.get(_AS_PATH, {}).get("as_paths", ()) for asn in segment["asns"]
                ),
                best=it.get("best", False),
                med=attributes.get(_MED, {}).get("metric"),
                local_pref=attributes.get(_LOCAL_PREF, {}).get("value"),
                communities=tuple(
                    f"{value >> 16}:{value & 0xFFFF}"
                    for value in attributes.get(_COMMUNITIES, {}).get("communities", ())
                ),
            )
