"""A lab as a picture for a terminal: routers with their links and sessions, nodes with their pods."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from agent.lab.status import LabStatus, LinkStatus, MachineStatus, SessionStatus

_STATE_STYLES = {"running": "green", "none": "dim", "up": "green", "Established": "green", "silent": "yellow"}
_MARKS = {"up": "───", "cut": "─✗─", "silent": "┄┄┄", "down": "─ ─"}


def draw(status: LabStatus) -> Group:
    """Return the picture."""
    drawn: set[int] = set()
    parts: list[Text | Tree] = [Text.assemble((status.name, "bold"), f"  {status.directory}")]
    for role in ("switch", "router", "node"):
        for machine in status.machines:
            if machine.role == role:
                parts += [Text(), _branch(status, machine, drawn)]
    return Group(*parts)


def _branch(status: LabStatus, machine: MachineStatus, drawn: set[int]) -> Tree:
    """Draw a machine with those of its links that no other has drawn before it, and its pods."""
    tree = Tree(_title(machine), guide_style="dim")
    for number, link in enumerate(status.links):
        if machine.name in {link.a, link.b} and number not in drawn:
            drawn.add(number)
            tree.add(_link_line(status, machine.name, link))
    for pod in status.machines:
        if pod.node == machine.name:
            tree.add(Text.assemble("─── ", (pod.name, "bold"), "  ", " ".join(pod.addresses)))
    return tree


def _title(machine: MachineStatus) -> Text:
    facts = [machine.daemon or machine.role]
    if machine.asn is not None:
        facts.append(f"AS {machine.asn}")
    title = Text.assemble((machine.name, "bold"), f"  {' '.join(facts)}  {' '.join(machine.addresses)}  ")
    return title.append("" if machine.state == "none" else machine.state, _style(machine.state))


def _link_line(status: LabStatus, machine: str, link: LinkStatus) -> Text:
    """Draw `eth0 ─── eth1 n1   IPv4 Established 4 in 1 out`."""
    is_a = machine == link.a
    near, far = (link.a_interface, link.b_interface) if is_a else (link.b_interface, link.a_interface)
    peer = link.b if is_a else link.a
    line = Text.assemble(f"{near} ", (_MARKS[link.state], _style(link.state)), f" {far} ", (peer, "bold"))
    if link.state != "up":
        line.append(f"  {link.state}", _style(link.state))
    others = [it.b for it in status.links if it.link == link.link]
    if len(others) > 1:  # a switch: the sessions of this end with those drawn below it
        for other in others[others.index(peer) + 1 :]:
            for session in _sessions_between(status, peer, other, link.link):
                line.append(f"   {other} ").append_text(_session_words(session))
        return line
    for session in _sessions_between(status, machine, peer, link.link):
        line.append("   ").append_text(_session_words(session))
    return line


def _sessions_between(status: LabStatus, machine: str, peer: str, link: int) -> Iterator[SessionStatus]:
    """Yield the sessions of two machines, as the first sees them; where it does not answer, as the other does."""
    here = [it for it in status.sessions if it.link == link]
    mine = [it for it in here if (it.machine, it.peer) == (machine, peer)]
    yield from mine or (it for it in here if (it.machine, it.peer) == (peer, machine))


def _session_words(session: SessionStatus) -> Text:
    families = "+".join(session.families) or ("IPv6" if ":" in session.peer_address else "IPv4")
    counts = ", ".join(f"{it['received']} in {it['sent']} out" for it in session.families.values())
    words = Text.assemble(f"{families} ", (session.state, _style(session.state)), f" {counts}" if counts else "")
    if session.last_error and session.state != "Established":
        words.append(f" ({session.last_error})")
    return words


def _style(state: str) -> str:
    return _STATE_STYLES.get(state, "red")
