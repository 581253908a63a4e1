"""The real table: text through libnftables, elements through raw batches, both in one worker thread.

One thread, so that the event loop never waits for the kernel's lock on nf_tables, which another's large load may hold
for seconds. The thread bears a name of its own, by which the monitor knows whose transaction it hears of.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from felix.nfnetlink import Reader
from felix.nft import elements
from felix.nft.batch import BatchSocket, removals
from felix.nft.elements import Elements, Request
from felix.nft.library import Context, Library
from felix.nft.structure import read_structure
from felix.nft.table import TABLE, Batch, Definition, Refusal, SetShape, Structure

_T = TypeVar("_T")

STAGE: Final = f"{TABLE}_rehearsal"
_ASLEEP: Final = "flags dormant;"  # to be said each time: a table that is named without it wakes up
_GONE: Final = (f"table inet {STAGE} {{ {_ASLEEP} }}", f"delete table inet {STAGE}")  # whether it was there or not


class KernelRuleTable:
    """The table of the network namespace that this is made in. See `felix.nft.table.RuleTable`."""

    def __init__(self, library: Library) -> None:
        self.writer = f"nft{secrets.token_hex(6)}"
        """The name of the thread that writes, as events of its transactions bear it: 15 characters, all there is."""
        self._library = library
        self._context = library.open()
        self._batches = BatchSocket()
        self._reader = Reader()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nft")
        self._worker.submit(_rename_thread, self.writer).result()

    @property
    def port(self) -> int:
        """The port id on events of elements that we wrote, for the monitor to leave out."""
        return self._batches.port

    def close(self) -> None:
        """Let go of the kernel; the table stays. Waits for a transaction that is under way."""
        self._worker.shutdown()
        self._reader.close()
        self._batches.close()
        self._context.close()

    async def read(self) -> Structure | None:
        """Return what the kernel has, None if there is no such table. Raises OSError."""
        return await read_structure(self._reader, TABLE)

    async def read_elements(self, name: str, shape: SetShape) -> Elements:
        """Return the elements of a set that `read` told of, perhaps not all. Raises OSError, ENOENT if it is gone."""
        parts = await self._reader.dump(elements.dump_request(TABLE, name), elements.parse)
        return elements.assemble((row for part in parts for row in part), is_interval=shape.is_interval)

    async def rehearse(self, definition: Definition) -> Structure | list[Refusal]:
        """Return what the kernel would have after `define`: found out in a table that sleeps and is gone at once.

        A network namespace made for it would need CAP_SYS_ADMIN, and with that an agent could do anything on its node.
        """
        try:
            refusals = await self._in_worker(lambda: _rehearse(self._context, definition))
            found = None if refusals else await read_structure(self._reader, STAGE)
        finally:
            await self._in_worker(lambda: self._context.run("\n".join(_GONE)))
        return refusals or (replace(found, flags=0) if found else Structure({}, {}))

    async def define(self, definition: Definition) -> list[Refusal]:
        """Write structure in one transaction; return why it was refused."""
        return await self._in_worker(lambda: _define(self._context, definition))

    async def write(self, batch: Batch) -> list[Refusal]:
        """Write elements and remove what is unused in one transaction; return why it was refused."""
        requests = list(_requests(batch))
        return await self._in_worker(lambda: self._batches.write(requests)) if requests else []

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _define(context: Context, definition: Definition) -> list[Refusal]:
    return _run(context, list(_lines(definition, TABLE, "")))


def _rehearse(context: Context, definition: Definition) -> list[Refusal]:
    return _run(context, [*((line, "") for line in _GONE), *_lines(definition, STAGE, _ASLEEP)])


def _run(context: Context, lines: Sequence[tuple[str, str]]) -> list[Refusal]:
    """Run lines of text, each with the chain or set it is about, as one transaction."""
    try:
        errors = context.run("".join(f"{line}\n" for line, _ in lines))
    except OSError as error:
        return [Refusal("", error.strerror or str(error))]
    named = [("", ""), *lines]  # libnftables counts from 1
    return [Refusal(named[number][1], message, named[number][0].strip()) for number, message in errors]


def _rename_thread(name: str) -> None:
    Path("/proc/thread-self/comm").write_text(name, encoding="ascii")


def _requests(batch: Batch) -> Iterator[Request]:
    yield from elements.requests(TABLE, batch.elements)
    yield from removals(TABLE, batch.chains_removed, batch.sets_removed)


def _lines(definition: Definition, table: str, flags: str) -> Iterator[tuple[str, str]]:
    """Yield the text of a definition line by line, each with the chain or set it is about."""
    yield f"table inet {table} {{ {flags} }}", ""
    for name in definition.maps_emptied:
        yield f"flush map inet {table} {name}", name
    for name in (*definition.chains_emptied, *definition.chains_removed):
        yield f"flush chain inet {table} {name}", name
    for name in definition.chains_removed:
        yield f"delete chain inet {table} {name}", name
    for name in definition.sets_removed:
        yield f"delete {'map' if name in definition.maps_emptied else 'set'} inet {table} {name}", name
    yield f"table inet {table} {{ {flags}", ""
    for name, each in definition.sets.items():
        yield from _block("map" if each.is_map else "set", name, each.text)
    for name, text in definition.chains.items():
        yield from _block("chain", name, text)
    yield "}", ""


def _block(kind: str, name: str, text: str) -> Iterator[tuple[str, str]]:
    yield f"{kind} {name} {{", name
    for line in text.splitlines():
        yield line, name
    yield "}", name
