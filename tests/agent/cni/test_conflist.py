from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from agent.cni import conflist
from inet.prefix import Prefix

V4, V6 = Prefix.parse("10.42.0.0/24"), Prefix.parse("fd42::/64")


def rendered(*cidrs: Prefix, mtu: int | None = 1450, **more: Any) -> dict[str, Any]:
    content = conflist.render(
        cidrs,
        mtu=mtu,
        socket=Path("/run/tortie/cni.sock"),
        data_dir=Path("/var/lib/cni/networks"),
        timeout_s=10.0,
        **more,
    )
    found: dict[str, Any] = json.loads(content)
    return found


def test_the_whole_file_is_what_operators_are_shown() -> None:
    assert rendered(V4, V6) == {
        "cniVersion": "1.0.0",
        "name": "tortie",
        "plugins": [
            {"type": "tortie-cni", "prepare": True},
            {
                "type": "ptp",
                "ipMasq": False,
                "mtu": 1450,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/var/lib/cni/networks",
                    "ranges": [[{"subnet": "10.42.0.0/24"}], [{"subnet": "fd42::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
            {"type": "tortie-cni", "socket": "/run/tortie/cni.sock", "timeoutSeconds": 10.0},
        ],
    }


@pytest.mark.parametrize(("cidr", "route"), [(V4, "0.0.0.0/0"), (V6, "::/0")], ids=["IPv4", "IPv6"])
def test_a_node_of_one_family_gives_addresses_of_that_family(cidr: Prefix, route: str) -> None:
    (ipam,) = (each["ipam"] for each in rendered(cidr)["plugins"] if "ipam" in each)
    assert (ipam["ranges"], ipam["routes"]) == ([[{"subnet": str(cidr)}]], [{"dst": route}])


def test_an_mtu_nobody_gives_is_the_kernels() -> None:
    assert "mtu" not in rendered(V4, mtu=0)["plugins"][0]


def test_a_node_without_ipv6_has_nothing_to_prepare() -> None:
    assert [each["type"] for each in rendered(V4)["plugins"]] == ["ptp", "portmap", "bandwidth", "tortie-cni"]


def test_an_iptables_that_works_is_the_one_for_ports_of_the_node() -> None:
    (portmap,) = (each for each in rendered(V4, iptables=True)["plugins"] if each["type"] == "portmap")
    assert portmap == {"type": "portmap", "backend": "iptables", "capabilities": {"portMappings": True}}


def test_versions_that_all_plugins_speak_are_offered_to_runtimes_that_choose() -> None:
    both = rendered(V4, versions=("1.0.0", "1.1.0"))
    assert (both["cniVersion"], both["cniVersions"]) == ("1.0.0", ["1.0.0", "1.1.0"])


def test_every_program_of_the_file_is_one_that_is_installed() -> None:
    plugins = rendered(V4)["plugins"]
    assert {*(each["type"] for each in plugins), plugins[0]["ipam"]["type"]} == set(conflist.PLUGINS)


def test_a_file_is_written_only_where_it_says_something_else(tmp_path: Path) -> None:
    assert conflist.write(tmp_path, b"{}")
    before = (tmp_path / conflist.FILE_NAME).stat()
    assert not conflist.write(tmp_path, b"{}")
    assert (tmp_path / conflist.FILE_NAME).stat().st_ino == before.st_ino
    assert conflist.write(tmp_path, b"{ }")
    assert (tmp_path / conflist.FILE_NAME).read_bytes() == b"{ }"
    assert [each.name for each in tmp_path.iterdir()] == [conflist.FILE_NAME]
    assert stat.S_IMODE(before.st_mode) == 0o644


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conflist.write(tmp_path, b"{}")

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        conflist.write(tmp_path, b"other")
    assert [each.name for each in tmp_path.iterdir()] == [conflist.FILE_NAME]
    assert (tmp_path / conflist.FILE_NAME).read_bytes() == b"{}"
