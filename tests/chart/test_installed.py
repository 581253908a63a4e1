"""Installed, upgraded and removed by Helm's own engine on a real API server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

from tests.chart.rendering import CHART, NAMESPACE, RELEASE, VALUE_SETS, documents, hooks, objects
from tests.kubernetes import assets
from tests.kubernetes.cluster import ApiError, Cluster, path_of
from tests.kubernetes.node import until

pytestmark = pytest.mark.kubernetes

CRD = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
PEERS = CRD | {"metadata": {"name": "bgppeers.tortie.dev"}}
AGENT = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "tortie-agent", "namespace": NAMESPACE},
}
PEER = {
    "apiVersion": "tortie.dev/v1alpha1",
    "kind": "BGPPeer",
    "metadata": {"name": "tor-1"},
    "spec": {"peer": {"address": "172.16.1.1"}, "peerASN": 65100},
}
PODS = {"apiVersion": "v1", "kind": "Pod"}
OUR_KINDS = {path.stem.removeprefix("tortie.dev_") + ".tortie.dev" for path in (CHART / "crds").glob("*.yaml")}


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster nobody has installed anything on."""
    if reason := assets.missing(*assets.SERVER):
        pytest.skip(reason)
    with Cluster.started(tmp_path) as running:
        yield running


@pytest.fixture
def engine(empty: Cluster) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=empty.kubeconfig(), namespace=NAMESPACE) as config:
        yield config


def install(engine: helm.Config, values: dict[str, Any] | None = None, name: str = RELEASE) -> dict[str, Any]:
    with helm.Chart.load(CHART) as chart:
        return dict(engine.install(chart, name, values, namespace=NAMESPACE, create_namespace=True))


def upgrade(engine: helm.Config, path: Path = CHART, values: dict[str, Any] | None = None) -> dict[str, Any]:
    with helm.Chart.load(path) as chart:
        return dict(engine.upgrade(chart, RELEASE, values, namespace=NAMESPACE))


def definitions(cluster: Cluster) -> set[str]:
    return set(cluster.kubectl("get", "crd", "-o", "jsonpath={.items[*].metadata.name}").split())


def next_version(directory: Path) -> Path:
    """Return a chart whose BGPPeer has a field more, and that has a kind more."""
    chart = Path(shutil.copytree(CHART, directory / "next"))
    peers = chart / "crds" / "tortie.dev_bgppeers.yaml"
    definition = yaml.safe_load(peers.read_text())
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["colour"] = {"type": "string"}
    peers.write_text(yaml.safe_dump(definition))
    definition["metadata"]["name"] = "bgpcolours.tortie.dev"
    definition["spec"]["names"] = {"kind": "BGPColour", "plural": "bgpcolours"}
    (chart / "crds" / "tortie.dev_bgpcolours.yaml").write_text(yaml.safe_dump(definition))
    return chart


def test_one_install_brings_kinds_agent_and_configuration(empty: Cluster, engine: helm.Config) -> None:
    said = VALUE_SETS["everything"] | {"metrics": {"enabled": True}}

    release = install(engine, said)

    assert release["status"] == "deployed"
    assert "do not belong to this release" not in release["notes"]
    assert definitions(empty) >= OUR_KINDS
    assert empty.get(AGENT)["spec"]["template"]["spec"]["hostNetwork"] is True
    bgp, network = (
        empty.request("GET", f"/apis/tortie.dev/v1alpha1/{plural}/default")["spec"]
        for plural in ("bgpconfigurations", "networkconfigurations")
    )
    assert (bgp["localASN"], bgp["nodeMesh"]) == (4200000001, {"enabled": False})
    assert network["podCIDRs"] == said["networkConfiguration"]["podCIDRs"]


def test_an_upgrade_brings_new_fields_and_new_kinds_and_leaves_objects_alone(
    empty: Cluster, engine: helm.Config, tmp_path: Path
) -> None:
    install(engine)
    empty.apply(PEER)
    uid = empty.get(PEER)["metadata"]["uid"]

    upgrade(engine, next_version(tmp_path))

    assert "bgpcolours.tortie.dev" in definitions(empty)
    empty.apply(PEER | {"spec": PEER["spec"] | {"colour": "red"}})
    assert empty.get(PEER)["spec"]["colour"] == "red"
    assert empty.get(PEER)["metadata"]["uid"] == uid


def test_an_upgrade_leaves_the_kinds_alone_where_it_is_told_to(
    empty: Cluster, engine: helm.Config, tmp_path: Path
) -> None:
    install(engine)

    upgrade(engine, next_version(tmp_path), {"crds": {"upgrade": False}})

    assert definitions(empty) >= OUR_KINDS
    assert "colour" not in str(empty.get(PEERS))


def test_an_uninstall_takes_everything_but_kinds_and_objects_and_can_be_undone(
    empty: Cluster, engine: helm.Config
) -> None:
    install(engine)
    upgrade(engine)
    empty.apply(PEER)

    engine.uninstall(RELEASE)

    with pytest.raises(ApiError, match="404"):
        empty.get(AGENT)
    assert "tortie" not in empty.kubectl("get", "clusterrole,clusterrolebinding", "-o", "name")
    assert definitions(empty) >= OUR_KINDS
    assert empty.get(PEER)["spec"]["peerASN"] == 65100
    assert install(engine)["status"] == "deployed"
    assert empty.get(PEER)["spec"]["peerASN"] == 65100


def test_a_release_of_another_name_says_how_the_kinds_become_its_own_and_then_upgrades_them(
    empty: Cluster, tmp_path: Path
) -> None:
    """Files under crds/ are no templates: they say that they belong to the release `tortie` in `tortie-system`."""
    with helm.Config(kubeconfig_path=empty.kubeconfig(), namespace="other") as engine, helm.Chart.load(CHART) as chart:
        installed = engine.install(chart, "cat", namespace="other", create_namespace=True)
        with helm.Chart.load(next_version(tmp_path)) as upgraded:
            release = engine.upgrade(upgraded, "cat", namespace="other")
            assert "colour" not in str(empty.get(PEERS))
            assert "CustomResourceDefinition" not in str(release["manifest"])

            commands = [said_command(each, "kubectl annotate") for each in (installed, release)]
            assert commands[0] == commands[1]
            empty.kubectl(*commands[0])
            release = engine.upgrade(upgraded, "cat", namespace="other")
            assert "colour" in str(empty.get(PEERS))
            assert "kubectl annotate" not in str(release)
            engine.upgrade(chart, "cat", namespace="other")  # back: they are the release's for good
            assert "colour" not in str(empty.get(PEERS))
        engine.uninstall("cat")

    assert definitions(empty) >= OUR_KINDS
    annotations = empty.get(PEERS)["metadata"]["annotations"]
    assert (annotations["meta.helm.sh/release-name"], annotations["meta.helm.sh/release-namespace"]) == ("cat", "other")


def said_command(release: dict[str, Any], beginning: str) -> list[str]:
    """Return the words of a command that the notes tell, without the first."""
    _, found, rest = str(release["notes"]).replace("\\\n", "").partition(beginning)
    assert found, release["notes"]
    return [*beginning.split()[1:], *rest.partition("\n")[0].split()]


def test_configuration_that_cannot_be_meant_fails_the_install(engine: helm.Config) -> None:
    for values, named in (
        ({"bgpConfiguration": {"localASN": 23456}}, "localASN"),
        ({"bgpConfiguration": {"timers": {"holdTimeSeconds": 2}}}, "holdTimeSeconds"),
        ({"bgpConfiguration": {"asNumber": 65000}}, "asNumber"),
        ({"networkConfiguration": {"podCIDRs": ["10.42.0.1/16"]}}, "podCIDRs"),
    ):
        with pytest.raises(helm.HelmError, match=named):
            install(engine, values)
        engine.uninstall(RELEASE, ignore_not_found=True)


@pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
def test_the_server_takes_every_object_of_every_value_set(cluster: Cluster, values: dict[str, Any]) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    cluster.apply(namespace)
    for item in documents(values):
        if "monitoring.coreos.com" in item["apiVersion"]:  # not served here
            continue
        path = f"{path_of(item)}?fieldManager=tests&force=true&dryRun=All&fieldValidation=Strict"
        cluster.request("PATCH", path, item, content_type="application/apply-patch+yaml")


@pytest.mark.parametrize("level", ["restricted", "baseline", "privileged"])
def test_a_test_needs_nothing_of_pod_security_and_agents_what_the_install_page_says(
    cluster: Cluster, level: str
) -> None:
    namespace = f"security-{level}"
    labels = {"pod-security.kubernetes.io/enforce": level}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    (agent,) = (each for each in objects(namespace=namespace) if each["kind"] == "DaemonSet")
    agents_pod = PODS | {"metadata": {"name": "agent"}, "spec": agent["spec"]["template"]["spec"]}
    *_, tests_pod = hooks(namespace=namespace)

    def is_let_in(pod: dict[str, Any]) -> bool:
        try:
            cluster.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
        except ApiError as error:
            assert "violates PodSecurity" in str(error)  # noqa: PT017 - any other refusal is a fault of the test's
            return False
        return True

    if level == "privileged":
        assert is_let_in(agents_pod)
    else:
        until(lambda: not is_let_in(agents_pod), lambda: "the namespace's label never came into force")
    assert is_let_in(tests_pod)
