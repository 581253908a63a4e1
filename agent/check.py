"""What `tortie config check` finds: bad documents, and objects that contradict each other on some node."""

from __future__ import annotations

from pathlib import Path

from agent.datastore.directory import read_directory
from agent.objects.problem import Problem
from agent.translate import problem_of, translate
from bgp.peering import plan


def check_manifests(directory: Path) -> list[Problem]:
    """Return everything that would not be taken as written, sorted by file and line, then by object."""
    objects, problems = read_directory(directory)
    config, complaints = translate(objects)
    found = set(problems) | {problem_of(complaint) for complaint in complaints}
    for node in config.nodes.values():
        # The kernel's source address towards a peer is known only on the node itself: take the node's own.
        sources = {
            peering.address: address
            for peering in config.peerings
            if peering.address is not None
            for address in node.addresses
            if address.version == peering.address.version
        }
        found |= {problem_of(complaint) for complaint in plan(config, node, sources).complaints}
    return sorted(found)
