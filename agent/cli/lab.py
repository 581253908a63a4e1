"""tortie lab: nodes, pods, links and real routers in network namespaces, from one file."""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from agent.cli.output import FOUND, OK, Format, OutputOption, console, fail, print_json, words_of

if TYPE_CHECKING:
    from agent.lab.lab import Lab
    from agent.lab.status import LabStatus

T = TypeVar("T")

# What the lab needs to import is imported in the commands: `tortie --help` must not wait for it.

app = typer.Typer(no_args_is_help=True, help="Build a network of nodes, pods and real routers on this machine.")
fail_app = typer.Typer(no_args_is_help=True, help="Break something: fail link n1:tor-1.")
heal_app = typer.Typer(no_args_is_help=True, help="Mend what `fail` broke: heal link n1:tor-1.")
app.add_typer(fail_app, name="fail")
app.add_typer(heal_app, name="heal")

LabArgument = Annotated[
    str,
    typer.Argument(
        metavar="LAB", envvar="TORTIE_LAB", help="Name of the lab, or its file; not needed when one lab is up."
    ),
]
LabOption = Annotated[
    str, typer.Option("--lab", envvar="TORTIE_LAB", help="Name of the lab, or its file; not needed when one is up.")
]
LinkArgument = Annotated[str, typer.Argument(metavar="A:B", help="The two machines it joins, such as n1:tor-1.")]
MachineArgument = Annotated[str, typer.Argument(metavar="MACHINE", help="A router or node.")]


@app.command()
def up(
    topology: Annotated[Path, typer.Argument(metavar="TOPOLOGY.yaml", help="What to build.", dir_okay=False)],
    name: Annotated[str, typer.Option("--name", help="In place of the name in the file.")] = "",
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", help="Wait so long for every session to be established.")
    ] = 10,
    output: OutputOption = Format.TABLE,
) -> None:
    """Build a lab and start everything in it.

    Example: tortie lab up examples/two-racks.yaml
    """
    from agent.lab.lab import Lab
    from agent.lab.status import look
    from agent.lab.topology import TopologyError, load
    from agent.lab.wait import eventually

    try:
        wanted = load(topology, name=name)
    except (TopologyError, OSError) as error:
        fail(words_of(error))

    async def build() -> LabStatus:
        lab = await Lab.up(wanted)
        with suppress(TimeoutError):
            return await eventually(partial(look, lab), lambda report: report.is_healthy, within_s=wait_s)
        return await look(lab)

    _show(_run(build()), output)


@app.command()
def status(lab: LabArgument = "", output: OutputOption = Format.TABLE) -> None:
    """Draw the topology with the state of links and sessions.

    Exit status 1 if something is down. Example: tortie lab status -o json
    """
    from agent.lab.status import look

    async def ask_all() -> LabStatus:
        return await look(await _found(lab))

    report = _run(ask_all())
    _show(report, output)
    raise typer.Exit(OK if report.is_healthy else FOUND)


@app.command("list")
def list_labs(output: OutputOption = Format.TABLE) -> None:
    """Name the labs that are up.

    Example: tortie lab list
    """
    from agent.lab.state import default_root, running

    names = running(default_root())
    if output is Format.JSON:
        print_json(names)
    else:
        for name in names:
            typer.echo(name)


@app.command()
def down(lab: LabArgument = "") -> None:
    """Stop and remove a lab, whole or half built; nothing else is touched.

    Example: tortie lab down two-racks
    """
    from agent.lab.lab import tear_down
    from agent.lab.state import State, default_root, the_only_name

    async def take_down() -> None:
        # Not by way of the topology: what a newer or older tortie built must go too.
        await tear_down(State.find(default_root(), _name(lab) or the_only_name(default_root())))

    _run(take_down())


@app.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    machine: Annotated[str, typer.Argument(metavar="MACHINE", help="A pod, node or router.")],
    argv: Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND...", help="By default a shell.")] = None,
    lab: LabOption = "",
) -> None:
    """Run a command on a machine, where the names of all machines resolve.

    On a node, tortie asks that node's agent. Example: tortie lab exec a1 -- ping -c1 b1
    """
    import os

    async def command() -> list[str]:
        given = argv[1:] if argv and argv[0] == "--" else argv
        return (await _found(lab)).command(machine, given or [os.environ.get("SHELL", "sh")])

    words = _run(command())
    os.execvp(words[0], words)  # noqa: S606 - no shell is wanted


@app.command(context_settings={"ignore_unknown_options": True})
def ask(
    router: Annotated[str, typer.Argument(metavar="ROUTER", help="A router, or a node whose agent has a stand-in.")],
    words: Annotated[list[str], typer.Argument(metavar="WORDS...", help="For birdc, vtysh or gobgp.")],
    lab: LabOption = "",
) -> None:
    """Ask a router's daemon in its own words: birdc, vtysh -c or gobgp.

    Example: tortie lab ask tor-1 show protocols
    """

    async def answer() -> str:
        found = await _found(lab)
        daemon = found.daemon(router)
        # vtysh takes a whole command as one word.
        is_frr = found.plan.speakers[router].daemon == "frr"
        return await daemon.ask(*([" ".join(words)] if is_frr else words))

    typer.echo(_run(answer()).rstrip())


@fail_app.command("link")
def fail_link(
    ends: LinkArgument,
    silent: Annotated[bool, typer.Option("--silent", help="It stays up, and nothing gets through.")] = False,
    lab: LabOption = "",
) -> None:
    """Cut the cables between two machines: the first loses carrier.

    Example: tortie lab fail link n1:tor-1
    """
    a, b = _ends(ends)

    async def do() -> None:
        await (await _found(lab)).fail_link(a, b, silent=silent)

    _run(do())


@heal_app.command("link")
def heal_link(ends: LinkArgument, lab: LabOption = "") -> None:
    """Join two machines again.

    Example: tortie lab heal link n1:tor-1
    """
    a, b = _ends(ends)

    async def do() -> None:
        await (await _found(lab)).heal_link(a, b)

    _run(do())


@app.command()
def kill(
    machine: MachineArgument,
    process_only: Annotated[
        bool, typer.Option("--process-only", help="Kill what it runs; its links and kernel routes stay.")
    ] = False,
    lab: LabOption = "",
) -> None:
    """Take a machine away as a power cut does: processes killed, links dead. `restart` brings it back.

    Example: tortie lab kill tor-2
    """

    async def do() -> None:
        found = await _found(lab)
        await (found.kill(machine) if process_only else found.power_off(machine))

    _run(do())


@app.command()
def restart(machine: MachineArgument, lab: LabOption = "") -> None:
    """Restart what runs on a machine, by graceful restart, or bring it back after `kill`.

    Example: tortie lab restart n1
    """

    async def do() -> None:
        await (await _found(lab)).restart(machine)

    _run(do())


def _run(doing: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what goes wrong in a way that people can mend ends in one sentence."""
    import asyncio

    from agent.lab.namespaces import CommandError
    from agent.lab.speakers import DaemonError
    from agent.lab.state import LabError

    try:
        return asyncio.run(doing)
    except (LabError, DaemonError, CommandError, OSError) as error:
        fail(words_of(error))


async def _found(lab: str) -> Lab:
    from agent.lab.lab import Lab
    from agent.lab.state import default_root, the_only_name

    return Lab.find(_name(lab) or the_only_name(default_root()))


def _show(report: LabStatus, output: Format) -> None:
    if output is Format.JSON:
        print_json(report)
        return
    from agent.lab.draw import draw

    console().print(draw(report))


def _name(lab: str) -> str:
    """Return the name of a lab that may be given as its file."""
    if not lab.endswith((".yaml", ".yml")):
        return lab
    from agent.lab.topology import TopologyError, load

    try:
        return load(Path(lab)).name
    except (TopologyError, OSError) as error:
        fail(words_of(error))


def _ends(text: str) -> tuple[str, str]:
    a, _, b = text.partition(":")
    if not a or not b:
        fail(f"{text!r}: a link is named by the two machines it joins, such as n1:tor-1")
    return a, b
