from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from agent.doctor import Level, LookError
from agent.doctor.neighbourhood import (
    Daemon,
    Daemons,
    Leftovers,
    gather_conflists,
    gather_daemons,
    gather_firewalls,
    gather_leftovers,
    judge_conflists,
    judge_daemons,
    judge_firewalls,
    judge_leftovers,
)
from agent.report import CniReport
from felix.foreign import Leftover
from felix.nft.basechains import BaseChain
from tests.agent.doctor.patients import STATUS, patient
from tests.felix.netns import Node

OURS = "10-tortie.conflist"
OFF = Daemon(is_running=False, settings={})
KEPT = {"ManageForeignRoutes": "no"}


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("names", "level", "text"),
    [
        ([], Level.OK, "no CNI configuration"),
        ([OURS], Level.OK, "is the CNI configuration that the container runtime takes"),
        ([OURS, "87-podman-bridge.conflist"], Level.OK, "is the CNI configuration"),
        (["05-cilium.conflist", OURS], Level.FAIL, "05-cilium.conflist sorts before 10-tortie.conflist"),
        (["10-flannel.conflist"], Level.WARN, "10-flannel.conflist wires pods on this node, not Tortie"),
    ],
    ids=["none", "ours", "ours first", "another first", "another alone"],
)
async def test_the_first_configuration_is_the_one_that_counts(
    tmp_path: Path, names: list[str], level: Level, text: str
) -> None:
    root = tree(tmp_path, {f"etc/cni/net.d/{name}": "{}" for name in [*names, "README", "00-old.conflist.bak"]})
    (finding,) = judge_conflists(await gather_conflists(patient(root=root)))
    assert finding.level is level
    assert text in finding.text


async def test_files_of_the_host_that_a_container_does_not_see_are_not_claimed_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(LookError, match="not to be seen from inside a container"):
        await gather_conflists(patient(root=tmp_path, in_container=True))
    assert await gather_conflists(patient(root=tmp_path)) == ("/etc/cni/net.d", ())


async def test_the_directory_looked_at_is_the_one_that_the_agent_writes_to(tmp_path: Path) -> None:
    directory = "/var/lib/rancher/k3s/agent/etc/cni/net.d"
    status = msgspec.structs.replace(STATUS, cni=CniReport(conflist=f"{directory}/{OURS}"))
    tree(tmp_path, {f"{directory[1:]}/{OURS}": "{}", "etc/cni/net.d/05-cilium.conflist": "{}"})
    (finding,) = judge_conflists(await gather_conflists(patient(root=tmp_path, status=status)))
    assert finding.level is Level.OK
    tree(tmp_path, {f"{directory[1:]}/05-other.conflist": "{}"})
    (finding,) = judge_conflists(await gather_conflists(patient(root=tmp_path, status=status)))
    assert finding.advice == f"remove {directory}/05-other.conflist"


def test_what_others_left_is_named_by_whose_it_is() -> None:
    found = (
        *(Leftover("calico", "device", f"cali{number}", "ip link del") for number in range(6)),
        Leftover("calico", "file", "/etc/cni/net.d/10-calico.conflist", "rm"),
        Leftover("kindnet", "table", "inet kindnet-x", "nft delete table"),
        Leftover("weave", "file", "/var/lib/weave", "rm"),
    )
    calico, kindnet, weave = judge_leftovers(Leftovers(found, sees_files=True))
    assert (calico.level, kindnet.level, weave.level) == (Level.FAIL, Level.WARN, Level.WARN)
    assert calico.text == ("calico is still here: device cali0, device cali1, device cali2, device cali3 and 2 more")
    assert "tortie cleanup --foreign calico" in calico.advice
    assert [each.level for each in judge_leftovers(Leftovers((), sees_files=True))] == [Level.OK]


def test_a_firewall_that_drops_what_is_forwarded_is_named() -> None:
    ours = BaseChain("inet", "tortie", "forward", "forward", 0, drops=True)
    docker = BaseChain("ip", "filter", "FORWARD", "forward", 0, drops=True)
    closed = BaseChain("inet", "mine", "fwd", "forward", 0, drops=True)
    open_ = BaseChain("ip6", "filter", "FORWARD", "forward", 0, drops=False)
    inwards = BaseChain("inet", "mine", "in", "input", 0, drops=True)
    assert [each.level for each in judge_firewalls([ours, open_, inwards])] == [Level.OK]
    first, second = judge_firewalls([docker, closed])
    assert first.text == "chain FORWARD of table ip filter drops what it forwards by default"
    assert first.advice.startswith("iptables -P FORWARD ACCEPT")
    assert second.text == "chain fwd of table inet mine drops what it forwards by default"
    (firewalld,) = judge_firewalls([BaseChain("inet", "firewalld", "filter_FORWARD", "forward", 10, drops=False)])
    assert "firewalld is at work" in firewalld.text


@pytest.mark.parametrize(
    ("facts", "levels", "text"),
    [
        (Daemons(OFF, OFF), [Level.OK], "does not run here"),
        (Daemons(Daemon(is_running=True, settings={}), OFF), [Level.WARN], "removes foreign routes"),
        (
            Daemons(Daemon(is_running=True, settings={"ManageForeignRoutes": "yes"}), OFF),
            [Level.WARN],
            "removes foreign routes",
        ),
        (Daemons(Daemon(is_running=True, settings=KEPT), OFF), [Level.OK], "leaves foreign routes alone"),
        (Daemons(Daemon(is_running=True, settings=None), OFF), [Level.OUTSIDE], "not to be seen from inside"),
        (Daemons(OFF, Daemon(is_running=True, settings={})), [Level.OK, Level.WARN], "NetworkManager runs"),
        (Daemons(OFF, Daemon(is_running=True, settings=None)), [Level.OK, Level.OUTSIDE], "NetworkManager runs"),
        (
            Daemons(OFF, Daemon(is_running=True, settings={"unmanaged-devices": "driver:veth"})),
            [Level.OK, Level.OK],
            "leaves links of pods alone",
        ),
    ],
    ids=["none", "default", "yes", "no", "hidden", "manager", "manager hidden", "manager told"],
)
def test_daemons_that_tidy_up_are_named(facts: Daemons, levels: list[Level], text: str) -> None:
    findings = list(judge_daemons(facts))
    assert [each.level for each in findings] == levels
    assert text in findings[-1].text


async def test_settings_are_read_in_the_order_that_they_count(tmp_path: Path) -> None:
    yes, no = "[Network]\nManageForeignRoutes=yes\n", "# told\n[Network]\nManageForeignRoutes=no\n"
    tree(
        tmp_path,
        {
            "run/systemd/netif/state": "",
            "etc/systemd/networkd.conf": yes,
            "usr/lib/systemd/networkd.conf.d/50-tortie.conf": yes,
            "etc/systemd/networkd.conf.d/50-tortie.conf": no,
            "run/systemd/networkd.conf.d/10-first.conf": yes,
            "etc/systemd/networkd.conf.d/broken.conf": "no section\n",
            "run/NetworkManager/NetworkManager.pid": "1",
            "etc/NetworkManager/conf.d/t.conf": "[keyfile]\nunmanaged-devices=driver:veth\n",
        },
    )
    facts = await gather_daemons(patient(root=tmp_path))
    assert facts.networkd == Daemon(is_running=True, settings={"ManageForeignRoutes": "no"})
    assert facts.network_manager == Daemon(is_running=True, settings={"unmanaged-devices": "driver:veth"})
    hidden = await gather_daemons(patient(root=tmp_path / "run", in_container=True))
    assert hidden.networkd.settings is None


@pytest.mark.kernel
class TestKernel:
    async def test_what_others_left_in_the_kernel_is_found(self, node: Node, tmp_path: Path) -> None:
        assert judge_of(await gather_leftovers(patient(root=tmp_path))) == [Level.OK]
        node.ip("link add flannel.1 type bridge")
        node.ip("route add 10.9.0.0/24 dev a0 proto 80")
        tree(tmp_path, {"etc/cni/net.d/10-flannel.conflist": "{}"})
        found = await gather_leftovers(patient(root=tmp_path))
        assert {(each.plugin, each.kind) for each in found.found} == {
            ("flannel", "device"),
            ("flannel", "file"),
            ("calico", "route"),
        }
        assert judge_of(found) == [Level.FAIL, Level.FAIL]

    async def test_chains_of_others_are_read_with_hook_and_policy(self, node: Node) -> None:
        text = (
            "table inet mine { chain through { type filter hook forward priority 5; policy drop; }; chain plain { }; "
            "chain out { type filter hook output priority -10; }; }; "
            "table netdev other { chain c { type filter hook ingress device a0 priority 0; }; }"
        )
        await asyncio.to_thread(subprocess.run, ["nft", text], check=True)
        found = await gather_firewalls(patient())
        assert {each for each in found if each.table == "mine"} == {
            BaseChain("inet", "mine", "through", "forward", 5, drops=True),
            BaseChain("inet", "mine", "out", "output", -10, drops=False),
        }
        assert node.name


def judge_of(facts: Leftovers) -> list[Level]:
    return [each.level for each in judge_leftovers(facts)]
