"""The lab file: what a user writes, checked in full before anything is built.

In: YAML. Out: a `Topology`, or a `TopologyError` that lists every problem with file, line and field.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from inet.prefix import Family, IPAddress, Prefix, parse_address

DaemonName: TypeAlias = Literal["bird", "frr", "gobgp"]
FamilyName: TypeAlias = Literal["IPv4", "IPv6"]
Location: TypeAlias = tuple[str | int, ...]

MAX_NODES: Final = 240
"""A node is the same host number, 10 and upwards, in each of its /24 subnets."""

LAB_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_MACHINE_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_COMMUNITY: Final = re.compile(r"\d{1,5}:\d{1,5}")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a topology. `where` is the way to the field; `line` counts from 1, 0 is unknown."""

    where: Location
    text: str
    line: int = 0


class TopologyError(Exception):
    """The topology cannot be built. `problems` is never empty."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        super().__init__(source, problems)
        self.source = source
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(
            f"{self.source}{f':{problem.line}' if problem.line else ''}: "
            f"{'.'.join(map(str, problem.where)) + ': ' if problem.where else ''}{problem.text}"
            for problem in self.problems
        )


def _prefix(value: object) -> Prefix:
    return value if isinstance(value, Prefix) else Prefix.parse(str(value))


def _interface_address(value: object) -> str:
    text = str(value)
    address, slash, length = text.partition("/")
    bits = parse_address(address).max_prefixlen
    if not slash or not length.isdecimal() or int(length) > bits:
        raise ValueError(f"{text!r} is not an interface address such as 172.16.1.11/24 or fd16:1::11/64")
    return f"{parse_address(address)}/{int(length)}"


def _address(value: object) -> IPAddress:
    return parse_address(str(value))


def _community(value: object) -> str:
    if not _COMMUNITY.fullmatch(str(value)) or any(int(half) > 65535 for half in str(value).split(":")):
        raise ValueError(f"{value!r} is not a community such as 65000:100")
    return str(value)


def _asn(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= 4294967295:
        raise ValueError(f"{value} is not an AS number (1 to 4294967295)")
    return value


PrefixField: TypeAlias = Annotated[Prefix, BeforeValidator(_prefix), PlainSerializer(str)]
AddressField: TypeAlias = Annotated[IPAddress, BeforeValidator(_address)]
InterfaceAddress: TypeAlias = Annotated[str, BeforeValidator(_interface_address)]
ASN: TypeAlias = Annotated[int, BeforeValidator(_asn), Field(strict=True)]
Community: TypeAlias = Annotated[str, BeforeValidator(_community)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class Announcement(_Model):
    """A prefix that a router originates, with what shall be said about it. A prefix alone may stand for it."""

    prefix: PrefixField
    """The prefix."""
    med: int | None = Field(default=None, ge=0, le=4294967295)
    """MULTI_EXIT_DISC. By default what the daemon says."""
    communities: tuple[Community, ...] = ()
    """Communities, such as 65000:100."""
    as_path: tuple[ASN, ...] = Field(default=(), alias="asPath")
    """AS numbers put behind the router's own, as if it had heard the prefix from there."""
    next_hop: AddressField | None = Field(default=None, alias="nextHop")
    """Said instead of the router's own address. Not with BIRD."""


def _announcement(value: object) -> object:
    return {"prefix": value} if isinstance(value, str | Prefix) else value


class Router(_Model):
    """A router: a daemon that speaks BGP with every machine it shares a link with."""

    daemon: Literal["bird", "frr", "gobgp", "none"]
    """bird, frr, gobgp or none. GoBGP has a RIB alone: it passes routes on, but packets do not follow. One without a
    daemon knows its own subnets and nothing of pods, and is the default gateway of the nodes on its links."""
    asn: ASN | None = None
    """Its AS number. Only one without a daemon has none."""
    router_id: IPv4Address | None = Field(default=None, alias="routerID")
    """BGP Identifier. By default its first IPv4 address."""
    announce: tuple[Annotated[Announcement, BeforeValidator(_announcement)], ...] = ()
    """Prefixes it originates, of either family."""
    transport: Literal["both", "ipv4", "ipv6"] = "both"
    """`both`: a session for each family over itself; else one session that carries both families."""
    password: str | None = Field(default=None, min_length=1, max_length=80, repr=False)
    """TCP MD5 password of all its sessions (RFC 2385)."""
    passive: bool = False
    """Whether it waits for others to connect."""
    hold_time_s: int = Field(default=9, alias="holdTimeSeconds", ge=3, le=65535)
    """Hold time it offers, in seconds; KEEPALIVE messages come three times as often."""
    graceful_restart: bool = Field(default=True, alias="gracefulRestart")
    """Whether it keeps its routes over a restart and has its peers do so (RFC 4724)."""
    restart_time_s: int = Field(default=120, alias="restartTimeSeconds", ge=1, le=4095)
    """Seconds for which peers shall keep its routes."""
    next_hop_self: bool = Field(default=True, alias="nextHopSelf")
    """Whether it says its own address as the next hop of all routes, iBGP included."""
    session: str = ""
    """Lines for every session, in the daemon's words (FRR: what follows `neighbor ADDRESS`)."""
    config: str = ""
    """Lines for the end of the daemon's configuration, in its own words."""


class Pod(_Model):
    """A pod. Its name alone may stand for it."""

    name: str
    """Its name, unlike any other in the lab."""
    namespace: str = "default"
    """Namespace of its Pod object. A Namespace object with labels is one of the manifests."""
    labels: dict[str, str] = {}
    """Labels of its Pod object. By default app, with its name."""


def _pod(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Node(_Model):
    """A node: pods behind it, and something that announces their addresses: the agent or a stand-in."""

    labels: dict[str, str] = {}
    """Labels of its Node object."""
    pod_cidrs: tuple[PrefixField, ...] = Field(default=(), alias="podCIDRs")
    """Its pods' addresses: the first of each is the gateway's, the next are the pods' in their order."""
    pods: tuple[Annotated[Pod, BeforeValidator(_pod)], ...] = ()
    """Pods, by name or with namespace and labels."""
    daemon: Literal["agent", "bird", "frr", "none"] = "agent"
    """What speaks BGP: the agent; a stand-in that announces the pod CIDRs and is no transit; or nothing."""
    asn: ASN | None = None
    """Routers take any AS but their own from a node that leaves this out. A stand-in needs it."""
    command: tuple[str, ...] = ()
    """Run in place of the agent; {node}, {config} and {run_dir} are filled in."""


class Link(_Model):
    """A cable between two machines, or with more ends a switch that joins them. A list of ends may stand for it."""

    ends: tuple[str, ...] = Field(min_length=2)
    """Routers and nodes."""
    name: str = ""
    """Of the switch. By default lan1, lan2 and so on."""
    addresses: dict[str, tuple[InterfaceAddress, ...]] = {}
    """End → interface addresses. With any given, these are all there are on this link."""


def _link(value: object) -> object:
    return {"ends": value} if isinstance(value, list | tuple) else value


class Topology(_Model):
    """A whole lab."""

    name: str
    """Its name, and part of the names of its network namespaces: tl-NAME-n1."""
    families: tuple[FamilyName, ...] = Field(default=("IPv4", "IPv6"), min_length=1)
    """Address families in use: IPv4, IPv6 or both."""
    routers: dict[str, Router] = {}
    """Routers by name."""
    nodes: dict[str, Node] = {}
    """Nodes by name."""
    links: tuple[Annotated[Link, BeforeValidator(_link)], ...] = ()
    """What is joined to what. The first link of a node gives it the addresses of its Node object."""
    manifests: Path | None = None
    """A directory of objects for the agents, relative to the file it is named in. Edits take effect at once."""

    @property
    def enabled_families(self) -> tuple[Family, ...]:
        """The families in use, IPv4 first."""
        return tuple(family for family in Family if family.label in self.families)

    @property
    def switches(self) -> Mapping[int, str]:
        """Number of a link with more than two ends → name of its switch."""
        numbers = [number for number, link in enumerate(self.links) if len(link.ends) > 2]
        return {number: self.links[number].name or f"lan{count}" for count, number in enumerate(numbers, 1)}

    @property
    def pods(self) -> Mapping[str, str]:
        """Pod name → node name."""
        return {pod.name: name for name, node in self.nodes.items() for pod in node.pods}


def load(path: Path, *, name: str = "") -> Topology:
    """Read a topology file; `name` goes in place of the one it gives. Raises TopologyError, OSError."""
    text = path.read_text()
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise TopologyError(str(path), [Problem((), f"not YAML: {error.problem}", line)]) from None
    except yaml.YAMLError as error:
        raise TopologyError(str(path), [Problem((), f"not YAML: {error}")]) from None
    repeated = list(_repeated_keys(root))
    if repeated:
        raise TopologyError(str(path), repeated)
    if name and isinstance(data, dict):
        data["name"] = name
    try:
        return parse(data, source=str(path), base=path.parent)
    except TopologyError as error:
        placed = [Problem(it.where, it.text, _line_of(root, it.where)) for it in error.problems]
        raise TopologyError(str(path), placed) from None


def parse(data: object, *, source: str = "topology", base: Path | None = None) -> Topology:
    """Check a topology given as plain data; `base` is what relative paths start from. Raises TopologyError."""
    if not isinstance(data, dict):
        raise TopologyError(source, [Problem((), "a topology is a mapping with name, routers, nodes and links")])
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        problems = [Problem(_plain(it["loc"]), _say(it)) for it in error.errors(include_url=False)]
        raise TopologyError(source, problems) from None
    if topology.manifests is not None and base is not None:
        topology = topology.model_copy(update={"manifests": (base / topology.manifests).resolve()})
    problems = list(_check(topology))
    if problems:
        raise TopologyError(source, problems)
    return topology


def _plain(location: Location) -> Location:
    # Pydantic names the branch of a union it tried; the user has no such level.
    return tuple(part for part in location if not (isinstance(part, str) and part.startswith("function-")))


def _say(error: Mapping[str, Any]) -> str:
    found = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            return "no such field"
        case "missing":
            return "is needed"
        case "value_error":
            return str(error["ctx"]["error"])
        case "too_short":
            return f"needs at least {error['ctx']['min_length']}, found {error['ctx']['actual_length']}"
        case _:
            return f"{error['msg'][0].lower()}{error['msg'][1:]}, found {found!r}"


def _check(topology: Topology) -> Iterator[Problem]:
    """Yield what the fields cannot say each for itself."""
    yield from _check_names(topology)
    yield from _check_links(topology)
    yield from _check_nodes(topology)
    yield from _check_pod_cidrs(topology)
    yield from _check_sessions(topology)
    for name, router in topology.routers.items():
        if router.asn is None and router.daemon != "none":
            yield Problem(("routers", name, "asn"), "is needed")
        for index, announcement in enumerate(router.announce):
            if announcement.next_hop is not None and router.daemon == "bird":
                where = ("routers", name, "announce", index, "nextHop")
                yield Problem(where, "BIRD says its own next hop here; use frr or gobgp to say another")
    if topology.manifests is not None and not topology.manifests.is_dir():
        yield Problem(("manifests",), f"there is no directory {topology.manifests}")


def _check_names(topology: Topology) -> Iterator[Problem]:
    if not LAB_NAME.fullmatch(topology.name):
        yield Problem(("name",), f"{topology.name!r}: up to 32 of a-z, 0-9 and -, a letter first")
    places: list[tuple[str, Location]] = [
        *((name, ("routers", name)) for name in topology.routers),
        *((name, ("nodes", name)) for name in topology.nodes),
        *(
            (pod.name, ("nodes", name, "pods", index))
            for name, node in topology.nodes.items()
            for index, pod in enumerate(node.pods)
        ),
        *((name, ("links", number)) for number, name in topology.switches.items()),
    ]
    seen: dict[str, Location] = {}
    for name, where in places:
        if not _MACHINE_NAME.fullmatch(name):
            yield Problem(where, f"{name!r} is not a name: up to 40 of a-z, 0-9 and -, a letter first")
        elif name in seen:
            yield Problem(where, f"the name {name} is taken by {'.'.join(map(str, seen[name]))}")
        seen.setdefault(name, where)


def _check_links(topology: Topology) -> Iterator[Problem]:
    machines = topology.routers.keys() | topology.nodes.keys()
    for index, link in enumerate(topology.links):
        for position, end in enumerate(link.ends):
            if end not in machines:
                yield Problem(("links", index, position), f"there is no router or node {end}")
        for end, times in Counter(link.ends).items():
            if times > 1:
                yield Problem(("links", index), f"{end} is on this link {times} times")
        if link.name and index not in topology.switches:
            yield Problem(("links", index, "name"), "only a switch has one: a link with three ends or more")
        for end in link.addresses.keys() - set(link.ends):
            yield Problem(("links", index, "addresses", end), f"{end} is not an end of this link")


def _check_nodes(topology: Topology) -> Iterator[Problem]:
    if len(topology.nodes) > MAX_NODES:
        yield Problem(("nodes",), f"{len(topology.nodes)} nodes; {MAX_NODES} are the most")
    linked = {end for link in topology.links for end in link.ends}
    for name, node in topology.nodes.items():
        if name not in linked:
            yield Problem(("nodes", name), "has no link")
        if node.daemon in {"bird", "frr"} and node.asn is None:
            yield Problem(("nodes", name), f"asn is needed: {node.daemon} stands in for the agent")
        if node.command and node.daemon != "agent":
            yield Problem(("nodes", name, "command"), f"goes in place of the agent, but daemon is {node.daemon}")


def _check_pod_cidrs(topology: Topology) -> Iterator[Problem]:
    owners: list[tuple[str, Prefix]] = []
    for name, node in topology.nodes.items():
        for index, cidr in enumerate(node.pod_cidrs):
            where = ("nodes", name, "podCIDRs", index)
            if cidr.length > cidr.family.bits - 2:
                yield Problem(where, f"{cidr} has no room for a gateway and a pod")
            elif len(node.pods) > (1 << (cidr.family.bits - cidr.length)) - 3:
                yield Problem(where, f"{cidr} has no room for {len(node.pods)} pods")
            for owner, other in owners:
                if cidr.overlaps(other):
                    yield Problem(where, f"{cidr} overlaps {other} of {owner}")
            owners.append((name, cidr))


def _check_sessions(topology: Topology) -> Iterator[Problem]:
    """Yield sessions that a daemon cannot be configured for."""
    for index, link in enumerate(topology.links):
        for end in link.ends:
            router = topology.routers.get(end)
            if router is None or router.daemon != "gobgp":
                continue
            for peer in link.ends:
                if peer in topology.nodes and topology.nodes[peer].asn is None:
                    text = f"GoBGP on {end} takes no unknown AS: give nodes.{peer}.asn"
                    yield Problem(("links", index), text)


def _line_of(root: yaml.Node | None, where: Location) -> int:
    """Return the line of the deepest part of `where` that the file has; a short link's ends are its items."""
    node, line = root, 1
    for part in where:
        step: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, step = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            step = node.value[part]
            line = step.start_mark.line + 1
        if step is None:
            break
        node = step
    return line


def _repeated_keys(node: yaml.Node | None, where: Location = ()) -> Iterator[Problem]:
    """Yield keys given twice in one mapping; YAML's reader would keep the last without a word."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*where, str(key.value))
            if key.value in seen:
                yield Problem(here, "is given twice", key.start_mark.line + 1)
            seen.add(str(key.value))
            yield from _repeated_keys(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, (*where, index))
