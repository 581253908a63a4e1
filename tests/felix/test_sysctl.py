from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import pytest

from felix.netconf import SettingsMonitor
from felix.sysctl import Change, Report, Setting, Sysctls, for_pods, for_routes
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


def prepare_for_routes(root: Path, record: Path | None = None) -> Report:
    return Sysctls(record or root / "run" / "sysctls.json", root).apply(for_routes(root))


def value(root: Path, path: str) -> str:
    return (root / "net" / path).read_text(encoding="ascii").strip()


def put(root: Path, **values: str) -> None:
    for name, content in values.items():
        path = root / "net" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n", encoding="ascii")


def test_what_is_not_right_is_set_and_told_with_its_former_value(root: Path) -> None:
    assert prepare_for_routes(root) == Report(
        {
            "net.ipv4.nexthop_compat_mode": "1",
            f"net.ipv4.conf.all.{CONF}": "0",
            "net.ipv6.conf.all.keep_addr_on_down": "0",
        }
    )
    assert (root / "net/ipv4/nexthop_compat_mode").read_text(encoding="ascii") == "0"


def test_links_that_are_left_out_are_not_looked_at(root: Path) -> None:
    put(root, **{f"ipv4__conf__veth1__{CONF}": "0"})
    names = {each.name for each in for_routes(root, without={"veth1"})}
    assert f"net.ipv4.conf.veth1.{CONF}" not in names
    assert f"net.ipv4.conf.eth0/100.{CONF}" in names
    assert f"net.ipv4.conf.veth1.{CONF}" in {each.name for each in for_routes(root)}


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


def test_what_was_changed_is_written_down_with_the_value_it_had_first(root: Path) -> None:
    sysctls = Sysctls(root / "run" / "sysctls.json", root)
    sysctls.apply(for_routes(root))
    put(root, ipv4__nexthop_compat_mode="1")  # somebody changes it
    sysctls.apply(for_routes(root))
    assert sysctls.changed()["net.ipv4.nexthop_compat_mode"] == Change("1", "0")
    assert (root / "run" / "sysctls.json").stat().st_mode & 0o077 == 0
    assert not list((root / "run").glob(".*")), "no half-written file is left"


def test_it_is_written_down_before_it_is_changed(root: Path) -> None:
    record = root / "run"
    record.write_text("a file where a directory should be")
    report = prepare_for_routes(root, record / "sysctls.json")
    assert not report.changed
    assert report.failed
    assert value(root, "ipv4/nexthop_compat_mode") == "1", "what cannot be undone is not done"


def test_restoring_puts_back_what_we_changed_and_leaves_what_others_changed_since(root: Path) -> None:
    before = {path: path.read_text().strip() for path in root.glob("net/**/*") if path.is_file()}
    sysctls = Sysctls(root / "run" / "sysctls.json", root)
    sysctls.apply([*for_routes(root), Setting("ipv4/conf/eth0.100/rp_filter", "2")])
    theirs = root / "net/ipv6/conf/all/keep_addr_on_down"
    theirs.write_text("2")
    restored, left = sysctls.restore()
    assert restored == {"net.ipv4.nexthop_compat_mode": "1", f"net.ipv4.conf.all.{CONF}": "0"}
    assert left == {"net.ipv6.conf.all.keep_addr_on_down": "it is 2 now, which somebody else has set"}
    assert {path: path.read_text().strip() for path in before} == before | {theirs: "2"}


def test_a_record_that_cannot_be_read_is_no_record(root: Path) -> None:
    record = root / "sysctls.json"
    for content in ("", "[]", "{", '{"a": 1}', '{"a": {"before": "0"}}'):
        record.write_text(content)
        assert Sysctls(record, root).changed() == {}


def pods(root: Path, uplinks: list[str], nodes: int = 3, *, ipv6: bool = True) -> dict[str, str]:
    return {each.path: each.wanted for each in for_pods(uplinks, (), nodes, has_ipv6=ipv6, root=root)}


def test_a_node_forwards_ipv6_only_where_pods_have_it(root: Path) -> None:
    assert pods(root, [], ipv6=False) == {"ipv4/ip_forward": "1"}
    assert pods(root, []) == {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}


def test_a_link_with_advertised_routes_listens_to_routers_before_the_node_forwards(root: Path) -> None:
    put(root, ipv6__conf__eth0__accept_ra="1", ipv6__conf__eth1__accept_ra="0", ipv6__conf__eth2__accept_ra="1")
    wanted = list(for_pods([], {"eth0", "eth1"}, 3, has_ipv6=True, root=root))
    assert wanted[:2] == [Setting("ipv6/conf/eth0/accept_ra", "2"), Setting("ipv6/conf/all/forwarding", "1")]
    assert not [each for each in wanted if "eth1" in each.path or "eth2" in each.path]


@pytest.mark.parametrize(
    ("every", "link", "wanted"),
    [("1", "1", "2"), ("1", "0", "2"), ("0", "1", "2"), ("0", "0", None), ("2", "1", None), ("1", "2", None)],
)
def test_strict_reverse_path_checks_of_uplinks_become_loose_and_others_stay(
    root: Path, every: str, link: str, wanted: str | None
) -> None:
    put(root, ipv4__conf__all__rp_filter=every, ipv4__conf__eth0__rp_filter=link, ipv4__conf__eth1__rp_filter="1")
    found = pods(root, ["eth0"])
    assert found.get("ipv4/conf/eth0/rp_filter") == wanted
    assert "ipv4/conf/eth1/rp_filter" not in found


def test_tables_of_neighbours_grow_with_the_cluster_and_never_shrink(root: Path) -> None:
    for version in ("ipv4", "ipv6"):
        for number, size in ((1, "128"), (2, "512"), (3, "1000000")):
            put(root, **{f"{version}__neigh__default__gc_thresh{number}": size})
    assert not [path for path in pods(root, [], nodes=200) if "neigh" in path]
    report = Sysctls(root / "r.json", root).apply(for_pods([], set(), 5000, has_ipv6=True, root=root))
    assert set(report.changed) >= {f"net.{v}.neigh.default.gc_thresh{n}" for v in ("ipv4", "ipv6") for n in (1, 2)}
    assert value(root, "ipv6/neigh/default/gc_thresh1") == "8192"
    assert value(root, "ipv6/neigh/default/gc_thresh2") == "16384"
    assert value(root, "ipv6/neigh/default/gc_thresh3") == "1000000"


@pytest.mark.kernel
def test_a_fresh_namespace_needs_it_and_takes_it(node: Node, tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "sysctls.json")
    for version, link in WANTED:  # a new namespace may have inherited them
        Path(f"/proc/sys/net/{version}/conf/{link}/{CONF}").write_text("0", encoding="ascii")
    report = sysctls.apply(for_routes())
    assert report.failed == {}
    assert {f"net.{version}.conf.{link}.{CONF}" for version, link in WANTED} <= set(report.changed)
    assert sysctls.apply(for_routes()) == Report()
    node.ip("link set a0 name eth0.100")
    (Path("/proc/sys/net/ipv4/conf/eth0.100") / CONF).write_text("0", encoding="ascii")
    assert sysctls.apply(for_routes()).changed == {f"net.ipv4.conf.eth0/100.{CONF}": "0"}
    assert f"net.ipv4.conf.eth0/100.{CONF}" in sysctls.changed()
    sysctls.restore()
    for version, link in WANTED[:1]:
        assert Path(f"/proc/sys/net/{version}/conf/{link}/{CONF}").read_text(encoding="ascii").strip() == "0"


@pytest.mark.kernel
@pytest.mark.usefixtures("node")
def test_forwarding_is_switched_on_for_both_families_and_off_again(tmp_path: Path) -> None:
    forwarding = [Path("/proc/sys/net", path) for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")]
    for path in forwarding:
        path.write_text("0", encoding="ascii")
    sysctls = Sysctls(tmp_path / "sysctls.json")
    assert not sysctls.apply(for_pods(["a0"], set(), 3, has_ipv6=True)).failed
    assert [path.read_text(encoding="ascii").strip() for path in forwarding] == ["1", "1"]
    sysctls.restore()
    assert [path.read_text(encoding="ascii").strip() for path in forwarding] == ["0", "0"]


@pytest.mark.kernel
@pytest.mark.usefixtures("node")
async def test_the_kernel_tells_that_somebody_switched_forwarding(tmp_path: Path) -> None:
    sysctls = Sysctls(tmp_path / "r.json")
    with closing(SettingsMonitor()) as monitor:
        changes = monitor.changes()
        for path in ("ipv4/conf/a0/forwarding", "ipv6/conf/a0/forwarding"):
            for wanted in "10":  # whichever it is, one is a change
                sysctls.apply([Setting(path, wanted)])
            await asyncio.wait_for(anext(changes), 10)
        await changes.aclose()
