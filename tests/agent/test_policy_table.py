"""What the agent writes is what the rendered text says, as the kernel and `nft` see it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.datastore.directory import read_directory
from agent.objects.kinds import KINDS, Keyed, decode, key_of
from agent.objects.policy_objects import deletion_of, update_of
from agent.policy_table import change_of, content_of
from felix.namespaces import entered
from felix.nft.enforcement import Enforcement
from felix.nft.kerneltable import KernelRuleTable
from felix.nft.library import Library, LibraryError
from policy.compiler import Engine
from policy.nft import render
from tests.felix.netns import WHY_NOT, Node

pytestmark = pytest.mark.kernel

EXAMPLES = Path(__file__).parents[2] / "examples" / "policies"


@pytest.fixture
def spaces() -> Iterator[tuple[Node, Node]]:
    if WHY_NOT or shutil.which("nft") is None:
        pytest.skip(WHY_NOT or "needs nft (nftables)")
    nodes = Node(), Node()
    try:
        for node in nodes:
            node.build()
        yield nodes
    finally:
        for node in nodes:
            node.destroy()


def more() -> Keyed:
    """Return a policy with every kind of set and element."""
    rules = [
        {"to": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.1/32"]}}]},
        {
            "to": [{"ipBlock": {"cidr": "2000::/3", "except": ["2001:db8::/32"]}}],
            "ports": [{"port": 443}, {"port": 80}],
        },
        {"to": [{"namespaceSelector": {}}], "ports": [{"port": "sql"}, {"port": "http"}]},
        {"ports": [{"port": 8000, "endPort": 8999, "protocol": "UDP"}, {"protocol": "SCTP"}]},
    ]
    document: dict[str, Any] = {
        "metadata": {"name": "everything", "namespace": "shop"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": rules},
    }
    kind = KINDS["NetworkPolicy"]
    return decode(kind, key_of(kind, document), document)


def nft(node: Node, *words: str, text: str = "") -> str:
    command = ["ip", "netns", "exec", node.name, "nft", *words]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def listed(node: Node) -> list[str]:
    """Return the ruleset line by line, without counts and in no order: `nft` shows objects as they came."""
    return sorted(nft(node, "-s", "list", "ruleset").splitlines())


async def test_the_table_is_the_same_by_text_and_by_elements_at_once_and_step_by_step(
    spaces: tuple[Node, Node],
) -> None:
    written, loaded = spaces
    objects = [*read_directory(EXAMPLES)[0], more()]
    engine = Engine("n1")
    with entered(written.name):
        try:
            table = KernelRuleTable(Library())
        except LibraryError as error:
            pytest.skip(str(error))
        with contextlib.closing(table):
            keeper = Enforcement(table)
            assert (await keeper.sync(content_of(engine.ruleset))).refusals == ()
            for item in [*objects, *reversed(objects)]:
                for step in (update_of(item), deletion_of(item.key), update_of(item)):
                    assert step is not None
                    engine.apply(step)
                    if delta := engine.flush():
                        assert await keeper.change(change_of(delta)) == []
            assert (await keeper.sync(content_of(engine.ruleset))).differences == ()
    nft(loaded, "-f", "-", text=render(engine.ruleset))
    assert listed(written) == listed(loaded)
