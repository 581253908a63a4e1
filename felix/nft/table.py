"""The one table that is ours, `inet tortie`, behind one Protocol: transactions in, what the kernel has out.

Structure (chains with their rules, sets without elements) is text. To compare it with what the kernel has, the text is
rehearsed: compiled and shown to the kernel, which checks it and keeps nothing. Elements are values.
`felix.nft.kerneltable` is the real table, `felix.nft.faketable` two dictionaries that fail on demand; one contract
holds for both (tests/felix/nft/test_table.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from felix.nft.elements import ElementChange, Elements

TABLE: Final = "tortie"

INTERVAL, MAP, TIMEOUT, DYNAMIC = 0x4, 0x8, 0x10, 0x20  # NFT_SET_INTERVAL, _MAP, _TIMEOUT, _EVAL


class SetText(NamedTuple):
    """A set or map without its elements: the lines that stand between its braces."""

    text: str
    is_map: bool = False


@dataclass(frozen=True, slots=True)
class Definition:
    """Structure to be written in one transaction, in this order: empty, remove, define.

    What is removed may be defined again: that is how a chain gets another hook, or a set another type. Defining a
    chain that exists adds rules to it. Texts are what stands between the braces; they have no anonymous sets, which
    take the kernel quadratic time to load, and are named anew each time.
    """

    maps_emptied: Collection[str] = ()  # among them every map that is removed
    chains_emptied: Collection[str] = ()  # of their rules
    chains_removed: Collection[str] = ()  # with their rules
    sets_removed: Collection[str] = ()  # sets and maps
    sets: Mapping[str, SetText] = field(default_factory=dict)
    chains: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """Element changes and removals to be written in one transaction, in this order: delete, add, remove."""

    elements: Sequence[ElementChange] = ()
    chains_removed: Collection[str] = ()
    sets_removed: Collection[str] = ()

    def __bool__(self) -> bool:
        return bool(self.elements or self.chains_removed or self.sets_removed)


class ChainShape(NamedTuple):
    """What a chain's text was made into. Good for comparing only."""

    header: str  # hook, priority, policy, comment
    rules: bytes  # without counters


class SetShape(NamedTuple):
    """What a set's text was made into. Good for comparing, and for reading its elements."""

    flags: int  # NFT_SET_*
    header: str  # types, comment

    @property
    def is_map(self) -> bool:
        """Whether elements have values."""
        return bool(self.flags & MAP)

    @property
    def is_interval(self) -> bool:
        """Whether elements are intervals."""
        return bool(self.flags & INTERVAL)

    @property
    def is_dynamic(self) -> bool:
        """Whether its elements are the kernel's affair: rules add them."""
        return bool(self.flags & DYNAMIC)


@dataclass(frozen=True, slots=True)
class Structure:
    """The chains and sets of a table."""

    chains: Mapping[str, ChainShape]
    sets: Mapping[str, SetShape]
    flags: int = 0  # NFT_TABLE_F_*: 1 is dormant


class Refusal(NamedTuple):
    """Why a transaction was refused, as a whole: nothing of it took effect.

    `subject` is the chain or set at fault, empty where it is the transaction as a whole. `line` is the line of its
    text or the element that is refused. The words are libnftables' or the kernel's.
    """

    subject: str
    message: str
    line: str = ""
    change: ElementChange | None = None

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.subject, self.line, self.message)))


class RuleTable(Protocol):
    """The kernel's table `inet tortie`. One task at a time may use it."""

    async def read(self) -> Structure | None:
        """Return what the kernel has, None if there is no such table. Raises OSError."""

    async def read_elements(self, name: str, shape: SetShape) -> Elements:
        """Return the elements of a set that `read` told of. Raises OSError, ENOENT if it is gone.

        Of a large set that has just grown some may be left out.
        """

    async def rehearse(self, definition: Definition) -> Structure | list[Refusal]:
        """Return what the kernel would have after `define` on a system without the table.

        Nothing is written, and nobody who listens to the kernel hears of it. Raises OSError.
        """

    async def define(self, definition: Definition) -> list[Refusal]:
        """Write structure in one transaction; return why it was refused. The table is made where it is missing."""

    async def write(self, batch: Batch) -> list[Refusal]:
        """Write elements and remove what is unused in one transaction; return why it was refused."""

    def close(self) -> None:
        """Let go of the kernel; the table stays."""
