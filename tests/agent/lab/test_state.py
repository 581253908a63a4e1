from __future__ import annotations

from pathlib import Path

import pytest

from agent.lab.processes import Process
from agent.lab.state import Faults, LabError, State, default_root, running, the_only_name
from agent.lab.topology import Announcement, parse
from inet.prefix import Prefix

TOPOLOGY = parse({"name": "x", "routers": {"r": {"daemon": "bird", "asn": 65001}}})


def test_a_lab_is_found_as_it_was_made(tmp_path: Path) -> None:
    State.create(tmp_path, TOPOLOGY, ["tl-x-r"])
    found = State.find(tmp_path, "x")
    assert found.topology() == TOPOLOGY
    assert found.namespaces() == ["tl-x-r"]
    assert running(tmp_path) == ["x"]
    assert the_only_name(tmp_path) == "x"


def test_a_name_is_given_once(tmp_path: Path) -> None:
    State.create(tmp_path, TOPOLOGY, [])
    with pytest.raises(LabError, match="lab x is up already"):
        State.create(tmp_path, TOPOLOGY, [])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lab_that_is_not_up_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"lab y is not up \(up: none\)"):
        State.find(tmp_path, "y")
    with pytest.raises(LabError, match="no lab is up"):
        the_only_name(tmp_path)


def test_one_of_several_has_to_be_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        State.create(tmp_path, TOPOLOGY.model_copy(update={"name": name}), [])
    with pytest.raises(LabError, match="several labs are up: say which of a, b"):
        the_only_name(tmp_path)


def test_what_happened_is_remembered(tmp_path: Path) -> None:
    state = State.create(tmp_path, TOPOLOGY, [])
    state.machine("r").mkdir()
    assert state.faults() == Faults()
    state.set_faults(Faults(cut={1, 2}, silent={3}, off={"r"}))
    assert state.faults() == Faults(cut={1, 2}, silent={3}, off={"r"})
    state.remember("r", "bird", Process(1, 2))
    assert list(state.processes()) == list(state.processes("r")) == [("r", "bird", Process(1, 2))]
    state.forget("r", "bird")
    assert not list(state.processes())


def test_announcements_are_those_of_the_topology_until_they_change(tmp_path: Path) -> None:
    state = State.create(tmp_path, TOPOLOGY, [])
    state.machine("r").mkdir()
    first = Announcement(prefix=Prefix.parse("10.0.0.0/24"))
    second = Announcement(prefix=Prefix.parse("fd00::/64"), med=5, communities=("65000:1",), as_path=(65009,))
    assert state.announced("r", [first]) == (first,)
    state.set_announced("r", [second])
    assert state.announced("r", [first]) == (second,)


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    root = tmp_path / "labs"
    state = State.create(root, TOPOLOGY, [])
    state.remove()
    assert not root.exists()


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    state = State.create(tmp_path, TOPOLOGY, [])
    with pytest.raises(LabError, match="too long for a socket"):
        state.check_socket(state.path / ("x" * 100) / "agent.sock")


@pytest.mark.parametrize(
    ("uid", "root"), [(0, "/run/tortie-lab"), (1000, "/run/user/1000/tortie-lab")], ids=["root", "user"]
)
def test_labs_are_kept_where_their_user_may_write(uid: int, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_root() == Path(root)
