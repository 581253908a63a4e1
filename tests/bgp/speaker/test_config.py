"""The file, as golden files that the real ExaBGP accepts; and what may not get into it."""

from __future__ import annotations

import base64
import dataclasses
import re
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgp.speaker import Secret, Session
from bgp.speaker.exabgp import config
from inet.prefix import Family

GOLDEN = Path(__file__).parent / "golden"
HELPER = ["/usr/bin/env", "/usr/lib/tortie/bridge.py", "/run/tortie/exabgp.sock"]

V4 = Session(
    peer=IPv4Address("10.0.0.2"),
    local_address=IPv4Address("10.0.0.1"),
    local_asn=65001,
    peer_asn=4200000001,
    router_id=IPv4Address("10.0.0.1"),
    families=frozenset(Family),
    origin="BGPPeer/tor-1",
)
V6 = dataclasses.replace(V4, peer=IPv6Address("fd00::2"), local_address=IPv6Address("fd00::1"))

CASES = {
    "no-session": [],
    "defaults": [V4],
    "ibgp": [dataclasses.replace(V4, peer_asn=65001)],
    "ipv6": [V6],
    "one-family": [dataclasses.replace(V6, families=frozenset({Family.IPV6}))],
    "password": [dataclasses.replace(V4, password=Secret("""it's "s3cret" #;{}\\ ü"""))],
    "no-graceful-restart": [dataclasses.replace(V4, graceful_restart_time_s=None)],
    "multihop": [dataclasses.replace(V4, ttl=4)],
    "ttl-security": [dataclasses.replace(V4, minimum_ttl=255), dataclasses.replace(V6, minimum_ttl=254)],
    "ports-and-timers": [
        dataclasses.replace(V4, peer_port=1179, listen_port=None, hold_time_s=0, connect_retry_time_s=30)
    ],
    "link-local": [
        dataclasses.replace(
            V6, peer=IPv6Address("fe80::2%eth0"), local_address=IPv6Address("fe80::1%eth0"), interface="eth0"
        )
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_of_session_gives_its_golden_file(name: str) -> None:
    assert config.render(CASES[name], HELPER) == (GOLDEN / f"{name}.conf").read_text()


@pytest.mark.parametrize("name", CASES)
def test_the_real_exabgp_accepts_each_golden_file(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "exabgp", "validate", str(GOLDEN / f"{name}.conf")],
        capture_output=True,
        text=True,
        check=False,
        # the helper has to exist: any program will do
        env={"PATH": "/usr/bin"},
    )
    assert done.returncode == 0, done.stderr


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


def test_the_order_of_sessions_does_not_matter() -> None:
    third = dataclasses.replace(V4, peer=IPv4Address("9.0.0.2"))
    assert config.render([V6, V4, third], HELPER) == config.render([third, V4, V6], HELPER)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hold_time_s": 2}, "hold_time_s: 2 is not"),
        ({"hold_time_s": 65536}, "hold_time_s: 65536 is not"),
        ({"connect_retry_time_s": 0}, "connect_retry_time_s: 0 is not"),
        ({"local_asn": 0}, "local_asn: 0 is not"),
        ({"peer_asn": 2**32}, "peer_asn: 4294967296 is not"),
        ({"peer_port": 0}, "peer_port: 0 is not"),
        ({"listen_port": 65536}, "listen_port: 65536 is not"),
        ({"graceful_restart_time_s": 0}, "graceful_restart_time_s: 0 is not"),
        ({"graceful_restart_time_s": 4096}, "graceful_restart_time_s: 4096 is not"),
        ({"ttl": 256}, "ttl: 256 is not"),
        ({"minimum_ttl": 0}, "minimum_ttl: 0 is not"),
        ({"families": frozenset()}, "families: a session needs at least one"),
        ({"local_address": IPv6Address("fd00::1")}, "local_address: fd00::1 and 10.0.0.2 are of different families"),
        ({"interface": 'eth0"; passive true; description "'}, "interface: "),
        ({"interface": "a" * 16}, "interface: "),
        ({"password": Secret("")}, "password: 0 bytes"),
        ({"password": Secret("ü" * 41)}, "password: 82 bytes; TCP MD5 takes 1 to 80"),
    ],
)
def test_what_exabgp_could_not_take_is_refused_by_its_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        config.render_session(dataclasses.replace(V4, **changes))


def test_a_link_local_peer_without_an_interface_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one"):
        config.render_session(
            dataclasses.replace(V6, peer=IPv6Address("fe80::2"), local_address=IPv6Address("fe80::1"))
        )


@given(st.text(min_size=1).filter(lambda text: len(text.encode("utf-8", "ignore")) in range(1, 81)))
def test_no_password_changes_anything_but_its_own_line(password: str) -> None:
    try:
        password.encode()
    except UnicodeEncodeError:
        return
    plain = config.render_session(V4).splitlines()
    lines = config.render_session(dataclasses.replace(V4, password=Secret(password))).splitlines()
    [line] = [line for line in lines if "md5-password" in line]
    assert [each for each in lines if "md5-" not in each] == plain
    assert base64.b64decode(line.split('"')[1]).decode() == password


@given(st.text(max_size=20))
def test_no_interface_name_opens_or_ends_a_block(name: str) -> None:
    session = dataclasses.replace(
        V6, peer=IPv6Address("fe80::2%x"), local_address=IPv6Address("fe80::1%x"), interface=name
    )
    try:
        text = config.render_session(session)
    except ValueError:
        return
    [line] = [line for line in text.split("\n") if "source-interface" in line]
    assert line == f'  source-interface "{name}";'
    assert not set(name) & set("\"'\\;#{}[], \n")
    assert name.isascii()


@pytest.mark.parametrize("word", ['a"b', "a'b", "a\nb"])
def test_a_path_that_cannot_be_quoted_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="cannot stand"):
        config.render([], [word])
