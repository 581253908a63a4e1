"""Cleaning up a node that is full of other people's things."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from agent import exclusive
from agent.cleanup import Places, clean, survey
from agent.cli.main import app
from agent.cni import conflist, install
from felix.foreign import leftovers
from felix.sysctl import FILE_NAME, Setting, Sysctls
from tests.felix.netns import built
from tests.felix.nft.outside import World, run

pytestmark = pytest.mark.kernel

OURS = 0x61000000
GROUPS = {"-4": 0x61400000, "-6": 0x61800000}
PREFIXES = {"-4": ("10.77.1.0/24", "10.77.2.0/24"), "-6": ("fd77:1::/64", "fd77:2::/64")}
GATEWAYS = {"-4": "172.16.2.254", "-6": "fd16:2::254"}


@pytest.fixture
def world() -> Iterator[World]:
    """The test runs inside the node's namespace, which has things of others that look like ours."""
    with built(World()) as world:
        # Link-local addresses, and the routes to them, are there when nobody else is found to have them.
        deadline = time.monotonic() + 30
        while ip("-6", "addr", "show", "tentative"):
            assert time.monotonic() < deadline
        yield world


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places(tmp_path / "run", tmp_path / "net.d", tmp_path / "networks", tmp_path / "bin")
    for directory in (found.run_dir, found.cni_conf_dir, found.cni_state_dir, found.cni_bin_dir):
        directory.mkdir()
    return found


def ip(*words: str) -> str:
    return run("ip", *words)


def add_things_of_others(places: Places) -> None:
    for version, (first, second) in PREFIXES.items():
        gateway = GATEWAYS[version]
        ip(version, "route", "add", first, "via", gateway, "dev", "u0", "proto", "static", "metric", "100")
        ip(version, "route", "add", first, "via", gateway, "dev", "u0", "proto", "bird", "metric", "9700")
        ip(version, "route", "add", "blackhole", second, "proto", "98", "metric", "9700")
    ip("nexthop", "add", "id", str(OURS + 7), "via", GATEWAYS["-4"], "dev", "u0", "proto", "static")
    ip("nexthop", "add", "id", "7", "via", GATEWAYS["-4"], "dev", "u0", "proto", "97")
    run("nft", "-f", "-", text="table ip tortie { }\ntable inet tortie_other {\n chain c { }\n}\ntable inet kube { }\n")
    ip("link", "add", "tortie-vxlan", "type", "vxlan", "id", "7", "dstport", "4790", "dev", "u0")
    ip("link", "set", "u1", "alias", "tortie uplink of mine")
    (places.cni_conf_dir / "05-other.conflist").write_text("{}")
    (places.cni_bin_dir / "ptp").write_text("another's")
    (places.cni_state_dir / "other").mkdir()


def add_ours(places: Places) -> None:
    for number, (version, (first, second)) in enumerate(PREFIXES.items()):
        hop, group = str(OURS + number), str(GROUPS[version])
        ip("nexthop", "add", "id", hop, "via", GATEWAYS[version], "dev", "u0", "proto", "97")
        ip("nexthop", "add", "id", group, "group", hop, "proto", "97")
        ip(version, "route", "add", second, "nhid", group, "proto", "97", "metric", "9701")
        ip(version, "route", "add", "blackhole", first, "proto", "97", "metric", "9702")
        ip(version, "route", "add", first, "via", GATEWAYS[version], "dev", "u0", "proto", "97", "table", "42")
    run("nft", "-f", "-", text="table inet tortie {\n chain c {\n type filter hook forward priority 0; accept\n }\n}\n")
    ip("link", "add", "renamed", "type", "vxlan", "id", "8", "dstport", "4791", "dev", "u0")
    ip("link", "set", "renamed", "alias", "tortie vxlan")
    (places.cni_conf_dir / conflist.FILE_NAME).write_text("{}")
    (places.cni_bin_dir / "tortie-cni").write_text("plugin")
    (places.cni_bin_dir / "portmap").write_text("changed since")
    record = {"tortie-cni": hashlib.sha256(b"plugin").hexdigest(), "portmap": "0" * 64, "../run/other": "0"}
    (places.cni_bin_dir / install.RECORD_NAME).write_bytes(msgspec.json.encode(record))
    (places.cni_state_dir / conflist.NETWORK).mkdir()
    (places.cni_state_dir / conflist.NETWORK / "10.77.9.9").write_text("container")
    (places.run_dir / "drain.json").write_text("{}")
    settings = [Setting("ipv4/conf/u0/rp_filter", "2"), Setting("ipv4/conf/u1/rp_filter", "2")]
    Sysctls(places.run_dir / FILE_NAME).apply(settings)


def snapshot(places: Places) -> dict[str, Any]:
    """Return everything that may matter to anybody."""
    addresses = json.loads(ip("-j", "-d", "addr", "show"))
    for each in addresses:
        for volatile in ("operstate", "stats64"):
            each.pop(volatile, None)
        for address in each["addr_info"]:
            address.pop("valid_life_time", None)
            address.pop("preferred_life_time", None)
    root = places.run_dir.parent
    return {
        "routes": sorted(ip("-4", "route", "show", "table", "all").splitlines()),
        "routes6": sorted(line.split(" expires")[0] for line in ip("-6", "route", "show", "table", "all").splitlines()),
        "nexthops": ip("nexthop").splitlines(),
        "rules": ip("rule"),
        "links": addresses,
        "nft": run("nft", "list", "ruleset"),
        "files": sorted(str(path.relative_to(root)) for path in root.rglob("*")),
    }


async def test_every_trace_goes_and_nothing_else(world: World, places: Places) -> None:
    for i in range(3):
        ip("link", "set", f"h{i}", "group", "default")
    add_things_of_others(places)
    before = snapshot(places)
    ip("link", "set", "h0", "group", "97", "alias", "tortie x/p0 c0")
    ip("link", "set", "h1", "group", "97", "alias", "mine")
    add_ours(places)
    done = await clean(places)
    assert done.left == []
    after = snapshot(places)
    mark = next(each for each in after["links"] if each["ifname"] == "h1")
    assert mark.pop("ifalias") == "mine", "the alias is not ours"
    assert (places.cni_bin_dir / "portmap").read_text() == "changed since"
    after["files"].remove("bin/portmap")
    before["files"].remove("run")
    assert after == before
    kinds = {item.kind for item in done.removed}
    assert kinds >= {"route", "nexthop", "nexthop group", "table", "device", "mark of a pod's link", "file", "setting"}
    assert world.name


async def removed_files(places: Places) -> set[Path]:
    return {Path(each.name) for each in (await clean(places)).removed if each.kind == "file"}


@pytest.mark.usefixtures("world")
async def test_addresses_of_pods_that_live_on_stay_taken(places: Places) -> None:
    book = places.cni_state_dir / conflist.NETWORK
    book.mkdir()
    alive, gone = ("10.77.9.2", "fd77:9::2"), ("10.77.9.3", "fd77:9::3")
    for name in (*alive, *gone, "last_reserved_ip.0", "lock"):
        (book / name).write_text("container")
    for version, address in zip(("-4", "-6"), alive, strict=True):
        ip(version, "route", "add", address, "dev", "h0")
    assert await removed_files(places) == {book / name for name in gone}
    assert {path.name for path in book.iterdir()} == {*alive, "last_reserved_ip.0", "lock"}
    for version, address in zip(("-4", "-6"), alive, strict=True):
        ip(version, "route", "del", address, "dev", "h0")
    assert await removed_files(places) == {book}


@pytest.mark.usefixtures("world")
def test_a_dry_run_lists_what_goes_and_changes_nothing(places: Places) -> None:
    add_things_of_others(places)
    add_ours(places)
    before = snapshot(places)
    options = ["--run-dir", str(places.run_dir), "--cni-conf-dir", str(places.cni_conf_dir)]
    options += ["--cni-state-dir", str(places.cni_state_dir), "--cni-bin-dir", str(places.cni_bin_dir)]
    listed = asyncio.run(survey(places)).items()
    shown = command("cleanup", "--dry-run", "-o", "json", *options)
    assert [(each["kind"], each["name"]) for each in shown["removed"]] == [(each.kind, each.name) for each in listed]
    assert snapshot(places) == before
    removed = command("cleanup", "-o", "json", *options)["removed"]
    assert {(each["kind"], each["name"]) for each in removed} == {(each.kind, each.name) for each in listed}
    assert command("cleanup", "-o", "json", *options) == {"removed": [], "left": []}, "the second time there is nothing"


def command(*words: str) -> Any:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.usefixtures("world")
async def test_what_somebody_set_since_stays_and_is_said(places: Places) -> None:
    Sysctls(places.run_dir / FILE_NAME).apply([Setting("ipv4/conf/u0/rp_filter", "2")])
    Sysctls(places.run_dir / "other").apply([Setting("ipv4/conf/u0/rp_filter", "1")])
    done = await clean(places)
    assert [(each.name, each.reason) for each in done.left] == [
        ("net.ipv4.conf.u0.rp_filter", "it is 1 now, which somebody else has set")
    ]


@pytest.mark.usefixtures("world")
def test_it_refuses_while_an_agent_runs_here() -> None:
    with closing(exclusive.claim()):
        result = CliRunner().invoke(app, ["cleanup", "--run-dir", "/nonexistent"])
    assert result.exit_code == 2
    assert "another tortie agent runs on this node already" in result.stderr


@pytest.mark.usefixtures("world")
async def test_leftovers_of_other_plugins_are_named_with_what_removes_them(tmp_path: Path) -> None:
    ip("link", "add", "flannel.1", "type", "vxlan", "id", "1", "dstport", "8472", "dev", "u0")
    ip("link", "add", "cali123", "type", "veth", "peer", "other")
    ip("route", "add", "10.88.0.0/24", "via", GATEWAYS["-4"], "proto", "80")
    ip("-6", "route", "add", "fd88::/64", "via", GATEWAYS["-6"], "dev", "u0", "proto", "80")
    run("nft", "-f", "-", text="table ip calico { }\ntable ip filter {\n chain FLANNEL-FWD { }\n}\n")
    (tmp_path / "etc/cni/net.d").mkdir(parents=True)
    (tmp_path / "etc/cni/net.d/10-flannel.conflist").write_text("{}")
    found = {(each.plugin, each.kind, each.name): each.command for each in await leftovers(root=tmp_path)}
    assert found == {
        ("flannel", "device", "flannel.1"): "ip link del flannel.1",
        ("flannel", "chain", "iptables filter FLANNEL-FWD"): (
            "iptables-save -t filter | grep -v FLANNEL-FWD | iptables-restore -T filter"
        ),
        ("flannel", "file", str(tmp_path / "etc/cni/net.d/10-flannel.conflist")): (
            f"rm -r {tmp_path / 'etc/cni/net.d/10-flannel.conflist'}"
        ),
        ("calico", "device", "cali123"): "ip link del cali123",
        ("calico", "route", "10.88.0.0/24 proto 80"): "ip -4 route del 10.88.0.0/24 proto 80",
        ("calico", "route", "fd88::/64 proto 80"): "ip -6 route del fd88::/64 proto 80",
        ("calico", "table", "ip calico"): "nft delete table ip calico",
    }
    assert {each.plugin for each in await leftovers("flannel", tmp_path)} == {"flannel"}


def test_a_plugin_that_nobody_knows_is_refused_with_those_that_are_known() -> None:
    result = CliRunner().invoke(app, ["cleanup", "--foreign", "flanel"])
    assert result.exit_code == 2
    assert "one of flannel, calico" in result.stderr
