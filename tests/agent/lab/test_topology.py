from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from agent.lab.topology import Announcement, TopologyError, load, parse
from inet.prefix import Prefix

GOOD: dict[str, Any] = {
    "name": "good",
    "routers": {"tor-1": {"daemon": "bird", "asn": 65100}, "tor-2": {"daemon": "gobgp", "asn": 65100}},
    "nodes": {
        "n1": {"podCIDRs": ["10.42.0.0/24", "fd42::/64"], "pods": ["a1"]},
        "n2": {"podCIDRs": ["10.42.1.0/24"], "pods": ["b1"]},
    },
    "links": [["n1", "tor-1"], ["n2", "tor-1"]],
}


def problems_of(*changes: tuple[str, Any]) -> list[str]:
    """Return what is said of the good topology with fields set, each by its dotted path; `-` removes one."""
    data: Any = deepcopy(GOOD)
    for path, value in changes:
        *way, last = path.split(".")
        place = data
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        if value == "-":
            del place[last]
        else:
            place[last] = value
    with pytest.raises(TopologyError) as caught:
        parse(data)
    return [f"{'.'.join(map(str, problem.where))}: {problem.text}" for problem in caught.value.problems]


def test_what_is_given_is_read() -> None:
    topology = parse(GOOD)
    assert topology.nodes["n1"].pod_cidrs[0] == Prefix.parse("10.42.0.0/24")
    assert topology.nodes["n1"].daemon == "agent"
    assert topology.links[0].ends == ("n1", "tor-1")
    assert topology.pods == {"a1": "n1", "b1": "n2"}


def test_a_prefix_alone_is_an_announcement() -> None:
    data = deepcopy(GOOD)
    data["routers"]["tor-1"]["announce"] = ["192.0.2.0/24", {"prefix": "2001:db8::/48", "med": 5}]
    short, long = parse(data).routers["tor-1"].announce
    assert short == Announcement(prefix=Prefix.parse("192.0.2.0/24"))
    assert long.med == 5


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("name", "-", "name: is needed"),
        ("name", "Two Racks", "name: 'Two Racks': up to 32 of a-z, 0-9 and -, a letter first"),
        ("name", "x" * 33, f"name: '{'x' * 33}': up to 32 of a-z, 0-9 and -, a letter first"),
        ("router", {}, "router: no such field"),
        ("routers.tor-1.deamon", "bird", "routers.tor-1.deamon: no such field"),
        ("routers.tor-1.daemon", "-", "routers.tor-1.daemon: is needed"),
        (
            "routers.tor-1.daemon",
            "quagga",
            "routers.tor-1.daemon: input should be 'bird', 'frr', 'gobgp' or 'none', found 'quagga'",
        ),
        ("routers.tor-1.asn", 4294967296, "routers.tor-1.asn: 4294967296 is not an AS number (1 to 4294967295)"),
        ("routers.tor-1.asn", 0, "routers.tor-1.asn: 0 is not an AS number (1 to 4294967295)"),
        ("routers.tor-1.asn", "65100", "routers.tor-1.asn: input should be a valid integer, found '65100'"),
        (
            "routers.tor-1.announce",
            ["192.0.2.1/24"],
            "routers.tor-1.announce.0.prefix: '192.0.2.1/24' has host bits set: the prefix is 192.0.2.0/24",
        ),
        (
            "routers.tor-1.announce",
            [{"prefix": "192.0.2.0/24", "communities": ["65000:70000"]}],
            "routers.tor-1.announce.0.communities.0: '65000:70000' is not a community such as 65000:100",
        ),
        (
            "routers.tor-1.announce",
            [{"prefix": "192.0.2.0/24", "nextHop": "172.16.1.9"}],
            "routers.tor-1.announce.0.nextHop: BIRD says its own next hop here; use frr or gobgp to say another",
        ),
        (
            "nodes.n1.podCIDRs",
            ["10.42.0.0"],
            "nodes.n1.podCIDRs.0: '10.42.0.0' is not a prefix such as 10.42.0.0/24 or fd42::/64",
        ),
        (
            "nodes.n2.podCIDRs",
            ["10.42.0.128/25"],
            "nodes.n2.podCIDRs.0: 10.42.0.128/25 overlaps 10.42.0.0/24 of n1",
        ),
        (
            "nodes.n2.podCIDRs",
            ["10.42.1.0/31"],
            "nodes.n2.podCIDRs.0: 10.42.1.0/31 has no room for a gateway and a pod",
        ),
        ("nodes.n2.pods", ["b1", "b2", "b3", "a1"], "nodes.n2.pods.3: the name a1 is taken by nodes.n1.pods.0"),
        ("nodes.n2.daemon", "bird", "nodes.n2: asn is needed: bird stands in for the agent"),
        ("nodes.n3", {}, "nodes.n3: has no link"),
        (
            "nodes.n2",
            {"daemon": "none", "command": ["true"]},
            "nodes.n2.command: goes in place of the agent, but daemon is none",
        ),
        ("links", [["n1", "tor-1"], ["n2", "tor-9"]], "links.1.1: there is no router or node tor-9"),
        ("links", [["n1", "tor-1"], ["n2", "n2"]], "links.1: n2 is on this link 2 times"),
        ("links", [["n1", "tor-1"], ["n2"]], "links.1.ends: needs at least 2, found 1"),
        ("links", [["n1", "n2", "tor-2"]], "links.0: GoBGP on tor-2 takes no unknown AS: give nodes.n1.asn"),
        (
            "links",
            [{"ends": ["n1", "n2"], "addresses": {"n1": ["10.0.0.1"]}}],
            "links.0.addresses.n1.0: '10.0.0.1' is not an interface address such as 172.16.1.11/24 or fd16:1::11/64",
        ),
        (
            "links",
            [{"ends": ["n1", "n2"], "addresses": {"tor-1": ["10.0.0.1/24"]}}],
            "links.0.addresses.tor-1: tor-1 is not an end of this link",
        ),
        (
            "links",
            [{"ends": ["n1", "n2"], "name": "x"}],
            "links.0.name: only a switch has one: a link with three ends or more",
        ),
        ("manifests", "/nonexistent", "manifests: there is no directory /nonexistent"),
    ],
)
def test_what_is_wrong_is_named_with_its_field(path: str, value: Any, problem: str) -> None:
    assert any(said.startswith(problem) for said in problems_of((path, value))), problems_of((path, value))


def test_a_switch_without_a_name_has_one_that_must_be_free() -> None:
    said = problems_of(("nodes.lan1", {}), ("links", [["n1", "n2"], ["n1", "n2", "lan1"]]))
    assert said == ["links.1: the name lan1 is taken by nodes.lan1"]


def test_every_problem_is_named_not_the_first_alone() -> None:
    said = problems_of(("routers.tor-1.asn", 0), ("nodes.n1.podcidrs", []), ("family", "IPv4"))
    assert len(said) == 3


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("name: x\nrouters:\n  r: {daemon: bird, asn: 0}\n", ":3: routers.r.asn: 0 is not an AS number"),
        ("name: x\nnodes:\n  n1: {}\nlinks:\n- [n1, r]\n", ":5: links.0.1: there is no router or node r"),
        ("name: x\nnodes:\n  n1:\n    labels: {}\n    pod: [a]\n", ":5: nodes.n1.pod: no such field"),
        ("name: x\nnodes:\n  n1: {}\n  n1: {}\n", ":4: nodes.n1: is given twice"),
        ("name: [x\n", ":2: not YAML: "),
        ("- n1\n", ":1: a topology is a mapping with name, routers, nodes and links"),
    ],
    ids=["field", "end of a link", "unknown field", "repeated key", "syntax", "not a mapping"],
)
def test_a_problem_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(TopologyError) as caught:
        load(path)
    assert f"{path}{where}" in str(caught.value)


def test_the_manifests_directory_is_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    path = tmp_path / "lab.yaml"
    path.write_text("name: x\nmanifests: objects\n")
    assert load(path).manifests == tmp_path / "objects"


def test_a_name_given_at_the_call_goes_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("name: x\n")
    assert load(path, name="y").name == "y"


def test_a_topology_outlives_its_json() -> None:
    topology = parse(GOOD)
    assert parse(topology.model_dump(mode="json", by_alias=True)) == topology


def test_the_examples_are_good() -> None:
    examples = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
    assert [load(path).name for path in examples] == [path.stem for path in examples]


def test_a_pod_is_a_name_or_has_a_namespace_and_labels_too() -> None:
    topology = parse(
        {
            "name": "x",
            "routers": {"r": {"daemon": "bird", "asn": 1}},
            "nodes": {"n1": {"pods": ["a1", {"name": "db", "namespace": "shop", "labels": {"app": "db"}}]}},
            "links": [["n1", "r"]],
        }
    )
    assert [(pod.name, pod.namespace, pod.labels) for pod in topology.nodes["n1"].pods] == [
        ("a1", "default", {}),
        ("db", "shop", {"app": "db"}),
    ]
    assert topology.pods == {"a1": "n1", "db": "n1"}


def test_only_a_router_without_a_daemon_needs_no_as() -> None:
    assert "is needed" in " ".join(problems_of(("routers.tor-1", {"daemon": "bird"})))
    data = deepcopy(GOOD)
    data["routers"]["tor-1"] = {"daemon": "none"}
    assert parse(data).routers["tor-1"].asn is None
