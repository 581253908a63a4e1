"""BIRD 2: both families in one process, routes in the kernel, spoken to through birdc's socket.

BIRD 2.0.12 holds one session per neighbour address, and needs graceful restart said twice (protocols bgp and
kernel) and -R at the start to keep what was there. What it originates stands in a file of its own, so that a
change is `configure` and touches no session.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from agent.lab.speakers import DaemonError, Neighbour, Program, RouteView, SessionView, Speaker
from agent.lab.topology import Announcement
from inet.prefix import Family, IPAddress, Prefix, family_of

_HEAD = """\
log stderr all;
router id {router_id};

protocol device {{ }}
"""

_KERNEL = """
protocol kernel kernel_{family} {{
  {family} {{ import none; export where source = RTS_BGP; }};
  merge paths on limit 64;
  graceful restart on;
}}
"""

_SOCKET = "bird.ctl"


@dataclass(frozen=True, slots=True)
class Bird:
    """BIRD in a namespace; its files are in `directory`."""

    speaker: Speaker
    namespace: str
    directory: Path

    def render(self, announced: Sequence[Announcement]) -> Mapping[str, str]:
        """Return bird.conf and what it originates."""
        families = sorted({family for it in self.speaker.neighbours for family in it.families} | set(Family))
        parts = [
            _HEAD.format(router_id=self.speaker.router_id),
            *(_KERNEL.format(family=_channel(family)) for family in families),
            '\ninclude "announce.conf";\n',
            *(_session(self.speaker, neighbour) for neighbour in self.speaker.neighbours),
        ]
        if self.speaker.config:
            parts.append(f"\n{self.speaker.config.rstrip()}\n")
        return {"bird.conf": "".join(parts), "announce.conf": "\n".join(_originate(self.speaker, announced)) + "\n"}

    def programs(self, *, recover: bool) -> Sequence[Program]:
        """Return the one process."""
        socket = self.directory / _SOCKET
        argv = ("bird", "-f", "-c", str(self.directory / "bird.conf"), "-s", str(socket))
        return (Program("bird", (*argv, "-R") if recover else argv, socket, greets=True),)

    async def started(self, _announced: Sequence[Announcement], /) -> None:
        """Nothing: everything is in its files."""

    async def announce(self, _new: Announcement, /) -> None:
        """Read the files again; `configure` changes only what differs."""
        await self.ask("configure")

    async def withdraw(self, _prefix: Prefix, /) -> None:
        """Read the files again."""
        await self.ask("configure")

    async def disable(self, neighbour: Neighbour) -> None:
        """`disable` sends Cease, Administrative Shutdown."""
        await self.ask("disable", neighbour.name)

    async def enable(self, neighbour: Neighbour) -> None:
        """`enable`."""
        await self.ask("enable", neighbour.name)

    async def sessions(self) -> Mapping[IPAddress, SessionView]:
        """Read `show protocols all`."""
        return {view.peer: view for view in parse_sessions(await self.ask("show", "protocols", "all"))}

    async def routes(self) -> Sequence[RouteView]:
        """Read `show route all`."""
        peers = {it.name: it.address for it in self.speaker.neighbours}
        return tuple(parse_routes(await self.ask("show", "route", "all"), peers))

    async def ask(self, *words: str) -> str:
        """Speak as birdc does. Answers have codes: 8xxx and 9xxx are refusals."""
        command = " ".join(words)
        try:
            reader, writer = await asyncio.open_unix_connection(self.directory / _SOCKET, limit=1 << 20)
        except OSError as error:
            raise DaemonError(f"BIRD on {self.speaker.machine} does not answer: {error.strerror}") from None
        try:
            await _answer(reader)  # the greeting
            writer.write(command.encode() + b"\n")
            lines, refused = await _answer(reader)
        finally:
            writer.close()
            await writer.wait_closed()
        if refused:
            raise DaemonError(f"BIRD on {self.speaker.machine}: {command}: {' '.join(lines).strip()}")
        return "\n".join(lines)


async def _answer(reader: asyncio.StreamReader) -> tuple[list[str], bool]:
    """Return the lines of one answer and whether it refuses: `CODE-text`, ` text` (same code), last `CODE text`."""
    lines: list[str] = []
    refused = False
    async for raw in reader:
        line = raw.decode(errors="replace").rstrip("\n")
        is_continued = line.startswith(" ")
        lines.append(line[1:] if is_continued else line[5:])
        refused = refused or line[:1] in {"8", "9"}
        if not is_continued and line[4:5] == " ":
            return lines, refused
    raise DaemonError("BIRD closed its control socket")


def _channel(family: Family) -> str:
    return family.label.lower()


def _session(speaker: Speaker, it: Neighbour) -> str:
    lines = [
        f"protocol bgp {it.name} {{",
        f"  local {it.local} as {speaker.asn};",
        f"  neighbor {it.address} {'external' if it.asn is None else f'as {it.asn}'};",
        "  direct;",
        f"  hold time {speaker.hold_time_s};",
        "  connect delay time 1; connect retry time 2; error wait time 1, 4;",
    ]
    if speaker.restart_time_s is None:
        lines.append("  graceful restart off;")
    else:
        lines.append(f"  graceful restart on; graceful restart time {speaker.restart_time_s};")
    if speaker.password is not None:
        lines.append(f'  password "{speaker.password}";')
    if speaker.passive:
        lines.append("  passive on;")
    if speaker.is_node:
        lines.append("  allow local as 1;")
    lines += [f"  {line}" for line in speaker.session.splitlines()]
    for family in it.families:
        own = " next hop self;" if speaker.next_hop_self else ""
        if family is not family_of(it.address):
            own += f" next hop address {it.next_hops[family]};"
        lines.append(f"  {_channel(family)} {{ import all; export filter originate_{_channel(family)};{own} }};")
    return "\n" + "\n".join(lines) + "\n}\n"


def _originate(speaker: Speaker, announced: Sequence[Announcement]) -> Iterator[str]:
    """Yield, per family, static routes for what is originated and the export filter that dresses them."""
    for family in Family:
        ours = [it for it in announced if it.prefix.family is family]
        yield f"protocol static static_{_channel(family)} {{"
        yield f"  {_channel(family)};"
        yield from (f"  route {it.prefix} blackhole;" for it in ours)
        yield "}"
        yield f"filter originate_{_channel(family)} {{"
        if not speaker.is_node:
            yield "  if source = RTS_BGP then accept;"
        yield "  if source != RTS_STATIC then reject;"
        for it in ours:
            dress = list(_dress(it))
            if dress:
                yield f"  if net = {it.prefix} then {{ {' '.join(dress)} }}"
        yield "  accept;"
        yield "}"


def _dress(it: Announcement) -> Iterator[str]:
    if it.med is not None:
        yield f"bgp_med = {it.med};"
    for community in it.communities:
        high, _, low = community.partition(":")
        yield f"bgp_community.add(({high},{low}));"
    for asn in reversed(it.as_path):
        yield f"bgp_path.prepend({asn});"


_PAIR = re.compile(r"\((\d+),(\d+)\)")
_COUNT = re.compile(r"Routes:\s+(\d+) imported(?:, \d+ filtered)?, (\d+) exported")


def parse_sessions(text: str) -> Iterator[SessionView]:
    """Read the BGP protocols of `show protocols all`: one block each, divided by an empty line."""
    for block in re.split(r"\n\s*\n", text):
        address = re.search(r"Neighbor address: (\S+)", block)
        state = re.search(r"BGP state:\s+(\S+)", block)
        if address is None or state is None:
            continue
        asn = re.search(r"Neighbor AS:\s+(\d+)", block)
        error = re.search(r"Last error:\s+(.+)", block)
        received, sent = {}, {}
        if state[1] == "Established":
            for channel in block.split("Channel ")[1:]:
                count = _COUNT.search(channel)
                if count is not None:
                    family = Family.IPV4 if channel.startswith("ipv4") else Family.IPV6
                    received[family], sent[family] = int(count[1]), int(count[2])
        yield SessionView(
            peer=ip_address(address[1].partition("%")[0]),
            # Down is what BIRD calls a session that it does not try, Passive one that it waits for.
            state={"Down": "Idle", "Passive": "Active"}.get(state[1], state[1]),
            peer_asn=int(asn[1]) if asn else None,
            received=received,
            sent=sent,
            last_error=error[1].strip() if error else "",
        )


_PATH = re.compile(r"(?P<prefix>\S+/\d+)?\s+\w+ \[(?P<protocol>\S+) [^\]]*\](?P<best> \*)?")


def parse_routes(text: str, peers: Mapping[str, IPAddress]) -> Iterator[RouteView]:
    """Read `show route all`: a line per path (the prefix only on the first), then details behind a tab.

    `peers` are the addresses of BGP protocols by name; paths of other protocols are our own.
    """
    prefix: Prefix | None = None
    path: re.Match[str] | None = None
    details: dict[str, str] = {}
    for line in (*text.splitlines(), ""):
        if line.startswith("\t"):
            name, _, value = line.strip().partition(": ")
            details[name.removeprefix("BGP.")] = value
            continue
        if path is not None and prefix is not None:
            yield _route(prefix, peers.get(path["protocol"]), details, best=path["best"] is not None)
        path, details = _PATH.match(line), {}
        if path is not None and path["prefix"] is not None:
            prefix = Prefix.parse(path["prefix"])


def _route(prefix: Prefix, peer: IPAddress | None, details: Mapping[str, str], *, best: bool) -> RouteView:
    return RouteView(
        prefix=prefix,
        peer=peer,
        next_hop=ip_address(details["next_hop"].split()[0]) if "next_hop" in details else None,
        as_path=tuple(int(asn) for asn in details.get("as_path", "").split() if asn.isdecimal()),
        best=best,
        med=int(details["med"]) if "med" in details else None,
        local_pref=int(details["local_pref"]) if "local_pref" in details else None,
        communities=tuple(":".join(pair) for pair in _PAIR.findall(details.get("community", ""))),
    )
