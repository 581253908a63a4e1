from __future__ import annotations

from pathlib import Path

import pytest

from agent.policy_check import check_policies

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {nodeName: n1, containers: [{ports: [{name: sql, containerPort: 5432}]}]}
status: {podIPs: [{ip: 10.42.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: lonely, namespace: shop}
spec: {nodeName: n1}
status: {podIPs: [{ip: 10.42.0.3}]}
"""

POLICY = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: %s
  namespace: shop
spec:
  podSelector: {matchLabels: {app: %s}}
  ingress:
"""


def said(directory: Path, **files: str) -> list[str]:
    for name, text in {"pods": PODS, **files}.items():
        (directory / f"{name}.yaml").write_text(text)
    found = [str(problem).removeprefix(f"{directory}/") for problem in check_policies(directory)]
    return [each for each in found if "Pod shop/lonely" not in each]


def test_a_pod_that_no_policy_selects_is_found_where_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "pods.yaml").write_text(PODS)
    (tmp_path / "p.yaml").write_text(POLICY % ("in", "db") + "  - {}\n")
    (problem,) = check_policies(tmp_path)
    assert (problem.file, problem.line, problem.name) == (str(tmp_path / "pods.yaml"), 7, "lonely")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (
            POLICY % ("in", "nobody") + "  - {}\n",
            "p.yaml:1: NetworkPolicy shop/in: selects no pod: ns shop, app=nobody",
        ),
        (
            POLICY % ("in", "db") + "  - from: [{podSelector: {matchLabels: {app: db}}}]\n  - from:\n    - ipBlock:\n"
            "        cidr: 10.0.0.0/8\n        except: [10.0.0.0/9, 10.128.0.0/9]\n",
            "p.yaml:10: NetworkPolicy shop/in: spec.ingress[1]: can never match",
        ),
        (
            POLICY % ("in", "db") + "  - ports:\n    - port: 80\n  - ports:\n    - port: 80\n",
            "p.yaml:11: NetworkPolicy shop/in: spec.ingress[1]: never decides: rule 1 before it",
        ),
        (
            POLICY % ("in", "db") + "  - from: [{podSelector: {matchLabels: {app: ghost}}}]\n",
            "p.yaml:9: NetworkPolicy shop/in: spec.ingress[0]: matches nothing in these manifests: nobody is app=ghost",
        ),
        (
            POLICY % ("in", "db") + "  - ports: [{port: http}]\n",
            "p.yaml:9: NetworkPolicy shop/in: spec.ingress[0]: matches nothing in these manifests: no pod has a port",
        ),
        (
            POLICY % ("in", "db") + "  - ports: [{port: 0}]\n",
            "p.yaml:9: NetworkPolicy shop/in: spec.ingress[0].ports[0].port: Invalid value: 0: ",
        ),
    ],
    ids=["selects nothing", "nothing left", "covered", "nobody", "no such port", "refused"],
)
def test_every_finding_names_file_and_line(tmp_path: Path, policy: str, expected: str) -> None:
    assert any(each.startswith(expected) for each in said(tmp_path, p=policy)), said(tmp_path, p=policy)


def test_domain_names_that_are_not_enforced_are_found_where_they_are_written(tmp_path: Path) -> None:
    text = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: web}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  egress:
  - action: Accept
    to: [{domainNames: [example.com]}]
"""
    (found,) = said(tmp_path, p=text)
    assert found.startswith(
        "p.yaml:9: ClusterNetworkPolicy web: spec.egress[0]: domain names example.com: not enforced"
    )


def test_an_item_of_a_list_is_found_within_it(tmp_path: Path) -> None:
    indented = "".join(f"  {line}\n" for line in (POLICY % ("in", "nobody") + "  - {}").splitlines())
    text = "apiVersion: v1\nkind: List\nitems:\n- " + indented[2:]
    assert said(tmp_path, p=text)[:1] == ["p.yaml:4: NetworkPolicy shop/in: selects no pod: ns shop, app=nobody"]


def test_without_pods_nothing_is_said_about_whom_a_policy_finds(tmp_path: Path) -> None:
    assert said(tmp_path, pods="", p=POLICY % ("in", "nobody") + "  - from: [{podSelector: {}}]\n") == []
