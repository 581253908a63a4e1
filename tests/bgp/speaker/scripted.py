"""ExaBGP, scripted: plays the process and the bridge from the other end of the speaker's socket. And its sessions."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from bgp.path import AsPath, Attributes
from bgp.speaker import Session
from bgp.speaker.exabgp import ExaBGPSpeaker
from inet.prefix import Family, Prefix, parse_address
from tests.bgp.speaker.lab import until

V4 = Session(
    peer=IPv4Address("10.0.0.2"),
    local_address=IPv4Address("10.0.0.1"),
    local_asn=65001,
    peer_asn=65002,
    router_id=IPv4Address("10.0.0.1"),
    families=frozenset(Family),
)
V6 = dataclasses.replace(V4, peer=IPv6Address("fd00::2"), local_address=IPv6Address("fd00::1"))
OTHER = dataclasses.replace(V4, peer=IPv4Address("10.0.0.3"))
PREFIXES = {Family.IPV4: Prefix.parse("10.42.0.0/24"), Family.IPV6: Prefix.parse("fd42::/64")}


class ExaBGP:
    """One life of the process: reads the file when told to, acknowledges what it is told, keeps what that was."""

    def __init__(self, file: Path, stage: Stage) -> None:
        self.pid = 4711 + len(stage.lives)
        self.listen_failures = ""
        self.last_words = stage.last_words
        self.told: list[str] = []
        self.neighbours: list[dict[str, Any]] = []
        self.is_deaf = False
        self.ended = asyncio.get_running_loop().create_future()
        self._file = file
        self._stage = stage
        self._reloaded: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())
        self.writer: asyncio.StreamWriter | None = None

    @property
    def has_ended(self) -> bool:
        return self.ended.done()

    def expect_reload(self) -> asyncio.Future[bool]:
        self._reloaded = asyncio.get_running_loop().create_future()
        return self._reloaded

    async def wait(self) -> str:
        return str(await asyncio.shield(self.ended))

    async def kill(self, after_s: float = 0.0) -> None:
        if after_s:
            await asyncio.wait((self.ended,), timeout=after_s)
        self.end("killed")
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
        if self.writer is not None:
            self.writer.close()

    def says(self, kind: str, peer: Session, **body: Any) -> None:
        """Let a peer be heard of."""
        assert self.writer is not None
        ends = {"local": str(peer.local_address), "peer": str(peer.peer)}
        message = {"exabgp": "5.0.0", "type": kind, "neighbor": {"address": ends, **body}}
        self.writer.write(b'{ "exabgp"' + json.dumps(message)[len('{"exabgp"') :].encode() + b"\n")

    def up(self, peer: Session) -> None:
        families = {"1": {"families": ["ipv4/unicast", "ipv6/unicast"]}}
        self.says("open", peer, open={"hold_time": 9, "router_id": "10.0.0.9", "capabilities": families})
        self.says("state", peer, state="up")

    async def _run(self) -> None:
        if self._stage.never_calls:
            return
        socket = self._file.with_name("exabgp.sock")
        reader, self.writer = await asyncio.open_unix_connection(socket)
        self._stage.begins(self)
        while line := (await reader.readline()).decode("ascii").strip():
            self.told.append(line)
            if not self.is_deaf:
                self.writer.write("".join(f"{said}\n" for said in self._answer(line)).encode())
        self.writer.close()

    def _answer(self, line: str) -> list[str]:
        if line == "reload":
            is_taken = self._stage.takes_over()
            if is_taken:
                self.neighbours = neighbours_of(self._file.read_text())
            self._reloaded.set_result(is_taken)
        if line == "show neighbor json":
            return [json.dumps(self._stage.shows(self.neighbours)), "done"]
        if line == "shutdown":
            asyncio.get_running_loop().call_soon(self.end, "shut down")
        return ["error" if any(word in line for word in self._stage.refuses) else "done"]


class Stage:
    """What the lives of the process are like, and what became of them."""

    def __init__(self) -> None:
        self.lives: list[ExaBGP] = []
        self.last_words = ""
        self.never_calls = False
        self.begins: Callable[[ExaBGP], None] = lambda _life: None
        self.takes_over: Callable[[], bool] = lambda: True
        self.shows: Callable[[list[dict[str, Any]]], object] = lambda neighbours: neighbours
        self.refuses: set[str] = set()
        self.validated: list[str] = []
        self.invalid: set[str] = set()  # texts that the validator does not like

    @property
    def life(self) -> ExaBGP:
        return self.lives[-1]

    async def start(self, file: Path) -> ExaBGP:
        self.lives.append(ExaBGP(file, self))
        return self.lives[-1]

    async def validate(self, file: Path) -> str:
        self.validated.append(text_of(file))
        return next((f"cannot have {word}" for word in self.invalid if word in self.validated[-1]), "")


def text_of(file: Path) -> str:
    return file.read_text()


def neighbours_of(text: str) -> list[dict[str, Any]]:
    """Return what ExaBGP shows of a file's sessions."""
    found = []
    for block in text.split("neighbor ")[1:]:
        said = dict(re.findall(r"^  ([a-z-]+) (\S+);$", block, re.MULTILINE))
        local = {"address": said["local-address"], "as": int(said["local-as"]), "id": said["router-id"]}
        local["hold"] = int(said["hold-time"])
        found.append({"peer": {"address": block.split()[0], "as": int(said["peer-as"])}, "local": local})
    return found


def files_in(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}


async def configured(made: ExaBGPSpeaker, *sessions: Session) -> None:
    made.configure({each.peer: each for each in sessions})
    await until(lambda: not made.health().sessions_out_of_sync, "the sessions are taken over")


async def told(stage: Stage, *words: str) -> str:
    """Wait until a command with these words was sent, and return it."""

    def found() -> list[str]:
        return [line for line in stage.life.told if all(word in line for word in words)]

    await until(found, f"{words} in {stage.life.told}")
    return found()[0]


def path(family: Family) -> Attributes:
    return Attributes(
        next_hop=parse_address("10.0.0.1" if family is Family.IPV4 else "fd00::1"), as_path=AsPath((65001,))
    )
