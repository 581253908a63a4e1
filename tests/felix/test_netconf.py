"""News of kernel settings, from the real kernel: what it tells of, what not, and what becomes of news that are lost."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from felix import netconf
from felix.namespaces import entered
from felix.netconf import SettingsMonitor
from tests.felix.netns import Node

pytestmark = pytest.mark.kernel

DEADLINE_S = 20.0
TOLD_OF = (
    "ipv4/ip_forward",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/a0/rp_filter",
    "ipv4/conf/a0/forwarding",
    "ipv4/conf/a0/ignore_routes_with_linkdown",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/a0/forwarding",
    "ipv6/conf/a0/ignore_routes_with_linkdown",
)
NOT_TOLD_OF = ("ipv4/conf/a0/arp_ignore", "ipv6/conf/a0/keep_addr_on_down", "ipv4/nexthop_compat_mode")


@pytest.fixture
def monitor(node: Node) -> Iterator[SettingsMonitor]:  # noqa: ARG001 - inside its namespace
    with closing(SettingsMonitor()) as monitor:
        yield monitor


def switch(path: str) -> None:
    """Set a setting of one digit to another value, by hand."""
    setting = Path("/proc/sys/net", path)
    setting.write_text("0" if setting.read_text(encoding="ascii").strip() != "0" else "1", encoding="ascii")


def has_news(monitor: SettingsMonitor) -> bool:
    return bool(select.select([monitor._socket], [], [], 0)[0])


async def hears(monitor: SettingsMonitor) -> None:
    changes = monitor.changes()
    await asyncio.wait_for(anext(changes), DEADLINE_S)
    await changes.aclose()


@pytest.mark.parametrize("path", TOLD_OF)
async def test_the_kernel_tells_of_a_setting_switched_on_and_off(monitor: SettingsMonitor, path: str) -> None:
    for _ in range(2):
        switch(path)
        await hears(monitor)
        assert not has_news(monitor)


@pytest.mark.parametrize("path", NOT_TOLD_OF)
def test_of_others_it_does_not_so_that_they_have_to_be_looked_at(monitor: SettingsMonitor, path: str) -> None:
    switch(path)
    assert not has_news(monitor)


async def test_what_happened_before_somebody_asks_is_not_lost_and_all_of_it_is_one_reason_to_look(
    monitor: SettingsMonitor,
) -> None:
    for path in TOLD_OF:
        switch(path)
    await hears(monitor)
    assert not has_news(monitor)


def test_other_namespaces_are_nobodys_business(node: Node, monitor: SettingsMonitor) -> None:
    with entered(node.peer):
        switch("ipv4/ip_forward")
        switch("ipv6/conf/all/forwarding")
    assert not has_news(monitor)
    switch("ipv4/ip_forward")
    assert has_news(monitor)


async def test_news_that_were_lost_are_a_reason_to_look_and_the_next_are_heard(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    del node
    monkeypatch.setattr(netconf, "_RECEIVE_BUFFER", 1)  # the kernel makes it some 2 KB
    with closing(SettingsMonitor()) as monitor:
        for _ in range(200):
            switch("ipv4/conf/a0/rp_filter")
        await hears(monitor)
        while has_news(monitor):  # what did not get lost
            await hears(monitor)
        switch("ipv6/conf/all/forwarding")
        await hears(monitor)
