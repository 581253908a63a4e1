from __future__ import annotations

import pytest

from agent.local_addresses import LocalAddresses
from bgp.config import BgpConfig, Node, Peering
from inet.prefix import IPAddress, Prefix, parse_address

PEER, OURS, OTHER = map(parse_address, ("192.0.2.1", "192.0.2.11", "198.51.100.11"))
PEER6, OURS6 = map(parse_address, ("2001:db8::1", "2001:db8::11"))
NODE = Node("n1", (OURS,), (Prefix.parse("10.42.1.0/24"),), 64512)
CONFIG = BgpConfig(
    nodes={"n1": NODE},
    peerings=(
        Peering("tor", frozenset({"n1"}), address=PEER, asn=65100),
        Peering("tor6", frozenset({"n1"}), address=PEER6, asn=65100),
        Peering("elsewhere", frozenset({"n2"}), address=OTHER, asn=65100),
        Peering("nodes", frozenset({"n1"}), peer_nodes=frozenset({"n2"})),
    ),
)


class Kernel:
    def __init__(self) -> None:
        self.own = {OURS, OURS6, OTHER}
        self.sources: dict[IPAddress, IPAddress] = {PEER: OURS, PEER6: OURS6}
        self.error: OSError | None = None

    async def own_addresses(self) -> frozenset[IPAddress]:
        if self.error:
            raise self.error
        return frozenset(self.own)

    def source(self, address: IPAddress) -> IPAddress | None:
        return self.sources.get(address)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
async def local(kernel: Kernel) -> LocalAddresses:
    local = LocalAddresses(kernel)
    assert await local.look(CONFIG, NODE)
    return local


async def test_each_peer_of_this_node_that_has_an_address_is_spoken_to_as_the_kernel_would(
    local: LocalAddresses,
) -> None:
    assert local.by_peer == {PEER: OURS, PEER6: OURS6}
    assert not await local.look(CONFIG, NODE)


async def test_another_way_to_the_peer_changes_nothing_while_the_address_is_ours(
    local: LocalAddresses, kernel: Kernel
) -> None:
    kernel.sources[PEER] = OTHER
    assert not await local.look(CONFIG, NODE)
    assert local.by_peer[PEER] == OURS


async def test_an_address_that_is_gone_is_replaced_once_there_is_another(local: LocalAddresses, kernel: Kernel) -> None:
    kernel.own.discard(OURS)
    del kernel.sources[PEER]
    assert not await local.look(CONFIG, NODE)
    kernel.sources[PEER] = OTHER
    assert await local.look(CONFIG, NODE)
    assert local.by_peer == {PEER: OTHER, PEER6: OURS6}


async def test_a_kernel_that_does_not_answer_changes_nothing(local: LocalAddresses, kernel: Kernel) -> None:
    kernel.error = OSError("no")
    assert not await local.look(CONFIG, NODE)
    assert local.by_peer == {PEER: OURS, PEER6: OURS6}
