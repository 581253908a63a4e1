"""`exabgp validate` without DNS, as the program that the agent runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bgp.speaker.exabgp import process

VALIDATOR = Path(process.__file__).with_name("validator.py")
GOLDEN = Path(__file__).parent / "golden"
ENVIRONMENT = process._environment() | {"exabgp_log_level": "CRITICAL"}

NAMESERVER = """
import socket, subprocess, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    asked.bind(("127.0.0.1", 53))
    asked.setblocking(False)
    status = subprocess.run(sys.argv[1:]).returncode
    try:
        asked.recv(512)
        print("asked")
    except BlockingIOError:
        print("not asked")
sys.exit(status)
"""
"""Runs a program, and says whether anything was asked of the nameserver on this loopback, which answers nothing."""

APART = """
ip link set lo up && hostname nobody-knows-me &&
mount --bind "$1/resolv.conf" /etc/resolv.conf && mount --bind "$1/hosts" /etc/hosts &&
mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf && shift && exec "$@"
"""


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(VALIDATOR), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("*.conf")), ids=lambda file: file.stem)
def test_what_we_write_is_good_and_nothing_is_said_of_it(file: Path) -> None:
    done = validate(file)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("line", "named"),
    [("hold-time x;", "hold-time"), ("peer-as 4294967296;", "peer-as"), ("no-such-thing 1;", "no-such-thing")],
)
def test_what_is_wrong_is_named(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "bad.conf"
    file.write_text(f"neighbor 10.0.0.2 {{\n router-id 10.0.0.1; local-address 10.0.0.1; local-as 1;\n {line}\n}}\n")
    done = validate(file)
    assert done.returncode != 0
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_not_taken_for_a_good_one(tmp_path: Path) -> None:
    assert validate(tmp_path / "missing.conf").returncode != 0


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces")
@pytest.mark.parametrize(
    ("program", "said"),
    [(["-I", str(VALIDATOR)], "not asked"), (["-m", "exabgp", "validate"], "asked")],
    ids=["validator.py", "exabgp validate"],
)
def test_no_nameserver_is_asked_which_exabgp_itself_waits_for(tmp_path: Path, program: list[str], said: str) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    (tmp_path / "nsswitch.conf").write_text("hosts: files dns\n")
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "sh", "-c", APART, "sh", str(tmp_path),
         sys.executable, "-c", NAMESERVER, sys.executable, *program, str(GOLDEN / "ibgp.conf")],
        capture_output=True, text=True, check=False, timeout=60, env=ENVIRONMENT | {"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == said
