from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agent.cli.client import RefusedError
from agent.cli.main import app

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
        (("192.0.2.1", "192.0.2.2", "80"), "neither is in this cluster"),
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


def test_a_pod_that_an_agent_does_not_know_may_be_another_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: str) -> None:
        raise RefusedError("there is no pod shop/db-0")

    monkeypatch.setattr("agent.cli.client.ask", refuse)
    done = tortie("explain", "shop/front", "shop/db-0", "80/TCP")
    assert done.exit_code == 2
    assert "there is no pod shop/db-0; of another node's the agent knows the address alone" in done.output
