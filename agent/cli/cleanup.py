"""tortie cleanup: the end of Tortie on a node, and what other plugins have left."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.output import FOUND, OK, Format, OutputOption, fail, print_json, print_table

if TYPE_CHECKING:
    from agent.cleanup import Item


def cleanup(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and change nothing.")] = False,
    foreign: Annotated[
        str, typer.Option("--foreign", help="Show instead what another plugin has left: its name, or all.")
    ] = "",
    run_dir: Annotated[Path, typer.Option("--run-dir", help="The agent's run directory.")] = Path("/run/tortie"),
    cni_conf_dir: Annotated[
        Path, typer.Option("--cni-conf-dir", help="Where the container runtime looks for configurations.")
    ] = Path("/etc/cni/net.d"),
    cni_state_dir: Annotated[Path, typer.Option("--cni-state-dir", help="Where addresses of pods are kept.")] = Path(
        "/var/lib/cni/networks"
    ),
    cni_bin_dir: Annotated[Path, typer.Option("--cni-bin-dir", help="Where CNI plugins are installed.")] = Path(
        "/opt/cni/bin"
    ),
    output: OutputOption = Format.TABLE,
) -> None:
    """Remove every trace of Tortie from this node, and nothing else. The agent must not run.

    Exit status 1 if something could not be removed. Example: tortie cleanup --dry-run
    """
    if foreign:
        _show_foreign(foreign, output)
        return
    from agent import exclusive
    from agent.cleanup import Cleaned, Places, clean, survey

    places = Places(run_dir, cni_conf_dir, cni_state_dir, cni_bin_dir)
    if os.geteuid() != 0 and not dry_run:
        fail("needs root: routes, rules and devices are to be removed")
    try:
        if dry_run:
            done = Cleaned(removed=asyncio.run(survey(places)).items(), left=[])
        else:
            with contextlib.closing(exclusive.claim()):
                done = asyncio.run(clean(places))
    except exclusive.AlreadyRunningError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot look at this node: {error.strerror or error}")
    if output is Format.JSON:
        print_json(done)
    else:
        _print(done.removed, "would remove" if dry_run else "removed")
        for item in done.left:
            typer.echo(f"left  {item.kind} {item.name}: {item.reason}")
        if not done.removed and not done.left:
            typer.echo("there is nothing of Tortie on this node")
    raise typer.Exit(FOUND if done.left else OK)


def _print(items: Iterable[Item], verb: str) -> None:
    for item in items:
        typer.echo(f"{verb}  {item.kind} {item.name}")


def _show_foreign(plugin: str, output: Format) -> None:
    from felix.foreign import PLUGINS, leftovers

    if plugin != "all" and plugin not in PLUGINS:
        fail(f"--foreign {plugin!r}: one of {', '.join(PLUGINS)}, all")
    try:
        found = asyncio.run(leftovers("" if plugin == "all" else plugin))
    except OSError as error:
        fail(f"cannot look at this node: {error.strerror or error}")
    if output is Format.JSON:
        print_json([each._asdict() for each in found])
    elif found:
        print_table(["Plugin", "Kind", "Name", "Removed by"], [list(each) for each in found])
    else:
        typer.echo("nothing is left" if plugin == "all" else f"nothing of {plugin} is left")
    raise typer.Exit(FOUND if found else OK)
