"""`tortie cni`: what the container runtime of a node needs of us on its disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.output import Format, OutputOption, fail, print_json

app = typer.Typer(no_args_is_help=True, help="CNI plugins of a node.")


@app.command()
def install(
    source: Annotated[Path, typer.Option("--from", help="Directory that has the plugins.", file_okay=False)],
    bin_dir: Annotated[
        Path, typer.Option("--bin-dir", help="Where the container runtime looks for them.", file_okay=False)
    ] = Path("/opt/cni/bin"),
    run_dir: Annotated[
        Path, typer.Option("--run-dir", help="The agent's: which CNI versions all of them speak is noted there.")
    ] = Path("/run/tortie"),
    output: OutputOption = Format.TABLE,
) -> None:
    """Put the CNI plugins where the container runtime finds them; others' plugins that work are left alone.

    Example: tortie cni install --from /opt/tortie/cni --bin-dir /host/opt/cni/bin
    """
    from agent.cni.install import InstallError, common_versions, note_versions
    from agent.cni.install import install as put

    try:
        done = put(source, bin_dir)
        versions = common_versions(done)
        note_versions(run_dir, versions)
    except InstallError as error:
        fail(str(error))
    except OSError as error:
        fail(f"cannot install: {error}")
    if output is Format.JSON:
        plugins = [{"name": each.name, "outcome": each.outcome.value} for each in done]
        print_json({"plugins": plugins, "cniVersions": versions})
        return
    for each in done:
        typer.echo(f"{each.name:12} {each.outcome.value}")
    typer.echo(f"CNI versions that all of them speak: {', '.join(versions)}")
