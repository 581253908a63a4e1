"""FRR: zebra and bgpd, routes in the kernel through zebra, spoken to through vtysh.

Each instance needs its own sockets in a directory owned by the user frr, and bgpd must find zebra there when it
starts, or it looks again only after ten seconds. Graceful restart is said three times: to bgpd twice, and to
zebra (-K) so that it does not sweep what it finds at its start. Left to itself zebra changes an IPv6 route by deleting
and adding it, and packets in between are lost: `--v6-rr-semantics` has it replace routes, as it does in IPv4.
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

_PROGRAMS = Path("/usr/lib/frr")
_KEEP_KERNEL_ROUTES_S = 15


@dataclass(frozen=True, slots=True)
class Frr:
    """FRR in a namespace; its files and sockets are in `directory`, which the user frr must own."""

    speaker: Speaker
    namespace: str
    directory: Path

    def render(self, announced: Sequence[Announcement]) -> Mapping[str, str]:
        """Return the configurations of zebra and bgpd."""
        return {
            "zebra.conf": f"hostname {self.speaker.machine}\n",
            "bgpd.conf": "\n".join(_configure(self.speaker, announced)) + "\n",
        }

    def programs(self, *, recover: bool) -> Sequence[Program]:
        """Return zebra, then bgpd."""
        here = str(self.directory)
        common = ("--log", "stdout", "--vty_socket", here, "-z", f"{here}/zserv.api")
        zebra = ("--v6-rr-semantics", *(("-K", str(_KEEP_KERNEL_ROUTES_S)) if recover else ()))
        return (
            Program(
                "zebra",
                (f"{_PROGRAMS}/zebra", *common, "-i", f"{here}/zebra.pid", "-f", f"{here}/zebra.conf", *zebra),
                self.directory / "zserv.api",
            ),
            Program(
                "bgpd",
                (f"{_PROGRAMS}/bgpd", *common, "-i", f"{here}/bgpd.pid", "-f", f"{here}/bgpd.conf"),
                self.directory / "bgpd.vty",
            ),
        )

    async def started(self, _announced: Sequence[Announcement], /) -> None:
        """Nothing: everything is in its files."""

    async def announce(self, new: Announcement, /) -> None:
        """Add a `network`, with a route map where something is said about it."""
        await self._configure(*_route_map(new), *_in_router(self.speaker, _network(new)))

    async def withdraw(self, prefix: Prefix, /) -> None:
        """Remove the `network`."""
        await self._configure(*_in_router(self.speaker, _network(Announcement(prefix=prefix)), no=True))

    async def disable(self, neighbour: Neighbour) -> None:
        """`neighbor shutdown` sends Cease, Administrative Shutdown."""
        await self._configure(f"router bgp {self.speaker.asn}", f"neighbor {neighbour.address} shutdown")

    async def enable(self, neighbour: Neighbour) -> None:
        """`no neighbor shutdown`."""
        await self._configure(f"router bgp {self.speaker.asn}", f"no neighbor {neighbour.address} shutdown")

    async def sessions(self) -> Mapping[IPAddress, SessionView]:
        """Read `show bgp neighbors json`."""
        return {view.peer: view for view in parse_sessions(await self.ask("show bgp neighbors json"))}

    async def routes(self) -> Sequence[RouteView]:
        """Read `show bgp FAMILY unicast json detail` of both families."""
        texts = [await self.ask(f"show bgp {family.label.lower()} unicast json detail") for family in Family]
        return tuple(route for text in texts for route in parse_routes(text))

    async def ask(self, *words: str) -> str:
        """Run vtysh; every word is a command of its own."""
        commands = [part for word in words for part in ("-c", word)]
        try:
            answer = await run(["vtysh", "--vty_socket", str(self.directory), *commands])
        except CommandError as error:
            raise DaemonError(f"FRR on {self.speaker.machine}: {error}") from None
        if answer.startswith("%"):
            raise DaemonError(f"FRR on {self.speaker.machine}: {'; '.join(words)}: {answer.strip()}")
        return answer

    async def _configure(self, *commands: str) -> None:
        await self.ask("configure terminal", *commands)


def _configure(speaker: Speaker, announced: Sequence[Announcement]) -> Iterator[str]:
    yield f"hostname {speaker.machine}"
    for announcement in announced:
        yield from _route_map(announcement)
    # FRR finds the interface of a link-local next hop by its own address, which here is on several.
    yield from ("route-map prefer-global permit 10", " set ipv6 next-hop prefer-global", "exit")
    if speaker.is_node:
        yield from ("bgp as-path access-list own-prefixes permit ^$", "route-map own-prefixes permit 10")
        yield from (" match as-path own-prefixes", "exit")
    yield f"router bgp {speaker.asn}"
    yield f" bgp router-id {speaker.router_id}"
    yield " no bgp ebgp-requires-policy"
    yield " no bgp network import-check"
    yield " no bgp default ipv4-unicast"
    yield " bgp bestpath as-path multipath-relax"
    if speaker.restart_time_s is None:
        yield " bgp graceful-restart-disable"
    else:
        yield " bgp graceful-restart"
        yield " bgp graceful-restart preserve-fw-state"
        yield f" bgp graceful-restart restart-time {speaker.restart_time_s}"
    yield from _neighbours(speaker)
    for family in Family:
        yield from _family(speaker, family, announced)
    yield "exit"
    if speaker.config:
        yield speaker.config.rstrip()


def _neighbours(speaker: Speaker) -> Iterator[str]:
    for it in speaker.neighbours:
        options = [
            f"remote-as {'external' if it.asn is None else it.asn}",
            f"update-source {it.local}",
            f"timers {max(1, speaker.hold_time_s // 3)} {speaker.hold_time_s}",
            "timers connect 2",
        ]
        if speaker.password is not None:
            options.append(f"password {speaker.password}")
        if speaker.passive:
            options.append("passive")
        yield from (f" neighbor {it.address} {option}" for option in (*options, *speaker.session.splitlines()))


def _family(speaker: Speaker, family: Family, announced: Sequence[Announcement]) -> Iterator[str]:
    yield f" address-family {family.label.lower()} unicast"
    yield "  maximum-paths 64"
    yield "  maximum-paths ibgp 64"
    yield from (f"  {_network(it)}" for it in announced if it.prefix.family is family)
    for it in speaker.neighbours:
        if family not in it.families:
            continue
        yield f"  neighbor {it.address} activate"
        if family is Family.IPV6:
            yield f"  neighbor {it.address} route-map prefer-global in"
        if speaker.next_hop_self:
            yield f"  neighbor {it.address} next-hop-self force"
        if speaker.is_node:
            yield f"  neighbor {it.address} allowas-in 1"
            yield f"  neighbor {it.address} route-map own-prefixes out"
    yield " exit-address-family"


def _in_router(speaker: Speaker, network: str, *, no: bool = False) -> Iterator[str]:
    yield f"router bgp {speaker.asn}"
    yield f"address-family {'ipv6' if ':' in network else 'ipv4'} unicast"
    yield f"no {network}" if no else network


def _map_name(it: Announcement) -> str:
    return f"originate-{str(it.prefix).replace('/', '-')}"


def _network(it: Announcement) -> str:
    is_dressed = it != Announcement(prefix=it.prefix)
    return f"network {it.prefix}{f' route-map {_map_name(it)}' if is_dressed else ''}"


def _route_map(it: Announcement) -> Iterator[str]:
    if it == Announcement(prefix=it.prefix):
        return
    yield f"route-map {_map_name(it)} permit 10"
    if it.med is not None:
        yield f" set metric {it.med}"
    if it.communities:
        yield f" set community {' '.join(it.communities)}"
    if it.as_path:
        yield f" set as-path prepend {' '.join(map(str, it.as_path))}"
    if it.next_hop is not None:
        yield f" set {'ip next-hop' if it.next_hop.version == 4 else 'ipv6 next-hop global'} {it.next_hop}"
    yield "exit"


def parse_sessions(text: str) -> Iterator[SessionView]:
    """Read `show bgp neighbors json`: an object per neighbour's address."""
    for address, it in json.loads(text).items():
        if not isinstance(it, dict) or "bgpState" not in it:
            continue
        is_established = it["bgpState"] == "Established"
        families = it.get("addressFamilyInfo", {}) if is_established else {}
        counted = {
            family: facts for family in Family if (facts := families.get(f"{family.label.lower()}Unicast")) is not None
        }
        error = it.get("lastNotificationReason") or it.get("lastResetDueTo") or ""
        yield SessionView(
            peer=ip_address(address),
            state=it["bgpState"],
            peer_asn=it.get("remoteAs") or None,
            received={family: facts.get("acceptedPrefixCounter", 0) for family, facts in counted.items()},
            sent={family: facts.get("sentPrefixCounter", 0) for family, facts in counted.items()},
            # FRR goes on showing what it last waited for.
            last_error="" if is_established else error,
        )


def parse_routes(text: str) -> Iterator[RouteView]:
    """Read `show bgp FAMILY unicast json detail`: per prefix a list, a heading first, then its paths."""
    for prefix, entries in json.loads(text).get("routes", {}).items():
        yield from (_route(Prefix.parse(prefix), it) for it in entries if "aspath" in it)


def _route(prefix: Prefix, it: Mapping[str, Any]) -> RouteView:
    peer = it.get("peer", {}).get("peerId", "(unspec)")
    is_own = peer in {"(unspec)", "0.0.0.0", "::"}
    hop = next((hop["ip"] for hop in it.get("nexthops", ()) if hop.get("scope") != "link-local"), None)
    return RouteView(
        prefix=prefix,
        peer=None if is_own else ip_address(peer),
        next_hop=None if is_own or hop is None else ip_address(hop),
        as_path=tuple(int(asn) for asn in it.get("aspath", {}).get("string", "").split() if asn.isdecimal()),
        best=bool(it.get("bestpath", {}).get("overall")),
        med=it.get("metric"),
        local_pref=it.get("locPrf"),
        communities=tuple(it.get("community", {}).get("list", ())),
    )
