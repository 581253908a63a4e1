from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from typer.testing import CliRunner

from agent.cli.client import UnreachableError
from agent.cli.main import app
from agent.fleet import Service
from agent.pathreport import End, PolicyFacts
from policy.explain import Explanation, RuleStory, TierStory
from policy.resident import Resident
from tests.agent.cli.asking import World, in_pod, said, world_of

EXAMPLES = Path(__file__).parents[3] / "examples" / "policies"


def tortie(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["policy", *map(str, words)], input=stdin)


def case(*probes: dict[str, Any], **more: Any) -> dict[str, Any]:
    deny = {"metadata": {"name": "deny", "namespace": "x"}, "spec": {"podSelector": {"matchLabels": {"app": "b"}}}}
    return {
        "name": "deny-b",
        "pods": [
            {"ns": "x", "name": "a", "labels": {"app": "a"}, "ip": "10.0.0.1"},
            {"ns": "x", "name": "b", "labels": {"app": "b"}, "ip": "10.0.0.2"},
        ],
        "policies": [deny],
        "probes": list(probes),
        **more,
    }


def probe(source: str, destination: str, expect: str = "") -> dict[str, Any]:
    asked = {"from": source, "to": destination, "port": 80, "protocol": "TCP"}
    return asked | ({"expect": expect} if expect else {})


RIGHT, WRONG = probe("x/a", "x/b", "deny"), probe("x/b", "x/a", "deny")

EVERY_ENGINE = pytest.mark.parametrize("engine", ["ir", "nft"])
EVERY_FAMILY = pytest.mark.parametrize("family", ["ipv4", "ipv6"])


@EVERY_ENGINE
@EVERY_FAMILY
def test_a_case_on_standard_input_that_expects_nothing_is_answered_in_order(engine: str, family: str) -> None:
    asked = json.dumps(case(probe("x/a", "x/b"), probe("x/b", "x/a"), probe("ip:192.0.2.1", "x/b")))
    result = tortie("verdicts", "-", "--engine", engine, "--family", family, stdin=asked)
    assert json.loads(result.stdout) == ["deny", "allow", "deny"]
    assert result.exit_code == 0


@EVERY_ENGINE
def test_every_case_has_a_line_and_a_difference_ends_in_status_1(tmp_path: Path, engine: str) -> None:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [case(RIGHT), case(RIGHT, WRONG, name="wrong")]}))
    result = tortie("verdicts", file, "--engine", engine)
    assert result.stdout.splitlines() == [
        "ok    deny-b  1 probes",
        "FAIL  wrong  2 probes, 1 differ",
        "        x/b → x/a 80/TCP: expected deny, got allow",
        "1 passed, 1 failed",
    ]
    assert result.exit_code == 1


def test_all_as_expected_ends_in_status_0_and_json_has_the_same(tmp_path: Path) -> None:
    file = tmp_path / "cases.json"
    file.write_text(json.dumps({"cases": [case(RIGHT)]}))
    result = tortie("verdicts", file, "-o", "json")
    assert json.loads(result.stdout) == {
        "passed": 1,
        "failed": 0,
        "cases": [{"name": "deny-b", "probes": 1, "differences": [], "skipped": 0}],
    }
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("{", "not JSON"),
        ("[]", "case 0 is not an object"),
        ('{"name": "c"}', "c: 'pods' is missing"),
        (json.dumps(case(probe("x/a", "x/zz"))), "deny-b: 'x/zz' is missing"),
        (json.dumps(case(policies=[{"metadata": {"name": "-"}}])), "deny-b: metadata.name: Invalid value"),
    ],
)
def test_a_case_that_cannot_be_run_ends_in_status_2_with_the_reason(content: str, wanted: str) -> None:
    result = tortie("verdicts", "-", stdin=content)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_a_file_that_is_not_there_ends_in_status_2() -> None:
    result = tortie("verdicts", "/nowhere.json")
    assert (result.exit_code, "No such file" in result.stderr) == (2, True)


@EVERY_FAMILY
def test_a_denial_is_explained_from_files_with_policies_rules_and_chains(family: str) -> None:
    result = tortie("explain", "shop/front", "shop/db", "5432/TCP", "--config", EXAMPLES, "--family", family)
    assert result.exit_code == 1
    assert result.stdout.startswith("DENIED   shop/front (")
    assert "NetworkPolicy shop/db-in rule 1  from app=api: front has app=front   port 5432/TCP ok" in result.stdout
    assert f"nft ingress  chain ingress{family[-1]}_policy_" in result.stdout


def test_an_explanation_as_json_names_the_rule_and_the_member_of_the_set() -> None:
    result = tortie("explain", "api", "db", "5432", "--config", EXAMPLES, "-o", "json")
    story = json.loads(result.stdout)
    assert (result.exit_code, story["verdict"]) == (0, "allow")
    assert story["tiers"][-1]["decidedBy"] == "NetworkPolicy shop/db-in rule 1"
    assert story["tiers"][-1]["sets"][0].endswith("(ns shop, app=api) holds 10.42.0.3")


def test_a_verdict_that_differs_in_the_other_family_is_told(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "m")
    (tmp_path / "m" / "more.yaml").write_text("""\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: v6, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{ipBlock: {cidr: "fd42::/64"}}]}]}
""")
    result = tortie("explain", "front", "db", "5432", "--config", tmp_path / "m")
    assert result.exit_code == 1
    assert "IPv6 (fd42::2 → fd42:0:0:1::2) is allowed" in result.stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("shop/nobody", "db", "80"), "there is no pod shop/nobody"),
        (("nobody", "db", "80"), "there is no pod or node nobody"),
        (("api", "node:n9", "80"), "there is no Node n9: n1, n2"),
        (("api", "db", "80/ICMP"), "is not PORT/PROTOCOL"),
        (("192.0.2.1", "192.0.2.2", "80"), "neither end is in this cluster"),
    ],
)
def test_a_question_that_cannot_be_answered_ends_in_status_2(words: tuple[str, ...], wanted: str) -> None:
    result = tortie("explain", *words, "--config", EXAMPLES)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_a_question_without_files_goes_to_the_agent() -> None:
    result = tortie("explain", "shop/api", "shop/db", "80", "--socket", "/nowhere.sock")
    assert result.exit_code == 2
    assert "no agent at /nowhere.sock" in result.stderr


def test_what_is_compiled_is_what_nft_takes() -> None:
    result = tortie("compile", EXAMPLES, "--node", "n1")
    assert result.exit_code == 0
    assert result.stdout.startswith("table inet tortie {\n")
    if shutil.which("nft"):
        checked = subprocess.run(
            ["unshare", "--net", "nft", "-c", "-f", "-"],
            input=result.stdout,
            text=True,
            capture_output=True,
            check=False,
        )
        assert not checked.stderr or "Operation not permitted" in checked.stderr


def test_a_node_nobody_knows_is_not_compiled_for() -> None:
    result = tortie("compile", EXAMPLES, "--node", "n9")
    assert (result.exit_code, "there is no Node n9 and no pod on it; there is n1, n2" in result.stderr) == (2, True)


def test_the_examples_have_no_problems() -> None:
    result = tortie("check", EXAMPLES)
    assert (result.exit_code, result.stdout) == (0, "no problems\n")


MORE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: never, namespace: shop}
spec:
  podSelector: {}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/25, except: [10.0.0.0/26, 10.0.0.64/26]}}]
  - from: [{podSelector: {matchLabels: {app: gone}}}]
  - ports: [{port: nothing}]
  - ports: [{port: 80}]
  - from: [{podSelector: {}}]
    ports: [{port: 80}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nobody, namespace: shop}
spec: {podSelector: {matchLabels: {app: gone}}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress: [{action: Accept, to: [{domainNames: [example.com]}]}]
"""


def test_refused_unmatched_and_missing_policies_are_found(tmp_path: Path) -> None:
    file = tmp_path / "more.yaml"
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    file.write_text(MORE)
    result = tortie("check", tmp_path)
    assert result.exit_code == 1
    wanted = [
        f"{file}:6: NetworkPolicy shop/bad: spec.ingress[0].from[0].ipBlock.cidr: ",
        f"{file}:14: NetworkPolicy shop/never: spec.ingress[0]: can never match: nothing is left of its peers",
        f"{file}:15: NetworkPolicy shop/never: spec.ingress[1]: matches nothing in these manifests: nobody is",
        f"{file}:16: NetworkPolicy shop/never: spec.ingress[2]: matches nothing in these manifests: no pod has a port",
        f"{file}:18: NetworkPolicy shop/never: spec.ingress[4]: never decides: rule 4 before it",
        f"{file}:21: NetworkPolicy shop/nobody: selects no pod: ns shop, app=gone",
        f"{file}:33: ClusterNetworkPolicy names: spec.egress[0]: ",
        "7 problems",
    ]
    lines = result.stdout.splitlines()
    assert len(lines) == len(wanted), lines
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(start)


def test_pods_that_no_policy_selects_are_found(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "shop.yaml", tmp_path)
    result = tortie("check", tmp_path, "-o", "json")
    found = json.loads(result.stdout)
    assert [(each["namespace"], each["name"]) for each in found] == [
        ("shop", "front"),
        ("shop", "api"),
        ("shop", "db"),
        ("ops", "probe"),
    ]
    assert found[0]["message"] == "no policy selects it: everything to and from it is allowed"


# Running agents at both ends

RULE = RuleStory("shop/out", 1, "", "Accept", matches=True, peers=(), ports=())
OUT = TierStory(
    "egress", "Accept", "n1", "NetworkPolicy", "egress4_x", ("shop/out",), "shop/out #1", rules=(RULE,), packets=7
)
IN = TierStory("ingress", "Deny", "n2", "NetworkPolicy", "ingress4_y", ("shop/in",), packets=41)
HEARSAY = msgspec.structs.replace(IN, packets=None)
SOURCE, DESTINATION = "10.42.0.7", "10.42.1.9"


def part(*tiers: TierStory, source: str = "", destination: str = "", six: bool = False) -> Explanation:
    ends = ("fd42::7", "fd42:0:0:1::9") if six else (SOURCE, DESTINATION)
    residents = (
        Resident(address, "Pod" if name else "", name)
        for address, name in zip(ends, (source, destination), strict=True)
    )
    verdict = "deny" if any(tier.action == "Deny" for tier in tiers) else "allow"
    return Explanation(verdict, *residents, "TCP", 5432, tiers, ())


def facts(node: str, stories: dict[str, tuple[Explanation, ...]], **more: Any) -> PolicyFacts:
    """What a node says that knows its own pod by name, and of the other nothing but its address."""
    source = End(SOURCE, "Pod", "shop/front", "n1") if node == "n1" else End(SOURCE)
    destination = End(DESTINATION, "Pod", "shop/db-0", "n2") if node == "n2" else End(DESTINATION)
    return PolicyFacts(node, **{"source": source, "destination": destination, "stories": stories} | more)


FROM_N1 = facts("n1", {"n1": (part(OUT, source="shop/front"),)})
FROM_N2 = facts("n2", {"n2": (part(IN, destination="shop/db-0"),)})
DB = End(DESTINATION, "Pod", "shop/db-0", "n2")
KNOWS_BOTH = facts("n1", {"n1": (part(OUT),), "n2": (part(HEARSAY),)}, destination=DB)
LOCATED = {
    "shop/front": in_pod("shop/front", "n1", SOURCE),
    "shop/db-0": in_pod("shop/db-0", "n2", DESTINATION),
}
WORDS = ("policy", "explain", "shop/front", "shop/db-0", "5432/TCP")
NO_AGENT = UnreachableError("no agent here")

world = pytest.fixture(world_of)


def test_each_end_is_asked_for_its_own_part_and_both_are_one_verdict(world: World) -> None:
    run, fleet = world(NO_AGENT, {"n1": said(FROM_N1), "n2": said(FROM_N2)}, located=LOCATED)
    status, text = run(*WORDS)
    assert status == 1
    assert text.splitlines() == [
        "DENIED   shop/front (10.42.0.7) → shop/db-0 (10.42.1.9) 5432/TCP",
        "  egress   allowed  shop/out #1: to anybody   every port",
        "  ingress  DENIED   shop/in selects the pod; none of its rules matches",
        "  nft egress   chain egress4_x, 7 packets so far on n1",
        "  nft ingress  chain ingress4_y, 41 packets so far on n2",
    ]
    words = ("policy", "explain", "--only-here", "--", SOURCE, DESTINATION, "5432/TCP")
    assert fleet.asked == [("n1", words), ("n2", words)]


def test_the_verdict_as_json_says_whose_each_tier_is(world: World) -> None:
    run, _ = world(NO_AGENT, {"n1": said(FROM_N1), "n2": said(FROM_N2)}, located=LOCATED)
    story = json.loads(run(*WORDS, "-o", "json")[1])
    assert (story["verdict"], story["source"]["name"], story["destination"]["name"]) == (
        "deny", "shop/front", "shop/db-0"
    )  # fmt: skip
    assert [(tier["node"], tier["direction"], tier["packets"]) for tier in story["tiers"]] == [
        ("n1", "egress", 7),
        ("n2", "ingress", 41),
    ]


def test_on_a_node_the_other_end_is_asked_where_it_can_be(world: World) -> None:
    run, fleet = world(KNOWS_BOTH, {"n2": said(FROM_N2)})
    story = json.loads(run(*WORDS, "-o", "json")[1])
    assert [tier["packets"] for tier in story["tiers"]] == [7, 41], "n2's own"
    assert [node for node, _ in fleet.asked] == ["n2"]


def test_a_part_that_another_node_tells_is_said_to_be(world: World) -> None:
    run, _ = world(KNOWS_BOTH)
    status, text = run(*WORDS)
    assert status == 1
    assert "  n2 was not asked: there is no cluster to ask; its part is as n1 knows it\n" in text


@pytest.mark.parametrize(("tier", "verdict", "status"), [(OUT, "unknown", 2), (IN, "deny", 1)])
def test_without_a_part_that_nobody_knows_only_a_no_is_certain(
    world: World, tier: TierStory, verdict: str, status: int
) -> None:
    told = facts("n1", {"n1": (part(tier),)})
    run, _ = world(NO_AGENT, {"n1": said(told), "n2": "its agent's pod is Pending"}, located=LOCATED)
    ended, text = run(*WORDS, "-o", "json")
    story = json.loads(text)
    assert (ended, story["verdict"]) == (status, verdict)
    assert "n2 was not asked: its agent's pod is Pending" in story["reasons"]


def test_whom_no_agent_knows_by_name_has_the_one_of_the_cluster(world: World) -> None:
    run, _ = world(NO_AGENT, {"n1": said(facts("n1", {"n1": (part(OUT),)})), "n2": "it is gone"}, located=LOCATED)
    story = json.loads(run(*WORDS, "-o", "json")[1])
    names = [(story[end]["kind"], story[end]["name"], story[end]["node"]) for end in ("source", "destination")]
    assert names == [("Pod", "shop/front", "n1"), ("Pod", "shop/db-0", "n2")]


def test_both_families_of_both_ends_are_asked_about(world: World) -> None:
    four, six = part(OUT), part(OUT, six=True)
    there = facts("n2", {"n2": (part(), part(IN, six=True))})
    located = {
        "shop/front": in_pod("shop/front", "n1", SOURCE, "fd42::7"),
        "shop/db-0": in_pod("shop/db-0", "n2", DESTINATION, "fd42:0:0:1::9"),
    }
    run, fleet = world(NO_AGENT, {"n1": said(facts("n1", {"n1": (four, six)})), "n2": said(there)}, located=located)
    status, text = run(*WORDS)
    assert status == 0
    assert "  IPv6 (fd42::7 → fd42:0:0:1::9) is DENIED\n" in text
    assert fleet.asked[1][1][-3:-1] == (f"{SOURCE},fd42::7", f"{DESTINATION},fd42:0:0:1::9")


def test_policy_says_nothing_of_a_service_address_but_whose_it_is(world: World) -> None:
    service = Service("shop/db", "", ("shop/db-0",), {"5432/TCP": "5432/TCP"})
    vip = facts("n1", {"n1": (part(OUT),)}, destination=End("10.96.0.10"))
    run, _ = world(vip, {}, services={"10.96.0.10": service})
    status, text = run("policy", "explain", "shop/front", "10.96.0.10", "5432/TCP")
    assert status == 2
    assert text.startswith("UNKNOWN ")
    assert "ask about shop/db-0 5432/TCP" in text


def test_of_what_may_be_a_service_address_policy_says_that_it_may(world: World) -> None:
    run, _ = world(facts("n1", {"n1": (part(OUT),)}, destination=End("10.96.0.10"), knows_services=False))
    story = json.loads(run("policy", "explain", "shop/front", "10.96.0.10", "-o", "json")[1])
    assert [reason.startswith("if 10.96.0.10 is a Service's") for reason in story["reasons"]] == [True]


def test_only_here_is_what_the_agent_said_of_policy(world: World) -> None:
    run, fleet = world(FROM_N1, {})
    status, text = run(*WORDS, "--only-here")
    assert (status, msgspec.json.decode(text, type=PolicyFacts)) == (0, FROM_N1)
    assert fleet.asked == []


@pytest.mark.parametrize("option", [("--node", "n1"), ("--only-here",)])
def test_manifests_are_of_no_node(option: tuple[str, ...]) -> None:
    result = tortie("explain", "api", "db", "5432", "--config", EXAMPLES, *option)
    assert (result.exit_code, "--config: manifests are asked, no agent" in result.stderr) == (2, True)


def test_a_family_is_one_however_it_is_written() -> None:
    assert "(fd42::2" in tortie("explain", "front", "db", "80", "--config", EXAMPLES, "--family", "IPv6").stdout


def test_without_a_port_it_is_a_ping() -> None:
    result = tortie("explain", "shop/api", "shop/db", "--config", EXAMPLES)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith(" ICMP")
