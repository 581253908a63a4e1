"""Objects, files and surroundings that go bad under a running node: it says what and where, and all else goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import yaml

from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError, run
from agent.lab.wait import eventually
from agent.report import StatusReport
from inet.prefix import Family
from tests.lab import Apply
from tests.scenarios import nodes
from tests.scenarios.manifests import secret
from tests.scenarios.scenes import DAEMONS, ROUTERS
from tests.scenarios.stage import on

pytestmark = [pytest.mark.interop, on(ROUTERS)]


@asynccontextmanager
async def unharmed(lab: Lab, *excepted: str) -> AsyncIterator[None]:
    """Require that no session of the node ends meanwhile, but those with the excepted routers."""
    before = await nodes.peers(lab, "n1")
    touched = {str(lab.address(router, family)) for router in excepted for family in Family}
    yield
    after = await nodes.peers(lab, "n1")
    untouched = before.keys() - touched
    assert {it: (after[it].since, after[it].flaps) for it in untouched} == {
        it: (before[it].since, before[it].flaps) for it in untouched
    }


def write(lab: Lab, file: str, text: str) -> None:
    """Write a manifest as it stands, right or wrong."""
    (lab.manifests / file).write_text(text)


GOOD = yaml.safe_dump(dict(ROUTERS.variant("ext-bird-ipv4")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("peerASN", "peerAsn"), ["BGPPeer ext-bird-ipv4", "spec.peerAsn", "last good version"]),
        (GOOD.replace("65001", "4294967296"), ["BGPPeer ext-bird-ipv4", "spec.peerASN", "4294967296", "last good"]),
        (GOOD.replace("spec:", "spec: {"), ["ext-bird-ipv4.yaml", "stays in force"]),
        ("", ["ext-bird-ipv4.yaml", "is empty", "stays in force"]),
    ],
    ids=["unknown-field", "out-of-range", "malformed", "emptied"],
)
async def test_what_cannot_be_read_leaves_the_last_good_version_in_force(
    net: Lab, apply: Apply, text: str, said: list[str]
) -> None:
    async with unharmed(net, "ext-frr"):
        write(net, "ext-bird-ipv4.yaml", text)
        (problem,) = (await eventually(partial(nodes.status, net, "n1"), lambda report: report.problems)).problems
        assert all(words in problem for words in said), problem
        shown = await nodes.tortie(net, "n1", "status")
        assert problem in " ".join(shown.split())

        # Everything else goes on: another object changes, and takes effect.
        apply(net, "ext-frr-ipv4.yaml", ROUTERS.variant("ext-frr-ipv4", shutdown={}))
        other = str(net.address("ext-frr", Family.IPV4))
        await eventually(partial(nodes.peers, net, "n1"), lambda now: now[other].state == "Idle")

        write(net, "ext-bird-ipv4.yaml", GOOD)
        await eventually(partial(nodes.status, net, "n1"), lambda report: not report.problems)


@pytest.mark.parametrize("daemon", DAEMONS[:2])
async def test_a_session_waits_for_its_secret_and_says_so(net: Lab, apply: Apply, daemon: str) -> None:
    router = f"int-{daemon}"
    ours = {str(net.address(router, family)) for family in Family}
    (right,) = ROUTERS.manifests["secret.yaml"]
    keys: Mapping[str, str] = right["stringData"]
    reference = {"name": "elsewhere", "key": "tor"}

    async def reasons() -> set[tuple[str, str]]:
        return {(it.state, it.reason) for it in (await nodes.peers(net, "n1")).values() if it.peer in ours}

    async with unharmed(net, router):
        for family in Family:
            name = f"{router}-{family.label.lower()}"
            apply(net, f"{name}.yaml", ROUTERS.variant(name, passwordSecretRef=reference))
        await eventually(reasons, {("Idle", "Secret elsewhere does not exist")}.__eq__)
        apply(net, "elsewhere.yaml", secret("elsewhere", other="x"))
        await eventually(reasons, {("Idle", 'Secret elsewhere has no key "tor"')}.__eq__)
        apply(net, "elsewhere.yaml", secret("elsewhere", tor=""))
        await eventually(reasons, {("Idle", 'Secret elsewhere has an empty key "tor"')}.__eq__)
        assert "has an empty key" in await nodes.tortie(net, "n1", "peers")
        assert "The session stays down" in await nodes.tortie(net, "n1", "status")
        apply(net, "elsewhere.yaml", secret("elsewhere", tor=keys[daemon]))
        await eventually(reasons, {("Established", "")}.__eq__)


async def test_a_second_agent_on_the_node_is_refused(net: Lab, tmp_path: Path) -> None:
    words = ("agent", "--config", str(tmp_path), "--node", "n1", "--run-dir", str(tmp_path / "run"))
    running, before = nodes.agent_of(net, "n1"), await nodes.own_routes(net, "n1")
    async with unharmed(net):
        with pytest.raises(CommandError) as refused:
            await net.run("n1", nodes.TORTIE, *words)
        assert refused.value.status == 2
        said = f"another tortie agent runs on this node already (process {running.pid}); stop it first"
        assert said in " ".join(refused.value.text.split())
    assert running.is_alive
    assert before <= await nodes.own_routes(net, "n1")  # more may come, where a test before this one took some away


async def test_a_peer_added_while_the_disk_is_full_comes_up_when_there_is_room(net: Lab, apply: Apply) -> None:
    ours = {str(net.address("ext-frr", family)) for family in Family}
    names = [f"ext-frr-{family.label.lower()}" for family in Family]
    async with small_disk(net) as disk, unharmed(net, "ext-frr"):
        for name in names:
            apply(net, f"{name}.yaml")
        # Once the router has no session any more, the file without it is in force.
        await eventually(
            partial(net.sessions, "ext-frr"), lambda them: not any(it.is_established for it in them.values())
        )
        filler = disk / "filler"
        fill(filler)

        for name in names:
            apply(net, f"{name}.yaml", ROUTERS.variant(name))
        await eventually(partial(nodes.status, net, "n1"), is_impaired)
        assert "No space left on device" in " ".join((await nodes.tortie(net, "n1", "status")).split())
        # It may have read one of the two objects so far.
        await eventually(
            partial(nodes.peers, net, "n1"), lambda now: [now[it].state for it in ours if it in now] == ["Active"] * 2
        )

        filler.unlink()
        await eventually(partial(nodes.peers, net, "n1"), lambda now: {now[it].state for it in ours} == {"Established"})
        await eventually(partial(nodes.status, net, "n1"), lambda report: not is_impaired(report))


def is_impaired(report: StatusReport) -> bool:
    """Whether a node says that not all its sessions are as configured."""
    return any(it.type == "SpeakerImpaired" for it in report.conditions)


@asynccontextmanager
async def small_disk(lab: Lab) -> AsyncIterator[Path]:
    """Give the node's agent a small file system of its own for its run directory. Restarts it, before and after."""
    directory = lab.run_directory("n1")
    await lab.kill("n1")
    await run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)])
    try:
        await lab.start("n1")
        await eventually(
            partial(nodes.status, lab, "n1"), lambda it: it.sessions_established == ROUTERS.sessions["n1"], within_s=40
        )
        yield directory
    finally:
        await lab.kill("n1")
        await run(["umount", "--lazy", str(directory)])
        await lab.start("n1")


def fill(path: Path) -> None:
    """Write to a file until there is no more room."""
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return


MANY = 300


async def test_a_dead_peer_with_routes_unsent_does_not_keep_another_one_out(net: Lab, apply: Apply) -> None:
    dead, late = "ext-frr", "ext-gobgp"
    addresses = {router: str(net.address(router, Family.IPV6)) for router in (dead, late)}
    # A few kilobytes fill the connection to the dead peer.
    await net.run("n1", "sysctl", "-qw", "net.ipv4.tcp_wmem=4096 4096 4096")
    for router in (dead, late):
        apply(net, f"{router}-ipv6.yaml", ROUTERS.variant(f"{router}-ipv6", shutdown={}))

    async def states() -> list[str]:
        reports = await nodes.peers(net, "n1")
        return [reports[addresses[router]].state for router in (dead, late)]

    await eventually(states, ["Idle", "Idle"].__eq__)
    apply(net, f"{dead}-ipv6.yaml", ROUTERS.variant(f"{dead}-ipv6"))
    await eventually(states, ["Established", "Idle"].__eq__)

    await net.fail_link("n1", dead, silent=True)
    await net.daemon("ext-bird").ask("enable", "many")
    await eventually(
        partial(nodes.advertised, net, "n1"), lambda rows: sum(it.peer == addresses[dead] for it in rows) > MANY
    )
    queued = await eventually(partial(unsent, net, addresses[dead]))
    apply(net, f"{late}-ipv6.yaml", ROUTERS.variant(f"{late}-ipv6"))
    await eventually(states, ["Established", "Established"].__eq__)
    assert await unsent(net, addresses[dead]) >= queued
    assert (await nodes.status(net, "n1")).speaker_restarts == 0

    await net.heal_link("n1", dead)
    await net.daemon("ext-bird").ask("disable", "many")
    await eventually(
        partial(nodes.advertised, net, "n1"), lambda rows: sum(it.peer == addresses[dead] for it in rows) < MANY
    )


async def unsent(lab: Lab, address: str) -> int:
    """Return how many bytes wait in the node's connection to a peer."""
    lines = (await lab.run("n1", "ss", "-Htn", "state", "established", "dst", f"[{address}]")).splitlines()
    return sum(int(line.split()[1]) for line in lines)
