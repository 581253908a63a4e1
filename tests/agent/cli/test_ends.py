"""Who is asked about a packet, and about whom; what is made of answers is `test_path.py`'s and `test_policy.py`'s."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from agent.cli import ends
from agent.cli.client import RefusedError, UnreachableError
from agent.cli.everywhere import Where
from agent.fleet import FleetError, Located, Outcome, Service
from agent.pathreport import UNKNOWN_END, End, Journey
from tests.agent.cli.asking import World, in_pod, said, world_of
from tests.agent.test_path import A, B, on_n1, on_n2

world = pytest.fixture(world_of)

NO_AGENT = UnreachableError("no agent at /run/tortie/agent.sock")
BOTH = {"n1": said(on_n1()), "n2": said(on_n2())}
FRONT, DB = in_pod("shop/front", "n1", A.address, "fd42::7"), in_pod("shop/db-0", "n2", B.address, "fd42:0:0:1::9")
LOCATED = {"shop/front": FRONT, "shop/db-0": DB}
QUESTION = ("path", "shop/front", "shop/db-0", "5432/TCP")
BY_ADDRESS = f"{A.address},fd42::7", f"{B.address},fd42:0:0:1::9", "5432/TCP"


def journey(text: str) -> Journey:
    return msgspec.json.decode(text, type=Journey)


EVERY_COMMAND = pytest.mark.parametrize("command", [("path",), ("policy", "explain")], ids=" ".join)
ENDS = ("shop/front", "shop/db-0")


@pytest.mark.parametrize(
    ("words", "what", "question"),
    [
        (("path", "--family", "ipv6", "--source-port", "40000"), "path", {"family": "ipv6", "sourcePort": "40000"}),
        (("policy", "explain", "--family", "ipv4"), "policy/explain", {"family": "ipv4"}),
    ],
    ids=["path", "policy explain"],
)
def test_the_agent_here_is_asked_what_was_given_and_nothing_else(
    world: World, words: tuple[str, ...], what: str, question: dict[str, str]
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    def here(what: str, question: dict[str, str]) -> NoReturn:
        asked.append((what, question))
        raise RefusedError("no")

    run, _ = world(here)
    command = [word for word in words if word in {"path", "policy", "explain"}]
    run(*words, *ENDS, "5432/TCP")
    run(*command, *ENDS, "--only-here")
    run(*command, "", "shop/db-0")
    assert asked == [
        (what, {"from": "shop/front", "to": "shop/db-0", "port": "5432/TCP"} | question),
        (what, {"from": "shop/front", "to": "shop/db-0"}),
        (what, {"from": "", "to": "shop/db-0"}),
    ]


@EVERY_COMMAND
@pytest.mark.parametrize("why", [NO_AGENT, RefusedError("there is no pod shop/front", UNKNOWN_END)])
def test_only_here_is_no_other_nodes_business_even_without_an_answer(
    world: World, command: tuple[str, ...], why: Exception
) -> None:
    run, fleet = world(why, BOTH, located=LOCATED)
    assert run(*command, *ENDS, "--only-here") == (2, f"tortie: {why}\n")
    assert fleet.asked == []


@EVERY_COMMAND
def test_which_cluster_is_meant_is_as_the_options_say(
    world: World, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = world(NO_AGENT)
    opened: list[Where] = []

    async def open_fleet(where: Where) -> NoReturn:
        opened.append(where)
        raise FleetError("no")

    monkeypatch.setattr(ends, "open_fleet", open_fleet)
    options = ("--kubeconfig", "file", "--context", "prod", "--namespace", "net", "--lab", "racks")
    run(*command, *ENDS, "--node", "n1", *options)
    assert opened == [Where("n1", kubeconfig=Path("file"), context="prod", namespace="net", lab="racks")]


def test_with_a_node_its_agent_is_asked_first_and_that_of_here_not_at_all(world: World) -> None:
    run, fleet = world(AssertionError("the agent here"), BOTH, located=LOCATED)
    status, text = run(*QUESTION, "--node", "n2")
    assert status == 0, text
    assert fleet.asked == [(node, ("path", "--only-here", "--", *BY_ADDRESS)) for node in ("n2", "n1")]


def test_a_node_that_cannot_be_asked_ends_with_status_2(world: World) -> None:
    run, _ = world(on_n1(), {"n2": "no agent pod is there"})
    status, text = run(*QUESTION)
    assert status == 2
    assert "n2 was not asked: no agent pod is there" in text


def test_without_a_cluster_the_part_of_this_node_is_shown(world: World) -> None:
    run, _ = world(on_n1())
    status, text = run(*QUESTION)
    assert status == 2
    assert "n2 was not asked: there is no cluster to ask" in text


def test_without_an_agent_here_the_nodes_that_the_cluster_names_are_asked_by_addresses(world: World) -> None:
    """An agent knows pods of other nodes only while some policy speaks of pods."""
    run, fleet = world(NO_AGENT, BOTH, located=LOCATED)
    status, text = run(*QUESTION)
    assert status == 0, text
    assert fleet.asked == [(node, ("path", "--only-here", "--", *BY_ADDRESS)) for node in ("n1", "n2")]


def test_what_is_on_this_node_alone_is_nobody_elses_business(world: World) -> None:
    run, fleet = world(on_n1(destination=msgspec.structs.replace(B, node="n1")), BOTH)
    fleet.error = "this is not to be asked"
    run(*QUESTION)
    assert fleet.asked == []


def test_without_an_agent_and_without_a_cluster_both_are_said(world: World) -> None:
    run, _ = world(NO_AGENT)
    assert run(*QUESTION) == (2, "tortie: no agent at /run/tortie/agent.sock; there is no cluster to ask\n")


def test_an_end_that_the_agent_here_does_not_know_is_looked_for_elsewhere(world: World) -> None:
    run, fleet = world(RefusedError("whatever it says", UNKNOWN_END), BOTH, located=LOCATED)
    assert run(*QUESTION)[0] == 0
    assert [node for node, _ in fleet.asked] == ["n1", "n2"]


def test_another_refusal_is_the_answer(world: World) -> None:
    run, fleet = world(RefusedError("'x' is not PORT/PROTOCOL"), BOTH, located=LOCATED)
    assert run("path", "shop/front", "shop/db-0", "x") == (2, "tortie: 'x' is not PORT/PROTOCOL\n")
    assert fleet.asked == []


def test_an_end_that_nobody_knows_is_an_error(world: World) -> None:
    refused = Outcome(2, b"", "tortie: there is no pod shop/nobody")
    run, _ = world(RefusedError("there is no pod shop/nobody", UNKNOWN_END), {"n1": refused})
    assert run("path", "shop/nobody", "shop/db-0") == (2, "tortie: there is no pod shop/nobody\n")
    run, _ = world(NO_AGENT, {"n1": refused})
    assert run("path", "shop/nobody", "shop/db-0") == (2, "tortie: n1: there is no pod shop/nobody\n")
    run, _ = world(RefusedError("there is no pod shop/nobody", UNKNOWN_END))
    status, text = run("path", "shop/nobody", "shop/db-0")
    assert (status, text.partition(";")[0]) == (2, "tortie: there is no pod shop/nobody")
    assert "knows the address alone, unless a policy speaks of pods" in text


def test_a_name_in_two_namespaces_is_asked_back(world: World) -> None:
    twins = [*in_pod("shop/front", "n1", A.address), *in_pod("other/front", "n2", B.address)]
    run, fleet = world(NO_AGENT, BOTH, located={"front": twins})
    refusal = "tortie: front may be any of other/front, shop/front: give its namespace\n"
    assert run("path", "front", "shop/db-0") == (2, refusal)
    assert fleet.asked == []
    assert fleet.is_closed


def test_a_pod_that_is_no_end_yet_says_why(world: World) -> None:
    pending = [Located("Pod", "shop/front", "n1", (), "pod shop/front has no address yet: it is Pending")]
    run, _ = world(NO_AGENT, BOTH, located=LOCATED | {"shop/front": pending})
    assert run(*QUESTION) == (2, "tortie: pod shop/front has no address yet: it is Pending\n")


def test_where_the_source_s_node_is_away_the_other_end_is_told(world: World) -> None:
    run, _ = world(NO_AGENT, {"n1": "its agent's pod is Pending", "n2": said(on_n2())}, located=LOCATED)
    status, text = run(*QUESTION)
    assert status == 2
    assert "n1 was not asked: its agent's pod is Pending" in text
    assert "ingress allowed by shop/in #2" in text


def test_about_addresses_that_nobody_has_any_node_is_asked_that_can_be(world: World) -> None:
    run, fleet = world(NO_AGENT, {"n1": "its agent's pod is Pending", "n2": said(on_n2())})
    run("path", A.address, B.address)
    assert [node for node, _ in fleet.asked] == ["n2", "n1"], "n2 says that n1 has a part in it"


def test_where_nobody_can_be_asked_each_says_why(world: World) -> None:
    run, _ = world(NO_AGENT, {"n1": "it is Pending", "n2": "it is gone"}, located=LOCATED)
    assert run(*QUESTION) == (2, "tortie: n1: it is Pending; n2: it is gone\n")


def test_a_cluster_that_says_no_ends_it_only_where_it_is_needed(world: World) -> None:
    run, fleet = world(NO_AGENT, BOTH)
    fleet.error = "list pods: 403 Forbidden"
    assert run(*QUESTION) == (2, "tortie: list pods: 403 Forbidden\n")
    run, fleet = world(on_n1(), BOTH)
    fleet.error = "list pods: 403 Forbidden"
    assert run(*QUESTION)[0] == 0
    assert fleet.asked == [("n2", ("path", "--only-here", "--", A.address, B.address, "5432/TCP"))]


def test_an_address_of_a_pod_of_another_node_is_known_to_the_cluster(world: World) -> None:
    """Of another node's pod the agent knows nothing, so its address may be anybody's to it."""
    run, fleet = world(on_n1(destination=End(B.address)), BOTH, located={B.address: DB})
    status, text = run("path", "shop/front", B.address, "-o", "json")
    assert status == 0
    assert (journey(text).destination.name, journey(text).destination.node) == ("shop/db-0", "n2")
    assert [node for node, _ in fleet.asked] == ["n2"]


@pytest.mark.parametrize("address", ["fd42:0:0:1::9", "[fd42:0:0:1::9]", "ip:10.42.1.9"])
def test_who_asks_by_an_address_means_its_family(world: World, address: str) -> None:
    run, fleet = world(NO_AGENT, BOTH, located=LOCATED | {address: DB})
    run("path", "shop/front", address, "5432/TCP")
    assert [words[-2] for _, words in fleet.asked] == [address, address]


def test_an_address_of_a_pod_of_another_node_is_known_to_that_node(world: World) -> None:
    """By the pod CIDR the agent knows whom to ask; a lab does not tell whose an address is."""
    run, _ = world(on_n1(destination=End(B.address, node="n2")), {"n2": said(on_n2(source=End(A.address)))})
    told = journey(run("path", "shop/front", B.address, "-o", "json")[1])
    assert (told.verdict, told.source.name, told.destination.name) == ("arrives", "shop/front", "shop/db-0")


def test_where_the_agent_knows_a_pod_what_it_says_counts(world: World) -> None:
    run, fleet = world(on_n1(), BOTH, located={"shop/db-0": in_pod("shop/db-0", "n3", B.address)})
    run(*QUESTION)
    assert [node for node, _ in fleet.asked] == ["n2"]


def test_where_the_agent_knows_who_is_meant_the_cluster_need_not(world: World) -> None:
    twins = [*in_pod("shop/db-0", "n2", B.address), *in_pod("other/db-0", "n2", "10.42.1.10")]
    run, _ = world(on_n1(), BOTH, located={"db-0": twins})
    assert run("path", "shop/front", "db-0", "5432/TCP")[0] == 0


def test_what_several_nodes_answer_alike_is_said_once(world: World) -> None:
    refused = Outcome(2, b"", "tortie: 'x' is not PORT/PROTOCOL")
    run, _ = world(NO_AGENT, {"n1": refused, "n2": refused}, located=LOCATED)
    assert run("path", "shop/front", "shop/db-0", "x") == (2, "tortie: n1, n2: 'x' is not PORT/PROTOCOL\n")


def test_names_that_only_the_first_node_knows_stay(world: World) -> None:
    nameless = on_n2(source=End(A.address), destination=B)
    run, _ = world(on_n1(), {"n2": said(nameless)})
    _, text = run(*QUESTION, "-o", "json")
    assert [facts.source.name for facts in journey(text).nodes] == ["shop/front", "shop/front"]


def test_what_another_version_says_is_no_traceback(world: World, tmp_path: Path) -> None:
    run, _ = world(on_n1(), {"n2": Outcome(0, b'{"node": 1}')})
    status, text = run(*QUESTION, "--socket", str(tmp_path / "agent.sock"))
    assert status == 2
    assert "n2 was not asked: it answers what is not understood here" in text


# Services

TO_SERVICE = ("path", "shop/front", "10.96.0.10", "53/udp", "-o", "json")
VIP = End("10.96.0.10")
IS_DNS = "is the address of Service kube-system/kube-dns"
DNS = Service("kube-system/kube-dns", "", ("kube-system/coredns-a", "kube-system/coredns-b"), {"53/UDP": "8053/UDP"})


@pytest.mark.parametrize(
    ("service", "words"),
    [
        (DNS, f"{IS_DNS}: kube-proxy puts a pod's in its place; ask about kube-system/coredns-a 8053/UDP, or 1 other"),
        (DNS._replace(ports={"53/TCP": "53/TCP"}), f"{IS_DNS}, which has no port 53/UDP: it has 53/TCP"),
        (DNS._replace(pods=()), f"{IS_DNS}, which no pod is ready to serve"),
        (Service(cidr="10.96.0.0/12"), "is a service address (of 10.96.0.0/12), but no Service has it"),
    ],
    ids=["pods", "other port", "no pods", "nobody's"],
)
def test_a_service_address_is_followed_to_whoever_serves_it_and_no_further(
    world: World, service: Service, words: str
) -> None:
    run, _ = world(on_n1(destination=VIP), BOTH, services={VIP.address: service})
    status, text = run(*TO_SERVICE)
    told = journey(text)
    assert (status, told.verdict, told.reason) == (2, "unknown", f"10.96.0.10 {words}")
    assert "route" not in [fact.what for stage in told.stages for fact in stage.facts], "it does not go there"


def test_a_port_without_its_protocol_is_one_of_tcp(world: World) -> None:
    service = DNS._replace(ports={"53/UDP": "8053/UDP", "53/TCP": "8054/TCP"})
    run, _ = world(on_n1(destination=VIP), BOTH, services={VIP.address: service})
    assert "ask about kube-system/coredns-a 8054/TCP, or" in run("path", "shop/front", VIP.address, "53")[1]


def test_an_address_of_no_service_is_of_the_range_that_configuration_says_where_the_server_does_not(
    world: World,
) -> None:
    run, _ = world(on_n1(destination=VIP, service="10.96.0.0/12"), BOTH, services={})
    told = journey(run(*TO_SERVICE)[1])
    assert told.reason == "10.96.0.10 is a service address (of 10.96.0.0/12), but no Service has it"


def test_a_pod_s_address_is_not_looked_for_among_services(world: World) -> None:
    run, _ = world(on_n1(knows_services=False), BOTH, services={B.address: DNS})
    told = journey(run(*QUESTION, "-o", "json")[1])
    assert (told.verdict, told.notes) == ("arrives", ())


def test_an_address_that_is_no_service_s_is_followed(world: World) -> None:
    run, _ = world(on_n1(destination=VIP, knows_services=False), BOTH, services={})
    status, text = run(*TO_SERVICE)
    assert (status, journey(text).verdict) == (0, "arrives")
    assert journey(text).notes == ("beyond n1 nobody of this cluster can be asked",)


def test_what_configuration_says_to_be_service_addresses_needs_no_cluster(world: World) -> None:
    run, _ = world(on_n1(destination=VIP, service="10.96.0.0/12"))
    status, text = run(*TO_SERVICE)
    assert (status, journey(text).reason.partition(":")[0]) == (2, "10.96.0.10 is a service address (of 10.96.0.0/12)")


@pytest.mark.parametrize(("address", "is_noted"), [("10.96.0.10", True), ("fd96::a", True), ("8.8.8.8", False)])
def test_where_nobody_knows_services_it_is_said_of_addresses_that_may_be_some(
    world: World, address: str, *, is_noted: bool
) -> None:
    run, _ = world(on_n1(destination=End(address), knows_services=False))
    notes = journey(run("path", "shop/front", address, "-o", "json")[1]).notes
    wanted = f"if {address} is a Service's, kube-proxy puts a pod's in its place before all this: n1 cannot tell"
    assert any(note.startswith(wanted) for note in notes) is is_noted


def test_what_may_be_a_service_s_is_said_below_the_picture(world: World) -> None:
    run, _ = world(on_n1(destination=VIP, knows_services=False))
    assert "\nnote: if 10.96.0.10 is a Service's" in run("path", "shop/front", VIP.address)[1]


def test_whoever_may_not_read_services_is_told_so(world: World) -> None:
    run, fleet = world(on_n1(destination=VIP, knows_services=False), BOTH)
    fleet.error = "list services: 403 Forbidden"
    notes = journey(run(*TO_SERVICE)[1]).notes
    why = "it could not be looked up: list services: 403 Forbidden"
    assert [note.endswith(why) for note in notes] == [True, False]
