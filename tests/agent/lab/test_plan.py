from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.lab.fabric import batches
from agent.lab.lab import DAEMONS, hosts
from agent.lab.manifests import node_manifests, pod_manifests
from agent.lab.plan import INTERFACE_NAME_MAX, Plan, plan
from agent.lab.topology import Topology, load, parse
from inet.prefix import Family

GOLDEN = Path(__file__).parent / "golden"
EXAMPLES = Path(__file__).parents[3] / "examples"
TOPOLOGIES = {
    "every-daemon": GOLDEN / "every-daemon" / "topology.yaml",
    "two-racks": EXAMPLES / "two-racks.yaml",
}
CHECKS = {
    "bird.conf": ["bird", "-p", "-c"],
    "bgpd.conf": ["/usr/lib/frr/bgpd", "-C", "-f"],
    "zebra.conf": ["/usr/lib/frr/zebra", "-C", "-f"],
    "gobgpd.toml": ["gobgpd", "-d", "-f"],
}


def files_of(planned: Plan) -> Iterator[tuple[str, str]]:
    """Yield what a plan comes to as files: name, text."""
    commands = batches(planned)
    inside = (f"# {planned.machines[name].namespace}\n{text}" for name, text in commands.machines.items())
    yield "ip", "\n".join((commands.cables, *inside))
    alike: dict[str, list[str]] = {}
    for name, machine in planned.machines.items():
        alike.setdefault("".join(f"{key} = {value}\n" for key, value in machine.sysctls.items()), []).append(name)
    yield "sysctls", "\n".join(f"# {' '.join(names)}\n{text}" for text, names in alike.items())
    yield "hosts", hosts(planned)
    yield "nodes.yaml", node_manifests(planned)
    yield "pods.yaml", pod_manifests(planned)
    for name, speaker in planned.speakers.items():
        daemon = DAEMONS[speaker.daemon](speaker, planned.machines[name].namespace, Path("/lab"))
        for file, text in daemon.render(speaker.announce).items():
            yield f"{name}/{file}", text


@pytest.mark.parametrize("case", TOPOLOGIES)
def test_a_plan_is_what_it_was(case: str) -> None:
    """To take a change over, run with UPDATE_GOLDEN=1 and read the diff."""
    files = dict(files_of(plan(load(TOPOLOGIES[case]))))
    directory = GOLDEN / case
    if "UPDATE_GOLDEN" in os.environ:
        for name, text in files.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text)
    there = {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "topology.yaml"
    }
    assert files == there


@pytest.mark.interop
@pytest.mark.parametrize("case", TOPOLOGIES)
def test_the_daemons_take_their_configuration(case: str, tmp_path: Path) -> None:
    for name, text in files_of(plan(load(TOPOLOGIES[case]))):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in sorted(tmp_path.rglob("*.*")):
        check = CHECKS.get(path.name)
        if check is None:
            continue
        if shutil.which(check[0]) is None:
            pytest.skip(f"{check[0]} is not installed")
        checked = subprocess.run([*check, path], capture_output=True, text=True, check=False, timeout=30)
        assert checked.returncode == 0, f"{path}: {checked.stderr}{checked.stdout}"


def ladder(nodes: int) -> Topology:
    """Return a topology of one router and nodes."""
    return parse(
        {
            "name": "l",
            "routers": {"r": {"daemon": "bird", "asn": 65100}},
            "nodes": {f"n{n}": {} for n in range(1, nodes + 1)},
            "links": [[f"n{n}", "r"] for n in range(1, nodes + 1)],
        }
    )


def test_equal_topologies_give_equal_plans() -> None:
    assert plan(load(TOPOLOGIES["two-racks"])) == plan(load(TOPOLOGIES["two-racks"]))


def test_a_router_has_one_address_for_all_its_nodes(family: Family) -> None:
    planned = plan(ladder(3))
    assert len({planned.address("r", family, towards=f"n{n}") for n in (1, 2, 3)}) == 1


def test_a_node_keeps_its_number_on_every_router(family: Family) -> None:
    planned = plan(load(TOPOLOGIES["two-racks"]))
    addresses = [str(planned.address("n3", family, towards=router)) for router in ("tor-1", "tor-2")]
    expected = {Family.IPV4: ["172.16.1.13", "172.16.2.13"], Family.IPV6: ["fd16:1::13", "fd16:2::13"]}
    assert addresses == expected[family]


def test_as_many_nodes_as_allowed_fit_a_subnet(family: Family) -> None:
    planned = plan(ladder(240))
    addresses = {planned.address(f"n{n}", family) for n in range(1, 241)}
    assert len(addresses) == 240


def test_no_two_interfaces_of_a_lab_have_the_same_number() -> None:
    planned = plan(load(TOPOLOGIES["every-daemon"]))
    indices = [port.index for cable in planned.cables for port in (cable.a, cable.b)]
    assert len(set(indices)) == len(indices)


def test_names_fit_the_kernel() -> None:
    planned = plan(load(TOPOLOGIES["every-daemon"]))
    assert all(len(port.name) <= INTERFACE_NAME_MAX for cable in planned.cables for port in (cable.a, cable.b))
    assert len({(port.machine, port.name) for cable in planned.cables for port in (cable.a, cable.b)}) == 2 * len(
        planned.cables
    )


@pytest.mark.parametrize("label", ["IPv4", "IPv6"])
def test_a_lab_of_one_family_has_nothing_of_the_other(label: str) -> None:
    data = load(TOPOLOGIES["two-racks"]).model_dump(mode="json", by_alias=True) | {"families": [label]}
    planned = plan(parse(data))
    versions = {address.version for addresses in planned.hosts.values() for address in addresses}
    assert versions == {4 if label == "IPv4" else 6}
    assert {len(it.families) for speaker in planned.speakers.values() for it in speaker.neighbours} == {1}


def test_one_transport_carries_both_families() -> None:
    planned = plan(load(TOPOLOGIES["every-daemon"]))
    session = next(it for it in planned.speakers["f"].neighbours if it.machine == "b")
    mirror = next(it for it in planned.speakers["b"].neighbours if it.machine == "f")
    assert session.address.version == mirror.address.version == 4
    assert session.families == mirror.families == (Family.IPV4, Family.IPV6)


def test_a_router_without_a_daemon_is_the_default_gateway_and_speaks_with_nobody() -> None:
    planned = plan(
        parse(
            {
                "name": "plain",
                "routers": {"gw": {"daemon": "none"}, "tor": {"daemon": "bird", "asn": 65100}},
                "nodes": {"n1": {"podCIDRs": ["10.42.1.0/24"], "pods": ["a1"]}},
                "links": [["n1", "gw"], ["n1", "tor"]],
            }
        )
    )
    assert [route for route in planned.machines["n1"].routes if route.startswith("default")] == [
        "default via 172.16.1.1 dev eth0",
        "default via fd16:1::1 dev eth0",
    ]
    assert list(planned.speakers) == ["tor"]
