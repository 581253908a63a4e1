from __future__ import annotations

from pathlib import Path

import pytest

from felix.sysctl import Report, prepare_for_routes
from tests.felix.netns import Node

CONF = "ignore_routes_with_linkdown"
WANTED = [(version, link) for version in ("ipv4", "ipv6") for link in ("all", "a0")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in {
        "ipv4/nexthop_compat_mode": "1",
        f"ipv4/conf/all/{CONF}": "0",
        f"ipv4/conf/eth0.100/{CONF}": "1",
        f"ipv6/conf/all/{CONF}": "1",
        "ipv6/conf/all/keep_addr_on_down": "0",
    }.items():
        path = tmp_path / "net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n", encoding="ascii")
    return tmp_path


def test_what_is_not_right_is_set_and_told_with_its_former_value(root: Path) -> None:
    assert prepare_for_routes(root) == Report(
        {
            "net.ipv4.nexthop_compat_mode": "1",
            f"net.ipv4.conf.all.{CONF}": "0",
            "net.ipv6.conf.all.keep_addr_on_down": "0",
        }
    )
    assert (root / "net/ipv4/nexthop_compat_mode").read_text(encoding="ascii") == "0"


def test_what_is_right_is_left_alone(root: Path) -> None:
    prepare_for_routes(root)
    assert prepare_for_routes(root) == Report()


def test_what_cannot_be_set_is_told_and_the_rest_is_done(root: Path) -> None:
    stubborn = root / "net/ipv4/conf/all" / CONF
    stubborn.unlink()
    stubborn.mkdir()
    (root / "net/ipv4/nexthop_compat_mode").unlink()
    report = prepare_for_routes(root)
    assert report.failed == {
        "net.ipv4.nexthop_compat_mode": "No such file or directory",
        f"net.ipv4.conf.all.{CONF}": "Is a directory",
    }
    assert report.changed == {"net.ipv6.conf.all.keep_addr_on_down": "0"}


@pytest.mark.kernel
def test_a_fresh_namespace_needs_it_and_takes_it(node: Node) -> None:
    for version, link in WANTED:  # a new namespace may have inherited them
        Path(f"/proc/sys/net/{version}/conf/{link}/{CONF}").write_text("0", encoding="ascii")
    report = prepare_for_routes()
    assert report.failed == {}
    assert {f"net.{version}.conf.{link}.{CONF}" for version, link in WANTED} <= set(report.changed)
    assert prepare_for_routes() == Report()
    node.ip("link set a0 name eth0.100")
    (Path("/proc/sys/net/ipv4/conf/eth0.100") / CONF).write_text("0", encoding="ascii")
    assert prepare_for_routes().changed == {f"net.ipv4.conf.eth0/100.{CONF}": "0"}
