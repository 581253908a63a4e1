"""What becomes of packets where no policy says anything: by the text's walk, and on a real kernel."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inet.prefix import Family
from policy.cidr import address_text, pack_address
from policy.nftskeleton import (
    ADDRESS_TYPES,
    CHAINS,
    DENY,
    EGRESS_OK,
    FROM_NODE,
    FROM_POD,
    LOCAL_CIDR_SETS,
    LOG_GROUP,
    NO_POLICYS_DOING,
    POD_INTERFACE_GROUP,
    POD_SOURCES_TEXTS,
    RESET,
    TABLE,
    TO_NODE,
    TO_POD,
)
from policy.nftwalk import Table, Traffic
from tests.felix.nft.pods import OUTSIDE, OWN, PodNode, pod_node
from tests.policy.nftables import WHY_NOT

LOCAL_RANGES = {4: "10.64.1.0-10.64.1.255", 6: "fd64:1::-fd64:1::ffff:ffff:ffff:ffff"}
TCP, UDP, SCTP = 6, 17, 132


def text(**elements: str) -> str:
    """Return the table, with elements of its sets and maps by their names."""
    lines = [f"table inet {TABLE} {{"]
    for digit, kind in ADDRESS_TYPES.items():
        lines += [f"set {LOCAL_CIDR_SETS[digit]} {{", f"type {kind}; flags interval"]
        lines += [f"elements = {{ {LOCAL_RANGES[digit]} }}", "}"]
        for names in (FROM_POD, TO_POD, TO_NODE, FROM_NODE):
            lines += [f"map {names[digit]} {{", f"type {kind} : verdict"]
            lines += [f"elements = {{ {elements[names[digit]]} }}"] if names[digit] in elements else []
            lines += ["}"]
    for name, kind in POD_SOURCES_TEXTS.items():
        lines += [f"set {name} {{", kind, "}"]
    for name, rules in CHAINS.items():
        lines += [f"chain {name} {{", *rules, "}"]
    return "\n".join([*lines, "}", ""])


PLACES = {  # 4, 6
    "pod": ("10.64.1.11", "fd64:1::11"),
    "other pod": ("10.64.1.12", "fd64:1::12"),
    "new pod": ("10.64.1.13", "fd64:1::13"),  # on its interface, and in no map yet
    "nobody": ("10.64.1.99", "fd64:1::99"),
    "far pod": ("10.64.2.11", "fd64:2::11"),
    "outside": (OUTSIDE[Family.IPV4], OUTSIDE[Family.IPV6]),
    "node": ("172.16.1.11", "fd16:1::11"),
}
HERE = {"pod", "other pod", "new pod"}


def address(place: str, digit: int) -> bytes:
    return pack_address(PLACES[place][digit == 6])


def open_pods(digit: int, egress: str = f"goto {EGRESS_OK}", ingress: str = "accept") -> dict[str, str]:
    """Return elements that let the programmed pods do what these verdicts say."""
    pods = [address_text(address(place, digit)) for place in ("pod", "other pod")]
    verdicts = {FROM_POD[digit]: egress, TO_POD[digit]: ingress}
    return {name: ", ".join(f"{pod} : {verdict}" for pod in pods) for name, verdict in verdicts.items()}


def traffic(source: str, destination: str, digit: int, *, is_first: bool = True) -> Traffic:
    return Traffic(
        address(source, digit),
        address(destination, digit),
        TCP,
        80,
        is_from_pod=source in HERE,
        is_to_pod=destination in HERE,
        is_to_node=destination == "node",
        is_from_node=source == "node",
        is_first=is_first,
    )


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def digit(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize(
    ("source", "destination", "dropped_as"),
    [
        ("pod", "other pod", ""),
        ("pod", "pod", ""),
        ("pod", "far pod", ""),
        ("pod", "outside", ""),
        ("far pod", "pod", ""),
        ("outside", "pod", ""),
        ("outside", "far pod", ""),  # transit
        ("pod", "new pod", "unprogrammed"),
        ("new pod", "pod", "unprogrammed"),
        ("new pod", "outside", "unprogrammed"),
        ("outside", "new pod", "unprogrammed"),
        ("pod", "nobody", "nobody"),
        ("outside", "nobody", "nobody"),
        ("new pod", "nobody", "unprogrammed"),
        *((place, "node", "") for place in ("pod", "new pod", "outside")),
        *(("node", place, "") for place in ("pod", "new pod", "outside", "nobody")),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["new", "older than conntrack"])
def test_only_what_is_here_and_programmed_is_reached(
    source: str, destination: str, dropped_as: str, digit: int, is_first: bool
) -> None:
    table = Table()
    table.load(text(**open_pods(digit)))
    walk = table.walk(traffic(source, destination, digit, is_first=is_first))
    assert walk.verdict == ("drop" if dropped_as else "accept")
    if dropped_as:
        assert walk.path[-1].chain == f"drop_{dropped_as}"
        assert f'comment "{NO_POLICYS_DOING[dropped_as]}"' in walk.path[-1].rule


def test_a_pod_of_one_family_alone_is_not_programmed_in_the_other(digit: int) -> None:
    table = Table()
    table.load(text(**open_pods(10 - digit)))
    assert table.walk(traffic("pod", "outside", digit)).path[-1].chain == "drop_unprogrammed"


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_denied_direction_is_dropped_and_the_other_is_not(direction: str, digit: int) -> None:
    table = Table()
    table.load(text(**open_pods(digit, **{direction: f"goto {DENY[direction]}"})))
    ways = {"egress": traffic("pod", "outside", digit), "ingress": traffic("outside", "pod", digit)}
    for way, packet in ways.items():
        walk = table.walk(packet)
        assert walk.verdict == ("drop" if way == direction else "accept")
    assert table.walk(traffic("pod", "other pod", digit)).path[-1].chain == DENY[direction]


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_a_restricted_pod_starts_nothing_in_the_middle(direction: str, digit: int) -> None:
    table = Table()
    table.load(text(**open_pods(digit, **{direction: f"goto {RESET[direction]}"})))
    ends = ("pod", "outside") if direction == "egress" else ("outside", "pod")
    assert table.walk(traffic(*ends, digit)).verdict == "accept"
    middle = traffic(*ends, digit, is_first=False)
    assert table.walk(middle).verdict == "reject"
    assert table.walk(middle._replace(protocol=SCTP)).verdict == "drop"
    assert table.walk(middle._replace(protocol=UDP)).verdict == "accept"
    if direction == "egress":  # its packets are judged at the other end too
        assert table.walk(traffic("pod", "new pod", digit)).path[-1].chain == "drop_unprogrammed"


def test_between_a_pod_and_its_node_only_maps_restrict(digit: int) -> None:
    pod = address_text(address("pod", digit))
    table = Table()
    table.load(
        text(**{TO_NODE[digit]: f"{pod} : goto {DENY['node']}", FROM_NODE[digit]: f"{pod} : goto {RESET['node']}"})
    )
    assert table.walk(traffic("pod", "node", digit)).path[-1].chain == DENY["node"]
    assert table.walk(traffic("node", "pod", digit)).verdict == "accept"
    middle = traffic("node", "pod", digit, is_first=False)
    assert table.walk(middle).verdict == "reject"
    assert table.walk(middle._replace(protocol=SCTP)).verdict == "drop"
    for ends in (("other pod", "node"), ("node", "other pod")):
        assert table.walk(traffic(*ends, digit, is_first=False)).verdict == "accept"


def test_what_is_said_of_one_family_is_said_of_the_other() -> None:
    for name, rules in CHAINS.items():
        by_family = {
            family: [
                rule.partition(" ")[2].replace(f"{digit} ", " ")
                for rule in rules
                if f"{rule} ".startswith(f"{family} ")
            ]
            for family, digit in (("ip", "4"), ("ip6", "6"))
        }
        stripped = {
            family: [re.sub(r"(@\w+?)[46]\b", r"\1", rule) for rule in found] for family, found in by_family.items()
        }
        assert stripped["ip"] == stripped["ip6"], name


def test_what_others_go_by_stays_as_it_is() -> None:
    assert (TABLE, POD_INTERFACE_GROUP, LOG_GROUP) == ("tortie", 97, 5)


@pytest.mark.kernel
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
class TestKernel:
    @pytest.fixture
    def pods(self) -> Iterator[PodNode]:
        """Pods 0 and 2, and somebody outside in the place of pod 1; the test runs inside the node's namespace."""
        with pod_node(3) as node:
            node.put_outside(1)
            self.nft(text())
            yield node

    @staticmethod
    def nft(transaction: str) -> None:
        done = subprocess.run(["nft", "-f", "-"], input=transaction, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @staticmethod
    def listed() -> dict[str, list[dict[str, Any]]]:
        """Return the expressions of each chain's rules, and of a base chain where it is hooked in."""
        shown = subprocess.run(
            ["nft", "-j", "list", "table", "inet", TABLE], capture_output=True, text=True, check=True
        )
        chains: dict[str, list[dict[str, Any]]] = {}
        for row in json.loads(shown.stdout)["nftables"]:
            if "chain" in row:
                chains[row["chain"]["name"]] = [row["chain"]]
            elif "rule" in row:
                chains[row["rule"]["chain"]] += row["rule"]["expr"]
        return chains

    def dropped(self) -> dict[str, int]:
        """Return how many packets were dropped for each reason that is no policy's."""
        chains = self.listed()
        counters = {
            reason: next(each["counter"]["packets"] for each in chains[f"drop_{reason}"] if "counter" in each)
            for reason in NO_POLICYS_DOING
        }
        return {reason: count for reason, count in counters.items() if count}

    def program(self, pods: PodNode, family: Family, verb: str = "add") -> None:
        digit = 4 if family is Family.IPV4 else 6
        for name, verdict in ((FROM_POD[digit], f" : goto {EGRESS_OK}"), (TO_POD[digit], " : accept")):
            said = verdict if verb == "add" else ""
            self.nft(f"{verb} element inet {TABLE} {name} {{ {pods.address(family, 0)}{said} }}\n")

    def fate(self, sender: socket.socket, receiver: socket.socket, destination: str) -> str:
        """Send a datagram and return why it was dropped, "" if it gets through."""
        before = self.dropped()
        receiver.settimeout(0.05)
        for attempt in range(400):
            if attempt % 40 == 0:  # an address that has only just been added may not be of use yet
                sender.sendto(b"x", (destination, receiver.getsockname()[1]))
            with contextlib.suppress(TimeoutError):
                return receiver.recv(16).decode().replace("x", "")
            if reasons := [reason for reason, count in self.dropped().items() if count > before.get(reason, 0)]:
                return ", ".join(reasons)
        raise AssertionError("it neither arrived nor was it dropped")

    def bound(self, pods: PodNode, family: Family, who: int | None, address: str) -> socket.socket:
        made = pods.socket(family, who, socket.SOCK_DGRAM)
        made.bind((address, 0))
        return made

    @pytest.mark.usefixtures("pods")
    def test_it_is_hooked_in_before_conntrack_and_in_every_way_a_packet_goes(self) -> None:
        hooks = {
            (chain["hook"], chain["prio"], chain["policy"], chain["type"])
            for chain, *_ in self.listed().values()
            if "hook" in chain
        }
        assert hooks == {
            ("prerouting", -300, "accept", "filter"),  # conntrack: -200
            *((hook, 0, "accept", "filter") for hook in ("input", "output", "forward")),
        }

    @pytest.mark.usefixtures("pods")
    def test_every_reason_is_logged_by_its_name_at_a_bounded_rate_and_then_counted_and_dropped(self) -> None:
        chains = self.listed()
        reasons = {f"drop_{reason}": reason for reason in NO_POLICYS_DOING} | {name: key for key, name in DENY.items()}
        for name, reason in reasons.items():
            *_, limit, log, counter, verdict = chains[name]
            assert limit == {"limit": {"rate": 50, "burst": 100, "per": "second"}}
            assert log == {"log": {"prefix": f"tortie {reason} ", "group": LOG_GROUP}}
            assert "counter" in counter
            assert verdict == {"drop": None}

    def test_a_new_pod_has_its_node_alone_until_it_is_programmed(self, pods: PodNode, family: Family) -> None:
        outside, pod = PLACES["outside"][family is Family.IPV6], pods.address(family, 0)
        with (
            self.bound(pods, family, 0, pod) as ours,
            self.bound(pods, family, 1, outside) as theirs,
            self.bound(pods, family, None, OWN[family]) as nodes,
        ):
            assert self.fate(ours, theirs, outside) == "unprogrammed"
            assert self.fate(theirs, ours, pod) == "unprogrammed"
            assert self.fate(ours, nodes, OWN[family]) == ""
            assert self.fate(nodes, ours, pod) == ""
            self.program(pods, family)
            assert self.fate(ours, theirs, outside) == ""
            assert self.fate(theirs, ours, pod) == ""

    def test_a_connection_is_judged_once(self, pods: PodNode, family: Family) -> None:
        outside, pod = PLACES["outside"][family is Family.IPV6], pods.address(family, 0)
        self.program(pods, family)
        with (
            self.bound(pods, family, 0, pod) as ours,
            self.bound(pods, family, 0, pod) as silent,
            self.bound(pods, family, 0, pod) as late,
            self.bound(pods, family, 1, outside) as theirs,
        ):
            assert self.fate(ours, theirs, outside) == ""
            assert self.fate(theirs, ours, pod) == ""
            assert self.fate(silent, theirs, outside) == ""  # and is never answered
            self.program(pods, family, "delete")
            assert self.fate(ours, theirs, outside) == ""
            assert self.fate(theirs, ours, pod) == ""
            assert self.fate(silent, theirs, outside) == ""
            assert self.fate(late, theirs, outside) == "unprogrammed"

    def test_sources_are_those_that_belong_where_they_come_from(self, pods: PodNode, family: Family) -> None:
        outside, nobody = (PLACES[place][family is Family.IPV6] for place in ("outside", "nobody"))
        pod = pods.address(family, 0)
        self.program(pods, family)
        nodad = " nodad" if family is Family.IPV6 else ""
        for who in (0, 1):
            pods.ip(who, f"addr add {nobody}/{family.bits} dev lo{nodad}")
        with (
            self.bound(pods, family, 0, pod) as ours,
            self.bound(pods, family, 1, outside) as theirs,
            self.bound(pods, family, 0, nobody) as spoofing,
            self.bound(pods, family, 1, nobody) as foreign,
        ):
            assert self.fate(spoofing, theirs, outside) == "spoofed"
            assert self.fate(foreign, ours, pod) == "foreign"
            unused = pods.address(family, 77)
            pods.ip(None, f"route add {unused}/{family.bits} dev h1")  # else there is no way there
            assert self.fate(ours, foreign, unused) == "nobody"

    def test_a_source_is_remembered_for_its_own_link_alone_and_not_for_long(
        self, pods: PodNode, family: Family, tmp_path: Path
    ) -> None:
        outside, pod = PLACES["outside"][family is Family.IPV6], pods.address(family, 0)
        self.program(pods, family)
        pods.ip(2, f"addr add {pod}/{family.bits} dev lo{' nodad' if family is Family.IPV6 else ''}")
        heard = tmp_path / "heard"
        with (
            heard.open("wb") as output,
            subprocess.Popen(["nft", "monitor"], stdout=output) as monitor,
            self.bound(pods, family, 0, pod) as ours,
            self.bound(pods, family, 2, pod) as spoofing,
            self.bound(pods, family, 1, outside) as theirs,
        ):
            deadline = time.monotonic() + 60
            while "word" not in heard.read_text():  # it takes a moment to begin
                assert time.monotonic() < deadline
                subprocess.run(["nft", "add table ip word; delete table ip word"], check=True)
            assert self.fate(ours, theirs, outside) == ""
            assert self.fate(ours, theirs, outside) == ""
            assert self.fate(spoofing, theirs, outside) == "spoofed"
            pods.ip(None, f"route replace {pod}/{family.bits} dev h2")
            while self.fate(ours, theirs, outside) != "spoofed":
                assert time.monotonic() < deadline
                time.sleep(0.2)  # between two looks, of which each lists the table twice
            assert self.fate(spoofing, theirs, outside) == ""
            monitor.terminate()
        assert "inet tortie" not in heard.read_text(), "nobody hears of what the kernel remembers"

    def test_the_node_speaks_with_itself_from_an_address_of_the_pod_cidr(self, pods: PodNode, family: Family) -> None:
        own = PLACES["nobody"][family is Family.IPV6]
        pods.ip(None, f"addr add {own}/{family.bits} dev lo{' nodad' if family is Family.IPV6 else ''}")
        with self.bound(pods, family, None, own) as one, self.bound(pods, family, None, own) as other:
            assert self.fate(one, other, own) == ""
