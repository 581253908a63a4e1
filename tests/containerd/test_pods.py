"""What a kubelet sees of us: sandboxes started and stopped through a real containerd, on a real kernel."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import pytest

from tests.containerd.cri import CriError
from tests.containerd.machine import Machine, run_as_kubelets_do

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(240)]

DENY_ALL: dict[str, Any] = {"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress", "Egress"]}
FROM_FRONT: dict[str, Any] = {
    "podSelector": {"matchLabels": {"app": "db"}},
    "policyTypes": ["Ingress"],
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}],
}


class KillingAgents:
    """Kills the agent and starts it anew whenever so many pods have been started, while others are under way."""

    def __init__(self, machine: Machine, every: int) -> None:
        self._machine = machine
        self._every = every
        self._started = 0
        self._lock = threading.Lock()

    def start(self, name: str) -> str:
        sandbox = run_as_kubelets_do(self._machine, name)
        with self._lock:
            self._started += 1
            if self._started % self._every == 0:
                self._machine.kill_agent()
                self._machine.start_agent()
        return sandbox


def judged(machine: Machine, direction: str = "from") -> set[str]:
    """Return the addresses of pods that the kernel has rules for."""
    found = set()
    for name in (f"{direction}_pod4", f"{direction}_pod6"):
        answer = machine.inside("nft", "-j", "list", "map", "inet", "tortie", name)
        elements = json.loads(answer)["nftables"][1]["map"].get("elem", [])
        found |= {each["elem"]["val"] if isinstance(each, dict) else _key(each) for each in elements}
    return found


def _key(element: Sequence[Any]) -> str:
    key = element[0]
    return str(key["elem"]["val"] if isinstance(key, dict) else key)


def plugin(
    machine: Machine, command: str, version: str = "1.1.0", arguments: Mapping[str, str] | None = None, **more: Any
) -> tuple[int, Any]:
    """Run our plugin as a runtime of CNI 1.1 does."""
    conf = {"cniVersion": version, "name": "tortie", "type": "tortie-cni", "socket": str(machine.run_dir / "cni.sock")}
    environment = {"CNI_COMMAND": command, "CNI_PATH": "/none", "CNI_IFNAME": "eth0", "CNI_CONTAINERID": "none"}
    environment |= arguments or {}
    done = subprocess.run(
        [str(machine.plugin("tortie-cni"))],
        input=json.dumps(conf | more).encode(),
        env=environment,
        capture_output=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None


def test_a_hundred_pods_ten_at_a_time_while_the_agent_is_killed_four_times(machine: Machine) -> None:
    names = [f"p{number}" for number in range(100)]
    machine.give_pods(*names)
    with ThreadPoolExecutor(10) as pool:
        sandboxes = list(pool.map(KillingAgents(machine, every=25).start, names))
        addresses = [address for found in pool.map(machine.runtime.addresses, sandboxes) for address in found]
    assert len(set(addresses)) == 200
    assert {str(ip_address(each).version) for each in addresses} == {"4", "6"}
    machine.eventually(lambda: judged(machine) == set(addresses), "rules for each address and no other")
    for left in machine.runtime.list():
        if not left.is_ready:
            machine.runtime.remove(left.id)
    assert machine.leased() == set(addresses)
    assert machine.reaches(machine.runtime.pid(sandboxes[0]), addresses[-1])
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(machine.runtime.remove, sandboxes))
    assert machine.leased() == set()
    assert "veth" not in machine.ip("link").replace("type veth", "")
    machine.eventually(lambda: not judged(machine), "an end of all rules for pods")


def test_no_pod_starts_while_the_agent_is_away_and_the_reason_is_said(machine: Machine) -> None:
    machine.give_pods("alone")
    machine.stop_agent()
    assert machine.runtime.network_ready()
    with pytest.raises(CriError, match=r"no tortie agent runs on this node.*look at the tortie pod of this node"):
        machine.runtime.run("alone")
    status, answer = plugin(machine, "STATUS")
    assert (status, answer["code"]) == (1, 50)
    assert "no tortie agent runs on this node" in answer["msg"]
    machine.start_agent()
    sandbox = run_as_kubelets_do(machine, "alone")
    assert len(machine.leased()) == 2
    machine.eventually(lambda: plugin(machine, "STATUS") == (0, None), "an agent that is ready")
    machine.runtime.remove(sandbox)
    assert machine.leased() == set()


def test_an_agent_that_hangs_holds_up_new_pods_and_lets_old_ones_go(machine: Machine) -> None:
    machine.give_pods("old", "new")
    old = run_as_kubelets_do(machine, "old")
    with machine.agent_hanging():
        machine.runtime.remove(old)
        assert machine.leased() == set()
        with pytest.raises(CriError, match=r"did not answer within 12s"):
            machine.runtime.run("new")
        assert machine.leased() == set()
    machine.runtime.remove(run_as_kubelets_do(machine, "new"))


def test_nothing_passes_before_a_pods_policy_is_in_the_kernel(machine: Machine) -> None:
    machine.give_policy("closed", FROM_FRONT)
    machine.give_pods("front", app="front")
    machine.give_pods("other", app="other")
    front, other = (run_as_kubelets_do(machine, name) for name in ("front", "other"))
    before = machine.leased()
    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(machine.runtime.run, "db")  # there is no object of it: the runtime is the faster one
        machine.eventually(lambda: len(machine.leased() - before) == 2, "addresses of the new pod")
        machine.eventually(lambda: machine.ip("route").count("10.42.0.") >= 3, "a route to the new pod")
        fresh = machine.leased() - before
        for address in fresh:
            assert not machine.reaches(machine.runtime.pid(front), address)
            assert not machine.reaches(machine.runtime.pid(other), address)
        for address in machine.runtime.addresses(front):
            assert not machine.reaches_from_netns(machine.newest_netns(), address)
        assert not adding.done()
        machine.give_pods("db", app="db")
        db = adding.result(60)
    assert set(machine.runtime.addresses(db)) == fresh
    for address in fresh:
        assert machine.reaches(machine.runtime.pid(front), address, 3)
        assert not machine.reaches(machine.runtime.pid(other), address)


def test_a_pod_that_nobody_knows_is_refused_with_the_reason(machine: Machine) -> None:
    with pytest.raises(CriError, match=r"pod shop/ghost gets no network yet, after 10 s: pod shop/ghost is not known"):
        machine.runtime.run("ghost")
    assert judged(machine) == set()


def test_pods_keep_their_network_while_agent_and_runtime_restart(machine: Machine) -> None:
    machine.give_policy("closed", FROM_FRONT)
    machine.give_pods("front", app="front")
    machine.give_pods("db", app="db")
    front, db = (run_as_kubelets_do(machine, name) for name in ("front", "db"))
    addresses = {*machine.runtime.addresses(front), *machine.runtime.addresses(db)}
    address = machine.runtime.addresses(db)[0]
    pid = machine.runtime.pid(front)
    machine.kill_agent()
    machine.kill_containerd()
    assert machine.reaches(pid, address)
    machine.start_containerd()
    machine.start_agent()
    machine.eventually(lambda: plugin(machine, "STATUS") == (0, None), "an agent that is ready")
    assert machine.reaches(pid, address)
    assert judged(machine) == addresses


def test_what_is_taken_away_while_the_agent_is_away_is_not_missed(machine: Machine) -> None:
    machine.give_pods("gone", "stays")
    gone, stays = (run_as_kubelets_do(machine, name) for name in ("gone", "stays"))
    machine.stop_agent()
    machine.runtime.remove(gone)
    machine.start_agent()
    left = set(machine.runtime.addresses(stays))
    machine.eventually(lambda: plugin(machine, "STATUS") == (0, None), "an agent that is ready")
    machine.eventually(lambda: judged(machine) == left, "rules for the pod that is left alone")
    assert machine.leased() == left


def test_gc_makes_the_agent_forget_whatever_the_runtime_forgot(machine: Machine) -> None:
    machine.give_pods("kept", "lost")
    kept, _ = (run_as_kubelets_do(machine, name) for name in ("kept", "lost"))
    both = judged(machine)
    assert plugin(machine, "GC", name="another", **{"cni.dev/valid-attachments": []}) == (0, None)
    assert plugin(machine, "STATUS") == (0, None)
    assert judged(machine) == both
    valid = [{"containerID": kept, "ifname": "eth0"}]
    assert plugin(machine, "GC", **{"cni.dev/valid-attachments": valid}) == (0, None)
    machine.eventually(lambda: judged(machine) == set(machine.runtime.addresses(kept)), "rules for the kept pod alone")


def test_check_finds_a_pod_as_it_was_added_or_mended_and_a_link_that_somebody_unmarked(machine: Machine) -> None:
    machine.give_pods("checked")
    sandbox = run_as_kubelets_do(machine, "checked")
    result = machine.cached_result(sandbox)

    def check() -> tuple[int, Any]:
        arguments = {"CNI_CONTAINERID": sandbox, "CNI_NETNS": "/none", "CNI_ARGS": _ARGUMENTS}
        return plugin(machine, "CHECK", "1.0.0", arguments, prevResult=result)

    assert check() == (0, None)
    for address in machine.runtime.addresses(sandbox):
        name = "to_pod6" if ":" in address else "to_pod4"
        machine.inside("nft", f"delete element inet tortie {name} {{ {address} }}")
    machine.eventually(lambda: set(machine.runtime.addresses(sandbox)) <= judged(machine, "to"), "the rules again")
    machine.eventually(lambda: check() == (0, None), "a pod that is whole")
    (link,) = (each["name"] for each in result["interfaces"] if not each.get("sandbox"))
    machine.ip("link", "set", link, "group", "0")
    status, answer = check()
    assert (status, f"link {link} is not in interface group 97" in answer["msg"]) == (1, True)


_ARGUMENTS = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=checked;K8S_POD_UID=uid-checked"


def test_after_a_power_failure_pods_start_anew_with_other_addresses(machine: Machine) -> None:
    machine.give_pods("db", "front")
    before = [run_as_kubelets_do(machine, name) for name in ("db", "front")]
    old = {address for each in before for address in machine.runtime.addresses(each)}
    machine.reboot()
    assert machine.runtime.network_ready()
    assert {each.is_ready for each in machine.runtime.list()} == {False}
    new = [run_as_kubelets_do(machine, name) for name in ("db", "front")]
    for each in before:
        machine.runtime.remove(each)
    addresses = {address for each in new for address in machine.runtime.addresses(each)}
    assert old.isdisjoint(addresses)
    assert machine.leased() == addresses
    machine.eventually(lambda: judged(machine) == addresses, "rules for the new addresses alone")
    assert machine.reaches(machine.runtime.pid(new[0]), machine.runtime.addresses(new[1])[0])


def test_addresses_of_a_sandbox_that_the_runtime_lost_are_freed_and_no_others(machine: Machine) -> None:
    machine.give_pods("crashed", "alive", "next")
    crashed, alive = (run_as_kubelets_do(machine, name) for name in ("crashed", "alive"))
    kept, lost = set(machine.runtime.addresses(alive)), set(machine.runtime.addresses(crashed))
    pid = machine.runtime.pid(alive)
    machine.crash(crashed)
    machine.lose_runtime_state()
    assert machine.runtime.list() == []
    machine.kill_agent()
    assert machine.leased() == kept | lost
    machine.start_agent(in_haste=True)
    machine.eventually(lambda: machine.leased() == kept, "an end of what nobody has any more")
    assert "cni.leaked_addresses_freed" in machine.log()
    machine.eventually(lambda: judged(machine) == kept, "rules for the pod that is left alone")
    fresh = run_as_kubelets_do(machine, "next")
    assert machine.leased() == kept | set(machine.runtime.addresses(fresh))
    for address in machine.runtime.addresses(fresh):
        assert machine.reaches(pid, address)
    machine.power_off()  # with what the runtime does not know
    machine.boot()
    machine.start_agent(in_haste=True)
    machine.eventually(lambda: not machine.leased(), "an end of what a power failure left")
    machine.kill_agent()


def test_a_node_given_other_pod_cidrs_gives_their_addresses_to_new_pods(machine: Machine) -> None:
    machine.give_pods("old", "new")
    old = run_as_kubelets_do(machine, "old")
    machine.give_node(("10.43.0.0/24", "fd43::/64"))
    try:
        machine.eventually(lambda: "10.43.0.0/24" in json.dumps(machine.conflist()), "the conflist to follow")
        new = ""

        def is_elsewhere() -> bool:  # containerd reads the file when it hears of it
            nonlocal new
            if new:
                machine.runtime.remove(new)
            new = run_as_kubelets_do(machine, "new")
            return machine.runtime.addresses(new)[0].startswith("10.43.0.")

        machine.eventually(is_elsewhere, "a pod in the new range")
        assert machine.reaches(machine.runtime.pid(new), machine.runtime.addresses(old)[0])
    finally:
        machine.give_node(machine.cidrs)
        machine.eventually(lambda: "10.42.0.0/24" in json.dumps(machine.conflist()), "the conflist to follow")
