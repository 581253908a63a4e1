from __future__ import annotations

from ipaddress import ip_address

import pytest

from agent.cni.leases import GRACE_S, LeakWatch, Lease, parse


def lease(text: str, container: str = "c1", taken: int = 1) -> Lease:
    return Lease(text, ip_address(text).packed, container, taken)


ADDRESSES = pytest.mark.parametrize("text", ["10.42.0.5", "fd42::5"])


@ADDRESSES
def test_a_file_names_address_and_sandbox(text: str) -> None:
    assert parse(text, "c1\r\neth0", 1) == lease(text)
    assert parse(text, "c1", 1) == lease(text)


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0", "", "README"])
def test_other_files_are_no_leases(name: str) -> None:
    assert parse(name, "10.42.0.5", 1) is None


@ADDRESSES
def test_a_dead_lease_is_freed_once_no_add_can_be_under_way(text: str) -> None:
    watch = LeakWatch()
    assert watch.look([lease(text)], set(), set(), 1000.0) == []
    assert watch.look([lease(text)], set(), set(), 1000.0 + GRACE_S - 1) == []
    assert watch.look([lease(text)], set(), set(), 1000.0 + GRACE_S) == [lease(text)]


@ADDRESSES
def test_a_lease_is_alive_by_its_sandbox_or_by_its_address(text: str) -> None:
    watch = LeakWatch(grace_s=0)
    assert watch.look([lease(text)], {"c1"}, set(), 1.0) == []
    assert watch.look([lease(text)], set(), {ip_address(text).packed}, 1.0) == []
    assert watch.look([lease(text)], {"c2"}, {ip_address("10.42.0.9").packed}, 1.0) == [lease(text)]


@ADDRESSES
def test_whoever_lived_in_between_begins_anew(text: str) -> None:
    watch = LeakWatch()
    watch.look([lease(text)], set(), set(), 0.0)
    watch.look([lease(text)], {"c1"}, set(), GRACE_S - 1)
    assert watch.look([lease(text)], set(), set(), GRACE_S) == []


@ADDRESSES
def test_the_next_lease_of_an_address_is_another(text: str) -> None:
    watch = LeakWatch()
    watch.look([lease(text)], set(), set(), 0.0)
    assert watch.look([lease(text, "c2")], set(), set(), GRACE_S) == []
    assert watch.look([lease(text, "c2", taken=2)], set(), set(), 2 * GRACE_S) == []
