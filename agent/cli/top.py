"""tortie top: which pods of a node send and receive most, now."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from agent.cli.client import RefusedError, UnreachableError, ask, socket_path
from agent.cli.everywhere import Survey, everywhere
from agent.cli.output import Format, OutputOption, SocketOption, console, fail, print_json, print_table
from agent.report import PodRate, PodTraffic

_UNITS: Final = ("", "k", "M", "G", "T")
_NEXT_UNIT, _NO_FRACTION = 999.5, 99.95


def rates(before: Sequence[PodTraffic], after: Sequence[PodTraffic]) -> list[PodRate]:
    """Return what each pod does in a second, the busiest first. Pods that came in between are of the next time."""
    known = {each.pod: each for each in before}
    found = []
    for now in after:
        then = known.get(now.pod)
        seconds = now.time_seconds - then.time_seconds if then else 0.0
        if then is None or seconds <= 0 or now.sent_bytes < then.sent_bytes:  # another pod of the same name
            continue
        found.append(
            PodRate(
                pod=now.pod,
                sent_bits=(now.sent_bytes - then.sent_bytes) * 8 / seconds,
                received_bits=(now.received_bytes - then.received_bytes) * 8 / seconds,
                sent_packets=(now.sent_packets - then.sent_packets) / seconds,
                received_packets=(now.received_packets - then.received_packets) / seconds,
                dropped=now.dropped,
            )
        )
    return sorted(found, key=lambda each: (-(each.sent_bits + each.received_bits), each.pod))


def _show(answers: Sequence[tuple[str, list[PodRate]]]) -> None:
    rows = sorted(
        ((node, each) for node, its in answers for each in its),
        key=lambda row: -(row[1].sent_bits + row[1].received_bits),
    )
    has_nodes = any(node for node, _ in rows)
    columns = ["Pod", "Sent bit/s", "Received bit/s", "Sent packets/s", "Received packets/s", "Dropped"]
    print_table(
        ["Node", *columns] if has_nodes else columns,
        [
            [
                *([node] if has_nodes else []),
                each.pod,
                *(
                    quantity(value)
                    for value in (each.sent_bits, each.received_bits, each.sent_packets, each.received_packets)
                ),
                str(each.dropped),
            ]
            for node, each in rows
        ],
        right=columns[1:],
    )


@everywhere(Survey(list[PodRate], _show))
def top(
    interval_s: Annotated[
        float, typer.Option("--interval", metavar="SECONDS", min=0.1, max=60, help="What rates are measured over.")
    ] = 2,
    is_once: Annotated[bool, typer.Option("--once", help="Measure once, also on a terminal.")] = False,
    output: OutputOption = Format.TABLE,
    socket: SocketOption = None,
) -> None:
    """Show which pods of this node send and receive most, measured anew until ^C; elsewhere than on a terminal once.

    Example: tortie top --interval 5
    """
    path = socket_path(socket)
    try:
        before = ask(path, "pods", list[PodTraffic])
        while True:
            time.sleep(interval_s)
            after = ask(path, "pods", list[PodTraffic])
            found, before = rates(before, after), after
            if output is Format.JSON:
                print_json(found)
                return
            if sys.stdout.isatty() and not is_once:
                console().clear()
            _show([("", found)])
            if is_once or not sys.stdout.isatty():
                return
    except (UnreachableError, RefusedError) as error:
        fail(str(error))


def quantity(value: float) -> str:
    """Return 12, 3.4k, 1.2G: at most three digits that matter."""
    unit = 0
    while value >= _NEXT_UNIT and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.1f}{_UNITS[unit]}" if unit and value < _NO_FRACTION else f"{value:.0f}{_UNITS[unit]}"
