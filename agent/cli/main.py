"""`tortie`: the commands, grouped by what a person wants."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from agent import __version__
from agent.cli import cni, lab, look, policy
from agent.cli.cleanup import cleanup
from agent.cli.doctor import doctor
from agent.cli.drain import drain, undrain
from agent.cli.drops import drops
from agent.cli.output import FAILED, Format, OutputOption, end_with, fail, print_json
from agent.cli.path import path
from agent.cli.top import top

LOOK, WHY, CHANGE, RUN = "Look", "Ask why", "Change", "Run"

app = typer.Typer(
    name="tortie",
    help="Kubernetes node networking without an overlay: pod routes over BGP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # paragraphs are paragraphs, however long the lines are that they were written in
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config = typer.Typer(no_args_is_help=True, help="Look over manifests before they are in force.")

app.command(rich_help_panel=LOOK)(look.status)
app.command(rich_help_panel=LOOK)(look.peers)
app.add_typer(look.routes, name="routes", rich_help_panel=LOOK)
app.command(rich_help_panel=LOOK)(path)
app.command(rich_help_panel=LOOK)(drops)
app.command(rich_help_panel=LOOK)(top)
app.add_typer(policy.app, name="policy", rich_help_panel=WHY)
app.command(rich_help_panel=WHY)(doctor)
app.command(rich_help_panel=CHANGE)(drain)
app.command(rich_help_panel=CHANGE)(undrain)
app.add_typer(config, name="config", rich_help_panel=CHANGE)
app.add_typer(cni.app, name="cni", rich_help_panel=RUN)
app.add_typer(lab.app, name="lab", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(cleanup)


@app.command(rich_help_panel=LOOK)
def version(output: OutputOption = Format.TABLE) -> None:
    """Show the version of this program, which is that of its image and chart.

    Example: kubectl -n tortie-system exec daemonset/tortie-agent -- tortie version
    """
    if output is Format.JSON:
        print_json({"version": __version__})
    else:
        typer.echo(f"tortie {__version__}")


@app.command(rich_help_panel=RUN)
def agent(
    *,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="Directory of manifests, instead of Kubernetes.", exists=True, file_okay=False),
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            "--kubeconfig", help="Access to Kubernetes; by default the pod's own.", exists=True, dir_okay=False
        ),
    ] = None,
    node: Annotated[str, typer.Option("--node", envvar="NODE_NAME", help="Name of this node's Node object.")] = "",
    run_dir: Annotated[Path, typer.Option("--run-dir", help="Socket and speaker files go here.")] = Path("/run/tortie"),
    listen: Annotated[
        str, typer.Option("--listen", help="Where /healthz, /readyz and /metrics are served; empty for nowhere.")
    ] = "127.0.0.1:9797",
    cni_conf_dir: Annotated[
        Path | None,
        typer.Option("--cni-conf-dir", help="Write the CNI conflist here, and free addresses that sandboxes leak."),
    ] = None,
    cni_state_dir: Annotated[
        Path, typer.Option("--cni-state-dir", help="Where host-local keeps its files, a directory for each network.")
    ] = Path("/var/lib/cni/networks"),
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
) -> None:
    """Run a node from what the Kubernetes API holds, or a directory of manifests, and follow changes.

    In a pod it uses the pod's service account. Example: tortie agent --config /etc/tortie --node n1
    """
    # Only the agent needs these: the other commands must start fast.
    from agent import daemon, logs
    from agent.__main__ import become_agent
    from agent.cni.node import CniOptions
    from agent.kubernetes.access import is_in_pod, own_namespace
    from agent.namespace import OWN_NAMESPACE

    name = node or socket.gethostname()
    if log_level not in logs.LEVELS:
        fail(f"--log-level {log_level!r}: one of {', '.join(logs.LEVELS)}")
    if config is None and kubeconfig is None and not is_in_pod():
        fail("outside of a pod: --config DIR for manifests, or --kubeconfig FILE for access to Kubernetes")
    if config is not None and kubeconfig is not None:
        fail("--config and --kubeconfig: objects come from one place, leave one of them out")
    namespace = OWN_NAMESPACE if config else own_namespace()
    cni = CniOptions(cni_conf_dir, cni_state_dir)
    options = daemon.Options(config, name, run_dir, _listen_address(listen), cni, kubeconfig, namespace)
    become_agent(options, log_level)


def _listen_address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
        fail(f"--listen {text!r}: HOST:PORT, such as 127.0.0.1:9797 or [::]:9797")
    return host.strip("[]") or "::", int(port)


@config.command()
def check(
    directory: Annotated[Path, typer.Argument(help="Directory of manifests.", exists=True, file_okay=False)],
    output: OutputOption = Format.TABLE,
) -> None:
    """Name file, line, field and reason of everything in DIRECTORY that would not be taken as written.

    Exit status 1 if there is any. Example: tortie config check /etc/tortie
    """
    from agent.check import check_manifests

    end_with(check_manifests(directory), output)


def main() -> None:
    """Run `tortie`. Whatever goes wrong ends as one line, not as a trace."""
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(FAILED) from None
