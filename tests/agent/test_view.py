from __future__ import annotations

from typing import Any

from agent.datastore.fake import FakeDatastore
from agent.drops import DropWatch
from agent.enforcement import NodePolicy
from agent.report import CniReport
from agent.view import View
from bgp.speaker import SessionDown
from felix.resolver import Resolution
from inet.prefix import Prefix
from policy.compiler import Engine
from tests.agent.idle_network import idle_network
from tests.agent.routing_world import World


def view_of(world: World, *, is_synced: bool = True, **more: Any) -> View:
    datastore = FakeDatastore()
    if is_synced:
        datastore.listed()
    policy = NodePolicy("n1", None)
    network = idle_network(world.routing, policy)
    drops = DropWatch("n1", Engine("n1"), None)
    return View("n1", world.routing, policy, drops, datastore, network=network, **more)


async def started(world: World) -> View:
    await world.speaker.start()
    return view_of(world)


async def test_a_node_is_not_ready_before_its_objects_are_read(world: World) -> None:
    assert view_of(world, is_synced=False).unready() == (
        "NotSynced",
        "the objects have not been read yet; fake: reading",
    )


async def test_a_node_that_can_wire_no_pod_is_not_ready_and_says_why(world: World) -> None:
    await world.speaker.start()
    await world.configure(nodes={"n1": world.node(1)})
    view = view_of(world, cni=lambda: CniReport(conflist="/etc/x", hindrance="no space left"))
    assert view.unready() == ("NoPodNetwork", "no pod can be wired: no space left")
    assert view.status().cni.conflist == "/etc/x"


async def test_a_source_that_cannot_be_read_any_more_is_a_condition_and_no_reason_to_stop(world: World) -> None:
    await world.speaker.start()
    await world.configure(nodes={"n1": world.node(1)})
    datastore = FakeDatastore()
    datastore.listed()
    datastore.fail("permission denied")
    policy = NodePolicy("n1", None)
    network = idle_network(world.routing, policy)
    drops = DropWatch("n1", Engine("n1"), None)
    ready, unreadable, *_ = View("n1", world.routing, policy, drops, datastore, network=network).conditions()
    assert ready.status == "True"
    assert unreadable.message == "fake: permission denied; what was read before stays in force"


async def test_a_speaker_that_has_not_all_in_force_is_a_condition_and_no_reason_to_stop(world: World) -> None:
    view = await started(world)
    await world.configure(nodes={"n1": world.node(1)})
    world.speaker.last_error = "cannot write exabgp.conf: No space left on device"
    ready, impaired = view.conditions()
    assert ready.status == "True"
    assert (impaired.type, impaired.message) == ("SpeakerImpaired", world.speaker.last_error)


async def test_a_node_without_its_node_object_is_not_ready_and_says_which_one_is_missing(world: World) -> None:
    assert view_of(world).unready() == ("NodeMissing", "there is no Node object n1")


async def test_a_node_whose_speaker_does_not_run_is_not_ready(world: World) -> None:
    await world.configure()
    assert view_of(world).unready()[0] == "SpeakerDown"


async def test_a_node_with_no_session_up_is_not_ready_and_says_why_the_first_is_down(world: World) -> None:
    view = await started(world)
    await world.configure()
    world.speaker.hear(SessionDown(world.host(2), "connection refused", was_established=False))
    await world.settle()
    assert view.unready() == ("NoSession", f"no session is established; {world.host(2)}: connection refused")


async def test_one_peer_down_does_not_make_a_node_unready(world: World) -> None:
    view = await started(world)
    await world.configure()
    await world.up(2)
    assert view.unready() == ("", "")
    report = view.status()
    assert report.ready
    assert (report.sessions_established, report.sessions_configured) == (1, 2)


async def test_a_session_the_speaker_has_not_taken_over_yet_is_pending(world: World) -> None:
    view = await started(world)
    await world.configure()
    world.speaker.out_of_sync = frozenset({world.host(2)})
    assert view.status().sessions_pending == 1


async def test_a_node_alone_in_its_cluster_is_ready(world: World) -> None:
    view = await started(world)
    await world.configure(nodes={"n1": world.node(1)})
    assert view.unready() == ("", "")


async def test_a_node_whose_kernel_refuses_routes_is_not_ready(world: World) -> None:
    view = await started(world)
    await world.configure()
    await world.up(2)
    world.table.fail_next(12)
    await world.hear(2, [world.cidr(2)])
    assert view.unready() == ("KernelRefused", f"1 routes refused; {world.cidr(2)}: Cannot allocate memory")


async def test_sessions_are_listed_by_address_with_their_counts(world: World) -> None:
    view = await started(world)
    await world.configure()
    await world.up(3)
    await world.hear(3, [world.cidr(3), world.cidr(2)])
    down, up = view.peers()
    assert (down.peer, down.state, down.reason) == (str(world.host(2)), "Active", "connecting")
    assert down.uptime_seconds is None
    assert (up.peer, up.origin, up.state, up.reason) == (str(world.host(3)), "mesh/n3", "Established", "")
    (counts,) = up.families
    assert (counts.received, counts.accepted, counts.refused, counts.announced) == (2, 1, 1, 1)


async def test_a_lost_peer_shows_why_and_how_many_routes_are_kept(world: World) -> None:
    view = await started(world)
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    world.speaker.take_down(world.host(2), "connection reset by the peer")
    await world.settle()
    lost = view.peers()[0]
    assert (lost.state, lost.reason, lost.flaps) == ("Active", "connection reset by the peer", 1)
    assert lost.families[0].stale == 1


async def test_every_path_is_listed_with_what_became_of_it(world: World) -> None:
    view = await started(world)
    world.resolver.answers[world.host(12), None] = Resolution((), is_on_link=False, reason="the link eth1 is down")
    await world.with_routers(11, 12)
    for router in (11, 12):
        await world.up(router)
        await world.hear(router, [world.cidr(2)], path=[65100, 65002], med=7)
    used, unused = view.available()
    assert (used.used, used.note, used.as_path, used.med) == (True, "best: only path", [65100, 65002], 7)
    assert (unused.used, unused.note) == (False, f"next hop {world.host(12)} is unreachable: the link eth1 is down")


async def test_installed_routes_tell_where_they_come_from(world: World) -> None:
    view = await started(world)
    await world.with_routers(11)
    await world.up(11)
    await world.hear(11, [world.cidr(2)], path=[65100, 65002])
    own, learned = await view.installed()
    assert (own.prefix, own.via, own.origin, own.state) == (
        str(world.cidr(1)), ["blackhole"], "own pod CIDR", "in kernel",
    )  # fmt: skip
    assert (learned.prefix, learned.origin, learned.state) == (str(world.cidr(2)), "eBGP 65100 65002", "in kernel")
    assert learned.via == [f"{world.host(11)} lo"]


async def test_an_explanation_says_who_is_told_and_what_covers_an_unknown_prefix(world: World) -> None:
    view = await started(world)
    await world.configure()
    await world.up(2)
    await world.hear(2, [world.cidr(2)])
    own = await view.explain(world.cidr(1))
    assert own.advertised_to == [str(world.host(2))]
    assert own.note == "own pod CIDR of Node n1"
    inside = await view.explain(Prefix(world.cidr(2).packed, world.cidr(2).length + 1))
    assert inside.paths == []
    assert inside.note == f"no peer announces it; {world.cidr(2)} covers it"
