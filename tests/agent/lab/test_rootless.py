from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from agent.lab import rootless
from agent.lab.lab import Lab
from agent.lab.namespaces import CommandError, run
from agent.lab.state import LabError
from agent.lab.topology import parse

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
TORTIE = str(Path(sys.executable).with_name("tortie"))
TOPOLOGY = {
    "routers": {"r": {"daemon": "bird", "asn": 65100}},
    "nodes": {
        "n1": {"asn": 65001, "podCIDRs": ["10.42.0.0/24", "fd42::/64"], "pods": ["a1"]},
        "n2": {"daemon": "bird", "asn": 65002, "podCIDRs": ["10.42.1.0/24", "fd42:0:0:1::/64"], "pods": ["b1"]},
    },
    "links": [["n1", "r"], ["n2", "r"]],
}
MANIFESTS = """
apiVersion: tortie.dev/v1alpha1
kind: BGPConfiguration
metadata: {name: default}
spec: {localASN: 65001, nodeMesh: {enabled: false}}
---
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {name: r}
spec: {peer: {address: 172.16.1.1}, peerASN: 65100, families: [IPv4]}
---
apiVersion: tortie.dev/v1alpha1
kind: BGPPeer
metadata: {name: r-ipv6}
spec: {peer: {address: "fd16:1::1"}, peerASN: 65100, families: [IPv6]}
"""
SESSION = """
set -e
"$1" lab up "$2" >&2
for family in -4 -6; do
  for try in 1 2 3 4 5 6 7 8 9 10; do
    if "$1" lab exec a1 -- ping $family -c1 -W1 b1 >/dev/null; then echo "reached $family"; break; fi
  done
done
"$1" lab down
ip netns
"""


async def as_nobody(*argv: str) -> str:
    """Run a command as a user without rights."""
    if os.geteuid() != 0:
        return await run(argv)
    return await run([*NOBODY, *argv])


@pytest.fixture
async def topology(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that everybody may read. Skips where user namespaces are not for everybody, or BIRD is missing."""
    if shutil.which("bird") is None:
        pytest.skip("bird is not installed")
    try:
        await as_nobody(*rootless.command(["test", "-x", TORTIE]))
    except CommandError as error:
        pytest.skip(f"no user namespace for an unprivileged user here: {error.text.strip()}")
    directory = tmp_path_factory.mktemp("rootless")
    for path in (directory, *directory.parents[:3]):
        if str(path) not in {"/", "/tmp"}:
            path.chmod(path.stat().st_mode | 0o055)
    (directory / "manifests").mkdir(mode=0o755)
    (directory / "manifests" / "bgp.yaml").write_text(MANIFESTS)
    file = directory / "lab.yaml"
    file.write_text(yaml.safe_dump({**TOPOLOGY, "name": "rootless", "manifests": "manifests/"}))
    return file


@pytest.mark.interop
async def test_a_lab_lives_in_a_user_namespace(topology: Path) -> None:
    told = await as_nobody(*rootless.command(["sh", "-c", SESSION, "sh", TORTIE, str(topology)]))
    assert told.split("\n") == ["reached -4", "reached -6", ""]


async def test_who_is_not_root_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="run it as root, or first enter a namespace of your own:\nunshare --user"):
        await Lab.up(parse({**TOPOLOGY, "name": "x"}))


async def test_frr_is_refused_where_its_user_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr("agent.lab.rootless.has_user", lambda _name: False)
    topology = {"name": "x", "routers": {"r": {"daemon": "frr", "asn": 65100}}}
    with pytest.raises(LabError, match="r: FRR changes to its user frr, who is not in this user namespace"):
        await Lab.up(parse(topology))


def test_a_user_is_known_by_name_and_by_the_namespace() -> None:
    assert rootless.has_user("nobody") == (os.geteuid() == 0)
    assert not rootless.has_user("no such user")
