from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from agent.cni import hostlocal


@pytest.fixture(params=["10.42.0.5", "fd42::5"])
def address(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_a_network_that_never_was_has_no_leases(tmp_path: Path) -> None:
    assert hostlocal.read(tmp_path / "tortie") == []


def test_leases_are_read_and_other_files_left_out(tmp_path: Path, address: str) -> None:
    (tmp_path / address).write_text("c1\r\neth0")
    (tmp_path / "last_reserved_ip.0").write_text(address)
    (tmp_path / "lock").touch()
    (tmp_path / "10.42.0.99").mkdir()
    (lease,) = hostlocal.read(tmp_path)
    assert (lease.name, lease.container) == (address, "c1")


def test_a_lease_is_freed_and_one_that_changed_since_is_left(tmp_path: Path, address: str) -> None:
    (tmp_path / address).write_text("c1\r\neth0")
    (tmp_path / "10.42.0.77").write_text("c2\r\neth0")
    before = hostlocal.read(tmp_path)
    (tmp_path / "10.42.0.77").write_text("c3\r\neth0")
    assert [lease.name for lease in hostlocal.free(tmp_path, before)] == [address]
    assert not (tmp_path / address).exists()
    assert (tmp_path / "10.42.0.77").read_bytes() == b"c3\r\neth0"
    assert hostlocal.free(tmp_path, before) == []


def test_freeing_waits_for_host_locals_own_lock(tmp_path: Path, address: str) -> None:
    (tmp_path / address).write_text("c1\r\neth0")
    leases = hostlocal.read(tmp_path)
    freeing = threading.Thread(target=hostlocal.free, args=(tmp_path, leases))
    with (tmp_path / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        freeing.start()
        freeing.join(0.2)
        assert freeing.is_alive()
        assert (tmp_path / address).exists()
    freeing.join(20)
    assert not (tmp_path / address).exists()
