from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab.namespaces import CommandError, inside, run


async def test_a_command_gives_what_it_writes() -> None:
    assert await run(["cat"], stdin="text") == "text"


async def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(CommandError, match="exit status 3: no way") as caught:
        await run(["sh", "-c", "echo no way >&2; exit 3"])
    assert caught.value.status == 3


def test_mounts_are_made_before_the_command_takes_over() -> None:
    argv = inside("tl-x-n1", ["ping", "b1"], {Path("/etc/hosts"): Path("/run/h"), Path("/a"): Path("/b")})
    assert argv[:6] == ["ip", "netns", "exec", "tl-x-n1", "sh", "-c"]
    assert argv[6] == 'mount --bind "${2}" "${1}" && mount --bind "${4}" "${3}" && shift 4 && exec "$@"'
    assert argv[7:] == ["sh", "/etc/hosts", "/run/h", "/a", "/b", "ping", "b1"]


def test_without_mounts_there_is_no_shell() -> None:
    assert inside("tl-x-n1", ["true"]) == ["ip", "netns", "exec", "tl-x-n1", "true"]
