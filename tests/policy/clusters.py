"""Small random clusters: few names, labels, addresses and ports, so that things meet often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from hypothesis import strategies as st

from policy.cidr import pack_address, parse_block
from policy.compiler import Deleted, Engine, Update
from policy.evaluator import Packet
from policy.ir import Delta, Endpoint, Ruleset
from policy.objects import NAMESPACE_NAME_LABEL, NamedPort, Namespace, Node, Pod
from policy.policies import (
    CLUSTER_NETWORK_POLICY,
    NETWORK_POLICY,
    Action,
    BlockPeer,
    NodePeer,
    PodPeer,
    Policy,
    PolicyRef,
    PolicyRule,
    PortMatch,
    Selection,
    Tier,
    UnknownPeer,
)
from policy.selector import EVERYTHING, Operator, Requirement, Selector

HERE, THERE = "n1", "n2"
NAMESPACES = ("a", "b", "c")
POD_NAMES = ("p0", "p1", "p2", "p3")
OUTSIDE = tuple(map(pack_address, ("192.0.2.1", "192.0.2.200", "2001:db8::1")))
NODES = {
    HERE: (tuple(map(pack_address, ("172.16.0.1", "fd16::1"))), ("10.1.0.0/24", "fd01::/64")),
    THERE: (tuple(map(pack_address, ("172.16.0.2", "fd16::2"))), ("10.2.0.0/24", "fd02::/64")),
}
BLOCKS = (
    "0.0.0.0/0",
    "::/0",
    "10.1.0.0/24",
    "10.0.0.0/8",
    "192.0.2.0/24",
    "172.16.0.0/31",
    "fd01::/64",
    "2001:db8::/32",
)
HOLES = ("10.1.0.0/25", "10.1.0.2/31", "192.0.2.128/25", "10.2.0.0/24", "fd01::4/126", "128.0.0.0/1")
PORTS = (79, 80, 85)

Objects: TypeAlias = Mapping[tuple[str, str], Update]


def addresses_of(namespace: str, name: str, node: str) -> tuple[bytes, bytes]:
    """Every pod identity has an address of its own in each node's range."""
    number = 1 + NAMESPACES.index(namespace) * len(POD_NAMES) + POD_NAMES.index(name)
    digit = 1 if node == HERE else 2
    return pack_address(f"10.{digit}.0.{number}"), pack_address(f"fd0{digit}::{number:x}")


requirements = st.one_of(
    st.builds(
        Requirement,
        st.sampled_from(["app", "tier"]),
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.sets(st.sampled_from(["x", "y"]), min_size=1, max_size=2).map(lambda each: tuple(sorted(each))),
    ),
    st.builds(
        Requirement, st.sampled_from(["app", "tier"]), st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])
    ),
)
selectors = st.one_of(
    st.just(EVERYTHING), st.just(EVERYTHING), st.lists(requirements, min_size=1, max_size=2).map(Selector)
)
labels = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["x", "y"]))
named_ports = st.lists(
    st.builds(NamedPort, st.sampled_from(["http", "dns"]), st.sampled_from([6, 17]), st.sampled_from(PORTS)),
    max_size=2,
    unique=True,
).map(lambda ports: tuple(sorted(ports)))


@st.composite
def pods(draw: st.DrawFn, *, shared_addresses: bool = True) -> Pod:
    namespace = draw(st.sampled_from(NAMESPACES))
    name = draw(st.sampled_from(POD_NAMES))
    node = draw(st.sampled_from([HERE, HERE, THERE]))
    own = addresses_of(namespace, name, node)
    if shared_addresses and draw(st.integers(0, 3)) == 0:
        own = addresses_of("a", "p0", node)  # another pod's, too
    kinds = draw(st.sampled_from(["pod"] * 6 + ["host", "completed", "no address", "IPv4"]))
    if kinds == "host":
        own = NODES[node][0]
    return Pod(
        namespace=namespace,
        name=name,
        labels=draw(labels),
        addresses={"no address": (), "IPv4": own[:1]}.get(kinds, own),
        ports=draw(named_ports),
        node=node,
        host_network=kinds == "host",
        completed=kinds == "completed",
        terminating=shared_addresses and draw(st.booleans()),
    )


@st.composite
def namespaces(draw: st.DrawFn) -> Namespace:
    name = draw(st.sampled_from(NAMESPACES))
    return Namespace(name, {**draw(labels), NAMESPACE_NAME_LABEL: name})


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    name = draw(st.sampled_from([HERE, THERE]))
    addresses, cidrs = NODES[name]
    return Node(name, draw(labels), addresses, tuple(map(parse_block, cidrs)))


cluster_selections = st.builds(Selection, st.none(), selectors, selectors)
port_numbers = st.tuples(st.sampled_from(PORTS), st.integers(0, 10)).map(lambda each: (each[0], each[0] + each[1]))
port_matches = st.one_of(
    st.builds(PortMatch, st.sampled_from([6, 17, 132]), st.one_of(st.none(), port_numbers)),
    st.builds(PortMatch, st.sampled_from([6, 17]), st.none(), st.sampled_from(["http", "dns"])),
    st.builds(PortMatch, st.sampled_from([6, 17]), st.none(), st.sampled_from(["http", "dns"])),
)
cluster_port_matches = st.one_of(
    st.builds(PortMatch, st.sampled_from([6, 17, 132]), port_numbers),
    st.builds(PortMatch, st.none(), st.none(), st.sampled_from(["http", "dns"])),
)


@st.composite
def block_peers(draw: st.DrawFn) -> BlockPeer:
    block = parse_block(draw(st.sampled_from(BLOCKS)))
    holes = [hole for hole in map(parse_block, draw(st.lists(st.sampled_from(HOLES), max_size=2))) if block.holds(hole)]
    return BlockPeer(block, tuple(holes))


def optional_tuple(strategy: st.SearchStrategy[Any], least: int = 1) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.lists(strategy, min_size=least, max_size=3).map(tuple))


@st.composite
def network_policies(draw: st.DrawFn) -> Policy:
    namespace = draw(st.sampled_from(NAMESPACES))
    peers = st.one_of(
        selectors.map(lambda each: PodPeer(Selection(namespace, None, each), is_own_namespace=True)),
        cluster_selections.map(PodPeer),
        block_peers(),
    )
    rules = st.builds(PolicyRule, st.just(Action.ACCEPT), optional_tuple(peers), optional_tuple(port_matches))
    directions = draw(st.tuples(optional_tuple(rules, 0), optional_tuple(rules, 0)))
    ref = PolicyRef(NETWORK_POLICY, namespace, draw(st.sampled_from(["np0", "np1"])))
    return Policy(ref, Tier.NETWORK_POLICY, 0, Selection(namespace, None, draw(selectors)), *directions)


@st.composite
def cluster_network_policies(draw: st.DrawFn) -> Policy:
    actions = st.sampled_from(list(Action))
    ingress_peers = cluster_selections.map(PodPeer)
    egress_peers = st.one_of(
        cluster_selections.map(PodPeer),
        selectors.map(NodePeer),
        block_peers(),
        st.just(UnknownPeer("domain names x.y")),
    )
    ports = optional_tuple(cluster_port_matches)
    ingress = st.builds(PolicyRule, actions, st.lists(ingress_peers, max_size=2).map(tuple), ports)
    egress = st.builds(PolicyRule, actions, st.lists(egress_peers, max_size=2).map(tuple), ports)
    return Policy(
        PolicyRef(CLUSTER_NETWORK_POLICY, "", draw(st.sampled_from(["cnp0", "cnp1", "cnp2"]))),
        draw(st.sampled_from([Tier.ADMIN, Tier.BASELINE])),
        draw(st.integers(0, 2)),
        draw(cluster_selections),
        draw(st.lists(ingress, max_size=2).map(tuple)) or None,
        draw(st.lists(egress, max_size=2).map(tuple)) or None,
    )


deletions = st.one_of(
    st.builds(Deleted, st.just("Pod"), st.sampled_from(NAMESPACES), st.sampled_from(POD_NAMES)),
    st.builds(Deleted, st.just("Namespace"), st.just(""), st.sampled_from(NAMESPACES)),
    st.builds(Deleted, st.just("Node"), st.just(""), st.sampled_from([HERE, THERE])),
    st.builds(Deleted, st.just(NETWORK_POLICY), st.sampled_from(NAMESPACES), st.sampled_from(["np0", "np1"])),
    st.builds(Deleted, st.just(CLUSTER_NETWORK_POLICY), st.just(""), st.sampled_from(["cnp0", "cnp1", "cnp2"])),
)
updates: st.SearchStrategy[Update] = st.one_of(
    pods(), pods(), pods(), namespaces(), nodes(), network_policies(), cluster_network_policies(), deletions
)


@st.composite
def clusters(draw: st.DrawFn) -> dict[tuple[str, str], Update]:
    """A whole cluster where nothing is missing or shared: all namespaces, both nodes, some pods and policies."""
    objects: list[Update] = [Namespace(each, {**draw(labels), NAMESPACE_NAME_LABEL: each}) for each in NAMESPACES]
    for name, (addresses, cidrs) in NODES.items():
        objects.append(Node(name, draw(labels), addresses, tuple(map(parse_block, cidrs))))
    objects += draw(st.lists(pods(shared_addresses=False), min_size=4, max_size=8))
    objects += draw(st.lists(st.one_of(network_policies(), cluster_network_policies()), min_size=1, max_size=6))
    return {key_of(each): each for each in objects}


def packets(objects: Iterable[Update], chance: random.Random, count: int) -> list[Packet]:
    """Packets between the pods, nodes and strangers of a cluster, of one family each."""
    everybody = {address for each in objects if isinstance(each, Pod | Node) for address in each.addresses}
    everybody.update(OUTSIDE)
    everybody.update(addresses_of("c", "p3", HERE))  # of this node's range, perhaps nobody's
    pairs = [(one, other) for one in sorted(everybody) for other in sorted(everybody) if len(one) == len(other)]
    kinds = [(protocol, port) for protocol in (6, 17, 132) for port in (79, 80, 85, 91)] + [(1, None)]
    return [Packet(*chance.choice(pairs), *chance.choice(kinds)) for _ in range(count)]


def key_of(update: Update) -> tuple[str, str]:
    match update:
        case Pod():
            return "Pod", update.key
        case Policy():
            return update.ref.kind, update.ref.key
        case Namespace() | Node():
            return type(update).__name__, update.name
        case Deleted():
            return update.kind, f"{update.namespace}/{update.name}" if update.namespace else update.name


def remaining(sequence: Iterable[Update]) -> dict[tuple[str, str], Update]:
    """What is there after a sequence of updates."""
    objects: dict[tuple[str, str], Update] = {}
    for update in sequence:
        objects.pop(key_of(update), None)
        if not isinstance(update, Deleted):
            objects[key_of(update)] = update
    return objects


def engine_of(objects: Iterable[Update], node: str = HERE) -> Engine:
    engine = Engine(node)
    for each in objects:
        engine.apply(each)
    engine.flush()
    return engine


def frozen(ruleset: Ruleset) -> tuple[object, ...]:
    """A ruleset as a value to compare."""
    members = {name: frozenset(each) for name, each in ruleset.members.items()}
    return ruleset.facts, dict(ruleset.endpoints), dict(ruleset.chains), dict(ruleset.sets), members


class Mirror:
    """What the deltas alone add up to."""

    def __init__(self) -> None:
        self.ruleset = Ruleset()

    def apply(self, delta: Delta) -> None:
        ruleset = self.ruleset
        if delta.facts:
            assert ruleset.facts == delta.facts[0]
            ruleset.facts = delta.facts[1]
        for ref in delta.sets_added:
            assert ref.name not in ruleset.sets
            ruleset.sets[ref.name] = ref
            ruleset.members[ref.name] = frozenset(delta.members_added[ref.name])
        for chain in delta.chains_added:
            assert chain.name not in ruleset.chains
            assert chain.otherwise in {"allow", "deny"} or chain.otherwise in ruleset.chains
            assert {each.name for each in chain.sets} <= ruleset.sets.keys()
            ruleset.chains[chain.name] = chain
        for name, change in delta.members_changed.items():
            before = frozenset(ruleset.members[name])
            assert change.removed <= before
            assert not change.added & before
            ruleset.members[name] = before - change.removed | change.added
        for address, (before_endpoint, after_endpoint) in delta.endpoints.items():
            assert ruleset.endpoints.get(address) == before_endpoint
            self._put(address, after_endpoint)
        for chain in delta.chains_removed:
            del ruleset.chains[chain.name]
            assert all(chain.name not in each.targets for each in ruleset.endpoints.values())
            assert all(chain.name != each.otherwise for each in ruleset.chains.values())
        for ref in delta.sets_removed:
            del ruleset.sets[ref.name], ruleset.members[ref.name]
            assert all(ref not in each.sets for each in ruleset.chains.values())

    def _put(self, address: bytes, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            del self.ruleset.endpoints[address]
        else:
            self.ruleset.endpoints[address] = endpoint


_BOOKKEEPING = {"compiler", "labelindex", "memberset", "selectorindex", "settable"}


def footprint(engine: Engine) -> Counter[str]:
    """Return how many entries an engine's collections have, by the attribute that holds them."""
    found: Counter[str] = Counter()
    seen = set()
    left: list[tuple[str, object]] = [("", engine)]
    while left:
        place, each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict | list | set | tuple):
            found[place] += 0 if isinstance(each, tuple) else len(each)  # values are shared as it happens
            left += ((place, item) for item in each)
            left += ((place, value) for value in (each.values() if isinstance(each, dict) else ()))
        elif type(each).__module__.removeprefix("policy.") in _BOOKKEEPING:
            kind = type(each)
            names = [*getattr(each, "__dict__", ()), *(name for base in kind.__mro__ for name in _slots(base))]
            left += ((f"{kind.__name__}.{name}", getattr(each, name)) for name in names)
    return found


def _slots(kind: type) -> Iterable[str]:
    names: Iterable[str] = vars(kind).get("__slots__", ())
    return names
