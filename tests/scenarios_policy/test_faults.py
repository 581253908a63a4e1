"""What must not open a hole: flushed rulesets, killed and restarted agents, changes under way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import pytest

from agent.lab.lab import Lab
from agent.lab.wait import eventually
from agent.report import StatusReport
from tests.lab import Apply
from tests.scenarios_policy.connections import connects, is_kept_out, knocking, listening
from tests.scenarios_policy.policies import DB_IN, from_app, network_policy
from tests.scenarios_policy.test_packets import denied

pytestmark = pytest.mark.interop

FOREIGN = "table ip theirs { chain forward { type filter hook forward priority 5; ip daddr 192.0.2.1 counter drop; }; }"


@contextlib.asynccontextmanager
async def nft_events(lab: Lab, node: str) -> AsyncIterator[list[str]]:
    """Collect what `nft monitor` says of our table meanwhile: lines, at the end."""
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
                        lines += [said] if said.split()[2:4] == ["inet", "tortie"] or " inet tortie " in said else []
    process.terminate()
    await process.communicate()


async def ready(lab: Lab, node: str) -> None:
    """Wait until an agent says that its policy is in the kernel."""
    from agent.cli.client import RefusedError, UnreachableError, ask  # noqa: PLC0415

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
        await net.run("n2", "nft", "flush", "ruleset")
        await net.run("n2", "nft", FOREIGN)
        foreign = await net.run("n2", "nft", "-a", "list", "table", "ip", "theirs")
        await eventually(lambda: is_kept_out(net, "front", "db"), within_s=2, what="the table back")
        await ready(net, "n2")
        assert await connects(net, "api", "db")
        await net.run("n2", "nft", "delete", "table", "inet", "tortie")
        await eventually(lambda: is_kept_out(net, "front", "db"), within_s=2, what="the table back again")
        await ready(net, "n2")
        after = await net.run("n2", "nft", "list", "table", "inet", "tortie")
        assert _without_counters(after) == _without_counters(before)
        assert await net.run("n2", "nft", "-a", "list", "table", "ip", "theirs") == foreign


async def test_an_agent_that_restarts_writes_nothing(net: Lab, apply: Apply) -> None:
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        for number in (signal.SIGTERM, signal.SIGKILL):
            async with nft_events(net, "n2") as events:
                await net.restart("n2", number)
                await ready(net, "n2")
            assert events == []
        assert await connects(net, "api", "db")


async def test_not_one_denied_connection_gets_through_while_the_agent_is_killed_again_and_again(
    net: Lab, apply: Apply
) -> None:
    apply(net, "db.yaml", DB_IN)
    with listening(net, "db"):
        await denied(net, "front", "db")
        async with knocking(net, "front", "db") as knocks:
            for round_ in range(6):
                await net.restart("n2", signal.SIGKILL)
                if round_ % 2:
                    await ready(net, "n2")
        assert knocks.tries > 200
        assert knocks.successes == 0


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
                assert await connects(net, "api", "db")
                assert await is_kept_out(net, "front", "db")
                await net.start("n2", recover=True)
                await ready(net, "n2")
        assert knocks.successes == 0
        assert await connects(net, "api", "db")


def _without_counters(text: str) -> list[str]:
    """Return the lines of a table in no order, without what packets change."""
    words = [line.split() for line in text.splitlines()]
    return sorted(" ".join(word for word in line if not word.isdecimal()) for line in words)
