"""Who else works on this node's network: other CNI plugins, firewalls, daemons that tidy up what they do not know."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from agent.cni.conflist import FILE_NAME
from agent.doctor import Check, Finding, Level, OutsideError, Patient
from felix.foreign import Leftover, leftovers
from felix.nft.basechains import BaseChain, base_chains

_SHOWN: Final = 4
_CONFIGURATIONS: Final = (".conf", ".conflist", ".json")


# CNI configurations


class Conflists(NamedTuple):
    """A directory of CNI configurations, and those in it in the order of their names."""

    directory: str
    names: tuple[str, ...]


_CONF_DIR: Final = "/etc/cni/net.d"


async def gather_conflists(patient: Patient) -> Conflists:
    """List the directory that the agent writes to, as a container runtime does: in the order of names."""
    ours = patient.status.cni.conflist if patient.status else ""
    said = str(Path(ours).parent) if ours else _CONF_DIR
    directory = patient.root / said.lstrip("/")
    if not directory.is_dir() and patient.in_container:
        raise OutsideError(f"{directory} is not to be seen from inside a container")

    def names() -> tuple[str, ...]:
        with contextlib.suppress(FileNotFoundError):
            return tuple(sorted(each.name for each in directory.iterdir() if each.suffix in _CONFIGURATIONS))
        return ()

    return Conflists(said, await asyncio.to_thread(names))


def judge_conflists(facts: Conflists) -> Iterator[Finding]:
    """The runtime takes the first file and no other."""
    name = CONFLISTS.name
    directory, names = facts
    if not names:
        yield Finding(name, Level.OK, f"no CNI configuration is in {directory}, ours or another's")
    elif FILE_NAME not in names:
        text = f"{names[0]} wires pods on this node, not Tortie"
        yield Finding(name, Level.WARN, text, "fine where Tortie only routes; else remove it once nothing uses it")
    elif names[0] != FILE_NAME:
        text = f"{names[0]} sorts before {FILE_NAME}: the container runtime takes it, and new pods are not ours"
        yield Finding(name, Level.FAIL, text, f"remove {directory}/{names[0]}")
    else:
        yield Finding(name, Level.OK, f"{FILE_NAME} is the CNI configuration that the container runtime takes")


# What other plugins left


class Leftovers(NamedTuple):
    """Traces of other plugins, and whether files of the host could be seen."""

    found: tuple[Leftover, ...]
    sees_files: bool


async def gather_leftovers(patient: Patient) -> Leftovers:
    """Look for everybody's."""
    return Leftovers(tuple(await leftovers(root=patient.root)), not patient.in_container)


def judge_leftovers(facts: Leftovers) -> Iterator[Finding]:
    """What is in the way of packets (devices, routes, rules) is worse than a forgotten file."""
    name = LEFTOVERS.name
    by_plugin: dict[str, list[Leftover]] = {}
    for each in facts.found:
        by_plugin.setdefault(each.plugin, []).append(each)
    for plugin, its in by_plugin.items():
        active = [each for each in its if each.kind != "file"]
        shown = ", ".join(f"{each.kind} {each.name}" for each in (active or its)[:_SHOWN])
        more = f" and {len(active or its) - _SHOWN} more" if len(active or its) > _SHOWN else ""
        yield Finding(
            name,
            Level.FAIL if any(each.kind in {"device", "route"} for each in its) else Level.WARN,
            f"{plugin} is still here: {shown}{more}",
            f"once no pod uses it: tortie cleanup --foreign {plugin} shows the commands that remove it",
        )
    if not by_plugin:
        yield Finding(name, Level.OK, "no other network plugin has left anything here")


# Firewalls


async def gather_firewalls(patient: Patient) -> list[BaseChain]:
    """Ask nf_tables for everybody's chains that packets come through on their way."""
    del patient
    return await base_chains()


def judge_firewalls(facts: Sequence[BaseChain]) -> Iterator[Finding]:
    """A packet has to pass everybody's table: what another one drops, no rule of ours lets through."""
    name = FIREWALLS.name
    found = False
    if any(chain.table == "firewalld" for chain in facts):
        found = True
        yield Finding(
            name,
            Level.WARN,
            "firewalld is at work: it rejects forwarded packets of zones that it was not told to trust",
            "for each pod CIDR: firewall-cmd --permanent --zone=trusted --add-source=CIDR; then firewall-cmd --reload",
        )
    for chain in facts:
        if chain.hook == "forward" and chain.drops and (chain.family, chain.table) != ("inet", "tortie"):
            found = True
            is_iptables = chain.name == "FORWARD" and chain.table == "filter"
            program = {"ip": "iptables", "ip6": "ip6tables"}.get(chain.family, "")
            advice = (
                f"{program} -P FORWARD ACCEPT (Docker sets it to DROP)"
                if is_iptables and program
                else "accept pods' packets there"
            )
            text = f"chain {chain.name} of table {chain.family} {chain.table} drops what it forwards by default"
            yield Finding(name, Level.WARN, text, advice)
    if not found:
        yield Finding(name, Level.OK, "no other firewall drops what is forwarded by default")


# Daemons that tidy up


class Daemon(NamedTuple):
    """A network daemon of the host. `settings` are None where its files cannot be seen."""

    is_running: bool
    settings: dict[str, str] | None


class Daemons(NamedTuple):
    """systemd-networkd and NetworkManager."""

    networkd: Daemon
    network_manager: Daemon


_SOCKETS: Final = {"networkd": "/run/systemd/netif/io.systemd.Network", "manager": "/run/NetworkManager/"}
_UNMANAGED: Final = (
    "in /etc/NetworkManager/conf.d/tortie.conf: [keyfile] unmanaged-devices=driver:veth;interface-name:tortie*"
)
_FOREIGN: Final = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules", "ManageForeignNextHops")


async def gather_daemons(patient: Patient) -> Daemons:
    """See who listens (sockets are this network namespace's), and what they are told."""
    root = patient.root

    def read() -> Daemons:
        sockets = Path("/proc/thread-self/net/unix").read_text(encoding="utf-8", errors="replace")
        is_networkd = _SOCKETS["networkd"] in sockets or (root / "run/systemd/netif/state").exists()
        is_manager = _SOCKETS["manager"] in sockets or (root / "run/NetworkManager/NetworkManager.pid").exists()
        hidden = patient.in_container and not (root / "etc/systemd").is_dir()
        return Daemons(
            Daemon(is_networkd, None if hidden else _drop_ins(root, "systemd/networkd.conf", "Network")),
            Daemon(is_manager, None if hidden else _drop_ins(root, "NetworkManager/NetworkManager.conf", "keyfile")),
        )

    return await asyncio.to_thread(read)


def _drop_ins(root: Path, name: str, section: str) -> dict[str, str]:
    """Read a section as systemd does: the file, then all FILE.d/*.conf in the order of their names, /etc winning."""
    drop_in = name.replace("NetworkManager/NetworkManager.conf", "NetworkManager/conf.d")
    directory = drop_in if drop_in != name else f"{name}.d"
    files = [path for place in ("usr/lib", "run", "etc") if (path := root / place / name).is_file()][-1:]
    extra = {
        path.name: path for place in ("usr/lib", "run", "etc") for path in (root / place / directory).glob("*.conf")
    }
    found: dict[str, str] = {}
    for path in (*files, *(extra[each] for each in sorted(extra))):
        parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign] # names as they are written
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read_string(path.read_text(encoding="utf-8"))
            if parser.has_section(section):
                found.update({key: value or "" for key, value in parser.items(section)})
    return found


def judge_daemons(facts: Daemons) -> Iterator[Finding]:
    """systemd-networkd removes routes that it did not make whenever it starts or a link comes back."""
    name = DAEMONS.name
    networkd, manager = facts
    if not networkd.is_running:
        yield Finding(name, Level.OK, "systemd-networkd does not run here")
    elif networkd.settings is None:
        text = "systemd-networkd runs, and how it is set is not to be seen from inside a container"
        advice = f"on the host, networkd.conf needs {', '.join(f'{each}=no' for each in _FOREIGN)}"
        yield Finding(name, Level.OUTSIDE, text, advice)
    else:
        settings = networkd.settings
        kept = [each for each in _FOREIGN if settings.get(each, "yes").lower() in {"no", "false", "off", "0"}]
        # Rules and nexthops are keys of later versions: what is not known to it, it does not manage.
        if "ManageForeignRoutes" not in kept:
            text = "systemd-networkd removes foreign routes when it restarts or a link comes back"
            advice = (
                "in /etc/systemd/networkd.conf.d/tortie.conf: [Network] ManageForeignRoutes=no ManageForeignNextHops=no"
            )
            yield Finding(name, Level.WARN, text, f"{advice} ManageForeignRoutingPolicyRules=no, each on a line")
        else:
            yield Finding(name, Level.OK, "systemd-networkd leaves foreign routes alone")
    if manager.is_running and manager.settings is None:
        text = (
            "NetworkManager runs, and whether it leaves links of pods alone is not to be seen from inside a container"
        )
        yield Finding(name, Level.OUTSIDE, text, f"on the host, {_UNMANAGED}")
    elif manager.is_running and manager.settings is not None:
        unmanaged = manager.settings.get("unmanaged-devices", "")
        if "veth" not in unmanaged and "driver:veth" not in unmanaged:
            text = "NetworkManager runs, and may take over links of pods"
            yield Finding(name, Level.WARN, text, _UNMANAGED)
        else:
            yield Finding(name, Level.OK, "NetworkManager leaves links of pods alone")


CONFLISTS: Final = Check("CNI configuration", gather_conflists, judge_conflists)
LEFTOVERS: Final = Check("other plugins", gather_leftovers, judge_leftovers)
FIREWALLS: Final = Check("firewalls", gather_firewalls, judge_firewalls)
DAEMONS: Final = Check("network daemons", gather_daemons, judge_daemons)
CHECKS: Final = (CONFLISTS, LEFTOVERS, FIREWALLS, DAEMONS)
