from __future__ import annotations

from io import StringIO

from rich.console import Console

from agent.lab.draw import draw
from agent.lab.status import LabStatus, LinkStatus, MachineStatus, SessionStatus


def machine(name: str, role: str, daemon: str = "", state: str = "running", node: str | None = None) -> MachineStatus:
    return MachineStatus(name, role, daemon, 65001 if daemon else None, node, ("10.0.0.1",), f"tl-x-{name}", state)


def session(mine: str, peer: str, link: int, state: str = "Established", error: str = "") -> SessionStatus:
    counts = {"IPv4": {"received": 4, "sent": 1}} if state == "Established" else {}
    return SessionStatus(mine, peer, "172.16.1.11", link, state, counts, error)


def test_a_lab_is_drawn_with_links_sessions_and_pods() -> None:
    status = LabStatus(
        name="x",
        directory="/run/x",
        manifests="/m",
        machines=(
            machine("lan1", "switch", state="none"),
            machine("r", "router", "bird"),
            machine("n1", "node", "agent"),
            machine("n2", "node", "agent", state="ended"),
            machine("a1", "pod", state="none", node="n1"),
        ),
        links=(
            LinkStatus(0, "r", "eth0", "n1", "eth0", "up"),
            LinkStatus(1, "n2", "eth0", "r", "eth1", "cut"),
            LinkStatus(2, "lan1", "port0", "n1", "eth1", "up"),
            LinkStatus(2, "lan1", "port1", "n2", "eth1", "silent"),
        ),
        sessions=(
            session("r", "n1", 0),
            session("n1", "r", 0),
            session("r", "n2", 1, "Idle", "hold timer expired"),
            session("n2", "n1", 2, "Active"),
        ),
    )
    out = StringIO()
    Console(file=out, width=200).print(draw(status))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "x  /run/x",
        "",
        "lan1  switch  10.0.0.1",
        "├── port0 ─── eth1 n1   n2 IPv4 Active",
        "└── port1 ┄┄┄ eth1 n2  silent",
        "",
        "r  bird AS 65001  10.0.0.1  running",
        "├── eth0 ─── eth0 n1   IPv4 Established 4 in 1 out",
        "└── eth1 ─✗─ eth0 n2  cut   IPv4 Idle (hold timer expired)",
        "",
        "n1  agent AS 65001  10.0.0.1  running",
        "└── ─── a1  10.0.0.1",
        "",
        "n2  agent AS 65001  10.0.0.1  ended",
    ]
    assert not status.is_healthy
