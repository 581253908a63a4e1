"""What must not open a hole: flushed rulesets, killed and restarted agents, changes under way."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

from agent.cli.client import RefusedError, UnreachableError, ask
from agent.lab.lab import Lab, LabError
from agent.lab.wait import eventually
from agent.report import StatusReport
from felix.namespaces import entered
from felix.netlink import NetlinkSocket, attributes
from felix.nfnetlink import FAMILY_HEADER, NETLINK_NETFILTER, NfFamily, Subsystem, read_be32, request
from tests.lab import Apply
from tests.scenarios_policy.connections import connects, is_kept_out, knocking, listening
from tests.scenarios_policy.policies import DB_IN, from_app, network_policy
from tests.scenarios_policy.test_packets import denied

pytestmark = pytest.mark.interop

FOREIGN = "table ip theirs { chain forward { type filter hook forward priority 5; ip daddr 192.0.2.1 counter drop; }; }"


@contextlib.asynccontextmanager
async def nft_events(lab: Lab, node: str) -> AsyncIterator[list[str]]:
    """Collect what `nft monitor` says meanwhile, of whatever table: lines, at the end."""
    lines: list[str] = []
    command = lab.command(node, ["nft", "monitor"])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    for mark in ("begin", "end"):
        # Marks are made until nft reports one: so it listens, and once it reports the other, nothing is to come.
        if mark == "end":
            yield lines
        seen = False
        while not seen:
            await lab.run(node, "nft", f"add table ip mark_{mark}; delete table ip mark_{mark}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    while not seen:
                        said = (await process.stdout.readline()).decode()
                        seen = f"mark_{mark}" in said
                        is_of_marks = "mark_" in said or said.endswith("(nft)\n")  # of whom a generation is
                        lines += [] if is_of_marks or mark == "begin" else [said]
    process.terminate()
    await process.communicate()


async def ready(lab: Lab, node: str) -> None:
    """Wait until an agent says that its policy is in the kernel."""

    def look() -> bool:
        with contextlib.suppress(UnreachableError, RefusedError):
            return ask(lab.run_directory(node) / "agent.sock", "status", StatusReport).policy.in_kernel
        return False

    await eventually(lambda: asyncio.to_thread(look), within_s=20, what="policy in the kernel")


async def test_a_flushed_ruleset_is_restored_at_once_and_foreign_tables_are_left_alone(net: Lab, apply: Apply) -> None:
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        before = await net.run("n2", "nft", "list", "table", "inet", "tortie")
        async with repaired_when_told(net, "n2"):
            await net.run("n2", "nft", "flush", "ruleset")
            await net.run("n2", "nft", FOREIGN)
            foreign = await net.run("n2", "nft", "-a", "list", "table", "ip", "theirs")
        assert await is_kept_out(net, "front", "db")
        assert await connects(net, "api", "db")
        async with repaired_when_told(net, "n2"):
            await net.run("n2", "nft", "delete", "table", "inet", "tortie")
        assert await is_kept_out(net, "front", "db")
        after = await net.run("n2", "nft", "list", "table", "inet", "tortie")
        assert _without_counters(after) == _without_counters(before)
        assert await net.run("n2", "nft", "-a", "list", "table", "ip", "theirs") == foreign


@contextlib.asynccontextmanager
async def repaired_when_told(lab: Lab, node: str) -> AsyncIterator[None]:
    """Have the agent repair its table, because the kernel told it so, not when it looks by itself every few minutes."""
    log = lab.state.log(node, "agent")
    begun = log.stat().st_size

    def events() -> list[str]:
        lines = log.read_text()[begun:].splitlines(keepends=True)
        return [json.loads(line)["event"] for line in lines if line.startswith("{") and line.endswith("\n")]

    yield
    found = await eventually(events, lambda events: "policy.repaired" in events, what="the table back")
    assert "policy.table_event" in found[: found.index("policy.repaired")], found


async def test_an_agent_that_restarts_writes_nothing(net_by_rights: Lab, apply: Apply) -> None:
    net = net_by_rights
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        for number in (signal.SIGTERM, signal.SIGKILL):
            async with nft_events(net, "n2") as events:
                await net.restart("n2", number)
                await ready(net, "n2")
            assert events == []
        assert await connects(net, "api", "db")


KILLS = 18  # each of MOMENTS three times
MOMENTS: tuple[str | int, ...] = ("started", 1, "ready", 2, "listening", 3)


@pytest.mark.timeout(1200)
async def test_not_one_denied_connection_gets_through_while_the_agent_is_killed_again_and_again(
    net: Lab, apply: Apply
) -> None:
    """Killed at each of MOMENTS in turn: a number is that of transactions it has written since it was started.

    The rules of the pod change all the while, what they deny stays the same.
    """

    def version(number: int) -> dict[str, Any]:
        return network_policy(
            "db-in", "db", ingress=[{**from_app("api"), "ports": [{"port": 5432}, {"port": 6000 + number}]}]
        )

    apply(net, "db.yaml", version(0))
    reached: Counter[str | int] = Counter()
    with listening(net, "db"), generations(net, "n2") as generation:
        await denied(net, "front", "db")
        await net.kill("n2")
        async with knocking(net, "front", "db") as knocks:
            for number, moment in zip(range(1, KILLS + 1), itertools.cycle(MOMENTS), strict=False):
                before = generation()
                starting = asyncio.create_task(net.start("n2", recover=True))
                await eventually(lambda: net.is_running("n2"), every_s=0.001, within_s=30, what="a process")
                if moment != "started":
                    await starting
                apply(net, "db.yaml", version(number))
                if isinstance(moment, int):
                    wanted = partial(int.__le__, before + moment)
                    await eventually(generation, wanted, every_s=0.001, within_s=30, what="transactions")
                elif moment == "ready":
                    await ready(net, "n2")
                    await reaches(net, "api", "db")
                await net.kill("n2")
                with contextlib.suppress(LabError):  # it did not live to say that it listens
                    await starting
                reached[moment] += 1
        await net.start("n2", recover=True)
        await ready(net, "n2")
        await reaches(net, "api", "db")
        assert set(reached) == set(MOMENTS)
        assert knocks.tries > 100 * KILLS
        assert knocks.successes == 0


async def reaches(lab: Lab, source: str, destination: str) -> None:
    """Wait until a pod gets connections to another, whose node may have been without an agent for long."""
    await eventually(lambda: connects(lab, source, destination), within_s=90, what=f"{source} reaches {destination}")


@contextlib.contextmanager
def generations(lab: Lab, node: str) -> Iterator[Callable[[], int]]:
    """Give what says how many transactions a node's nf_tables has seen (NFT_MSG_GETGEN)."""
    with entered(lab.plan.machines[node].namespace):
        netlink = NetlinkSocket(NETLINK_NETFILTER)

    def generation() -> int:
        answer = netlink.ask(request(Subsystem.NFTABLES, 16, 0, NfFamily.UNSPECIFIED))
        return read_be32(dict(attributes(answer, FAMILY_HEADER.size, len(answer)))[1])

    with contextlib.closing(netlink):
        yield generation


async def test_an_agent_killed_within_a_large_change_leaves_the_old_rules_or_the_new_ones(
    net: Lab, apply: Apply
) -> None:
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        async with knocking(net, "front", "db") as knocks:
            for delay_s in (0.15, 0.3, 0.5):
                ports = [{"port": 1000 + number} for number in range(200)]
                many = [
                    network_policy(
                        f"many-{number}-{delay_s}", "db", ingress=[{**from_app("api"), "ports": ports[number:]}]
                    )
                    for number in range(100)
                ]
                apply(net, "many.yaml", *many)
                await asyncio.sleep(delay_s)
                await net.kill("n2")
                await reaches(net, "api", "db")
                assert await is_kept_out(net, "front", "db")
                await net.start("n2", recover=True)
                await ready(net, "n2")
        assert knocks.successes == 0
        await reaches(net, "api", "db")


def _without_counters(text: str) -> list[str]:
    """Return the lines of a table in no order, without what packets change: counts, and sources seen."""
    words = [line.split() for line in re.sub(r"\n\t*elements = {[^}]* expires [^}]*}", "", text).splitlines()]
    return sorted(" ".join(word for word in line if not word.isdecimal()) for line in words)
