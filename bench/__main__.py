"""`python -m bench`: run benchmarks, print their figures, keep them as JSON."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console

from bench import (
    arrival,
    cni,
    encapsulation,
    failover,
    idle,
    kernel_writer,
    kubernetes,
    nat,
    nodes,
    pods,
    policy,
    policy_flood,
    policy_packets,
    report,
    restart,
)
from bench.measure import Results, Settings

BENCHMARKS: Final = (
    arrival,
    failover,
    kernel_writer,
    idle,
    restart,
    cni,
    pods,
    policy,
    policy_packets,
    policy_flood,
    encapsulation,
    nat,
    nodes,
    kubernetes,
)
_RESULTS: Final = Path(__file__).parent / "results"
_PROGRAMS: Final = {"ip": "iproute2", "bird": "bird2", "gobgpd": "gobgpd"}


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 0 if all of it ran, whatever the figures, 2 if it cannot run here."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    options = _parse(arguments)
    if options.list:
        for benchmark in BENCHMARKS:
            console.print(f"{benchmark.NAME:15} {benchmark.TITLE}", highlight=False)
        return 0
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        console.print(
            f"needs {', '.join(['root', *missing])}" if missing else "needs root: it makes network namespaces"
        )
        return 2
    signal.signal(signal.SIGTERM, _end)
    settings = Settings(1 if options.quick else options.rounds, options.quick)
    path = options.json or _RESULTS / f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}.json"
    found: dict[str, Results] = {}
    for benchmark in BENCHMARKS:
        if options.names and benchmark.NAME not in options.names:
            continue
        results = found[benchmark.NAME] = Results()
        for part in benchmark.run(settings):
            results.add(part)
            for each in part.measurements:
                print(f"{each.case} · {each.subject} · {each.quantity}: {each.median:.6g} {each.unit}", file=sys.stderr)
        report.print_results(console, benchmark.NAME, benchmark.TITLE, results)
        report.write_json(path, found)
    for line in report.missed(found):
        console.print(f"[red]missed[/] {line}", highlight=False)
    console.print(f"every round's values: {path}", highlight=False)
    return 1 if any(results.failures for results in found.values()) else 0


def _end(number: int, _frame: object) -> None:
    """End as by an exception, so that everything made is taken away."""
    sys.exit(128 + number)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Speed and memory beside BIRD and GoBGP.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which benchmarks; all by default")
    parser.add_argument("--list", action="store_true", help="say which there are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the JSON goes; bench/results/TIME.json")
    parser.add_argument("--quick", action="store_true", help="one small round, to see that everything runs")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="take medians of so many (3)")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - {benchmark.NAME for benchmark in BENCHMARKS}
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; --list says which there are")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
