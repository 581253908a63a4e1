"""The real table: text through libnftables, elements through raw batches, both in one worker thread.

One thread, so that the event loop never waits for the kernel's lock on nf_tables, which another's large load may hold
for seconds. The thread bears a name of its own, by which the monitor knows whose transaction it hears of.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from felix.nfnetlink import Reader
from felix.nft import elements
from felix.nft.batch import BatchSocket, removals
from felix.nft.elements import Elements, Request
from felix.nft.library import Library, TextError
from felix.nft.structure import chain_shapes, compiled_rules, read_structure
from felix.nft.table import TABLE, Batch, Definition, Refusal, SetShape, Structure
from felix.nft.texts import header_of, shape_of

_T = TypeVar("_T")

_STAGE: Final = f"{TABLE}_rehearsal"  # a name that no table has
_Lines = list[tuple[str, str]]  # lines of text, each with the chain or set it is about


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
        return await read_structure(self._reader, TABLE, self._library.rule_words)

    async def read_elements(self, name: str, shape: SetShape) -> Elements:
        """Return the elements of a set that `read` told of, perhaps not all. Raises OSError, ENOENT if it is gone."""
        parts = await self._reader.dump(elements.dump_request(TABLE, name), elements.parse)
        return elements.assemble((row for part in parts for row in part), is_interval=shape.is_interval)

    async def rehearse(self, definition: Definition) -> Structure | list[Refusal]:
        """Return what the kernel would have after `define`: compiled, checked by the kernel, and dropped by it."""
        lines = list(_lines(definition, _STAGE))
        errors, output = await self._in_worker(lambda: self._context.compile(_text(lines)))
        if errors:
            return _refusals(errors, lines)
        headers = {name: header_of(text) for name, text in definition.chains.items()}
        sets = {name: shape_of(text) for name, text in definition.sets.items()}
        return Structure(chain_shapes(headers, compiled_rules(output, _STAGE)), sets)

    async def define(self, definition: Definition) -> list[Refusal]:
        """Write structure in one transaction; return why it was refused."""
        lines = list(_lines(definition, TABLE))
        try:
            errors = await self._in_worker(lambda: self._context.run(_text(lines)))
        except OSError as error:
            return [Refusal("", error.strerror or str(error))]
        return _refusals(errors, lines)

    async def write(self, batch: Batch) -> list[Refusal]:
        """Write elements and remove what is unused in one transaction; return why it was refused."""
        requests = list(_requests(batch))
        return await self._in_worker(lambda: self._batches.write(requests)) if requests else []

    async def _in_worker(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)


def _text(lines: _Lines) -> str:
    return "".join(f"{line}\n" for line, _ in lines)


def _refusals(errors: Sequence[TextError], lines: _Lines) -> list[Refusal]:
    named = [("", ""), *lines]  # libnftables counts from 1
    return [Refusal(named[number][1], message, named[number][0].strip()) for number, message in errors]


def _rename_thread(name: str) -> None:
    Path("/proc/thread-self/comm").write_text(name, encoding="ascii")


def _requests(batch: Batch) -> Iterator[Request]:
    yield from elements.requests(TABLE, batch.elements)
    yield from removals(TABLE, batch.chains_removed, batch.sets_removed)


def _lines(definition: Definition, table: str) -> Iterator[tuple[str, str]]:
    """Yield the text of a definition line by line, each with the chain or set it is about."""
    yield f"table inet {table}", ""
    for name in definition.maps_emptied:
        yield f"flush map inet {table} {name}", name
    for name in (*definition.chains_emptied, *definition.chains_removed):
        yield f"flush chain inet {table} {name}", name
    for name in definition.chains_removed:
        yield f"delete chain inet {table} {name}", name
    for name in definition.sets_removed:
        yield f"delete {'map' if name in definition.maps_emptied else 'set'} inet {table} {name}", name
    yield f"table inet {table} {{", ""
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
