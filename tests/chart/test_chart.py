"""What the chart makes of its values."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import helm_python as helm
import pytest
import yaml

from agent import __version__
from agent.kubernetes.permissions import CLUSTER, OWN_NAMESPACE
from tests.chart.rendering import CHART, NAMESPACE, VALUE_SETS, hooks, objects, render, the

ROOT = CHART.parents[1]
EVERY_SET = pytest.mark.parametrize("values", VALUE_SETS.values(), ids=VALUE_SETS.keys())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())


def agent(values: dict[str, Any] | None = None) -> dict[str, Any]:
    (container,) = the("DaemonSet", values)["spec"]["template"]["spec"]["containers"]
    return dict(container)


@EVERY_SET
def test_the_engine_finds_nothing_wrong(values: dict[str, Any]) -> None:
    found = helm.lint(CHART, values)

    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


def test_versions_of_chart_image_and_program_agree() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert chart["version"] == chart["appVersion"] == project["version"] == __version__
    assert agent()["image"].endswith(f":{__version__}")


@EVERY_SET
def test_everything_is_in_the_namespace_of_the_release_and_labelled(values: dict[str, Any]) -> None:
    for item in objects(values):
        metadata = item["metadata"]
        assert metadata.get("namespace", NAMESPACE) == NAMESPACE
        assert metadata["labels"]["app.kubernetes.io/name"] == "tortie"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "Helm"


# Values


def leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, inner in schema.get("properties", {}).items():
        if "properties" in inner and inner.get("additionalProperties") is False:
            yield from leaves(inner, f"{path}{name}.")
        else:
            yield f"{path}{name}"


def at(values: Any, path: str) -> Any:
    for step in path.split("."):
        values = values[step]
    return values


NO_DEFAULT = {"global", "resources.limits"}


def test_every_value_that_is_described_has_a_default_and_every_default_is_described() -> None:
    described = set(leaves(SCHEMA)) - NO_DEFAULT

    for path in described:
        at(DEFAULTS, path)

    def check(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        for name, value in values.items():
            assert name in schema["properties"], f"{path}{name}"
            assert schema["properties"][name]["description"].endswith("."), f"{path}{name}"
            if isinstance(value, dict) and schema["properties"][name].get("additionalProperties") is False:
                check(value, schema["properties"][name], f"{path}{name}.")

    check(DEFAULTS, SCHEMA, "")


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"bgp": {}}, "bgp"),
        ({"image": {"tags": "1"}}, "tags"),
        ({"image": {"digest": "sha256:abc"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"cni": {"binDir": "opt/cni/bin"}}, "binDir"),
        ({"cni": {"enabled": "yes"}}, "enabled"),
        ({"metrics": {"port": 0}}, "port"),
        ({"metrics": {"port": "9797"}}, "port"),
        ({"apiServer": {"port": 65536}}, "port"),
        ({"logLevel": "trace"}, "logLevel"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}, "maxUnavailable"),
        ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "ten"}}}, "maxUnavailable"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge"),
        ({"podLabels": {"team": 1}}, "podLabels"),
        ({"podLabels": {"app.kubernetes.io/component": "net"}}, "app.kubernetes.io/component"),
        ({"tolerations": {"operator": "Exists"}}, "tolerations"),
        ({"tolerations": [{"operator": "Exists", "efect": "NoSchedule"}]}, "efect"),
        ({"tolerations": [{"operator": "Exists", "effect": "NoScheduling"}]}, "effect"),
        ({"imagePullSecrets": [{"names": "registry"}]}, "names"),
        ({"networkConfiguration": []}, "networkConfiguration"),
        ({"terminationGracePeriodSeconds": 0}, "terminationGracePeriodSeconds"),
        ({"metrics": {"serviceMonitor": {"enabled": True}}}, "needs metrics.enabled"),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError) as refused:
        render(values)
    assert named in str(refused.value)


# The agent's pod


@EVERY_SET
def test_the_agent_is_on_every_node_and_the_last_to_be_evicted(values: dict[str, Any]) -> None:
    pod = the("DaemonSet", values)["spec"]["template"]["spec"]

    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["hostNetwork"] is True


@EVERY_SET
def test_no_container_has_more_than_it_needs(values: dict[str, Any]) -> None:
    pod = the("DaemonSet", values)["spec"]["template"]["spec"]

    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod.keys() & {"hostPID", "hostIPC"}
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert not context.get("privileged")
        assert context["capabilities"]["drop"] == ["ALL"]
        added = set(context["capabilities"].get("add", []))
        if container["name"] == "agent" and (values.get("mtu") or {}).get("correctRunningPods"):
            added -= {"SYS_ADMIN"}
        assert set(added) <= {"NET_ADMIN", "NET_BIND_SERVICE"}, "say why in daemonset.yaml, docs/install.md and here"
        assert not added or container["name"] in {"agent", "cleanup"}


@EVERY_SET
def test_every_container_says_what_it_takes(values: dict[str, Any]) -> None:
    """A namespace with a quota has no room for one that does not."""
    pods = [the("DaemonSet", values)["spec"]["template"], *(each for each in hooks(values) if each["kind"] == "Pod")]
    for pod in pods:
        for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, container["name"]


def test_directories_of_the_node_may_have_any_name() -> None:
    odd = {"binDir": "/opt/a, b", "confDir": "/etc/c: d", "stateDir": "/var/e}f"}
    pod = the("DaemonSet", {"cni": odd})["spec"]["template"]["spec"]
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"]}
    assert paths >= set(odd.values())
    assert {"--cni-conf-dir=/etc/c: d", "--cni-state-dir=/var/e}f"} <= set(pod["containers"][0]["args"])
    assert {"/etc/c: d", "/var/e}f"} <= {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}


def test_services_are_scraped_whatever_name_argo_cd_gives_the_instance() -> None:
    """It writes the application's name into that label of every object, which need not be the release's."""
    said = VALUE_SETS["everything"]
    selected = the("ServiceMonitor", said)["spec"]["selector"]["matchLabels"]
    assert (
        selected.items() <= (the("Service", said)["metadata"]["labels"] | {"app.kubernetes.io/instance": "x"}).items()
    )


def test_pods_are_entered_by_wish_alone_and_by_the_agent_alone() -> None:
    wish = {"mtu": {"correctRunningPods": True}}
    for values, capabilities in (({}, set()), (wish, {"SYS_ADMIN"})):
        pod = the("DaemonSet", values)["spec"]["template"]["spec"]
        assert set(agent(values)["securityContext"]["capabilities"]["add"]) - {"NET_ADMIN", "NET_BIND_SERVICE"} == (
            capabilities
        )
        mounts = [mount for mount in agent(values)["volumeMounts"] if mount["mountPath"] == "/run/netns"]
        paths = {volume["hostPath"]["path"] for volume in pod["volumes"]}
        assert bool(mounts) is bool(capabilities) is ("/run/netns" in paths)
        for mount in mounts:  # namespaces that come later have to be seen, and none has to be made
            assert (mount["mountPropagation"], mount["readOnly"]) == ("HostToContainer", True)
        for container in pod["initContainers"]:
            assert "SYS_ADMIN" not in container["securityContext"]["capabilities"].get("add", [])


@EVERY_SET
def test_every_volume_is_mounted_and_every_mount_has_a_volume(values: dict[str, Any]) -> None:
    pod = the("DaemonSet", values)["spec"]["template"]["spec"]
    containers = (*pod.get("initContainers", ()), *pod["containers"])
    mounted = {mount["name"] for container in containers for mount in container.get("volumeMounts", ())}

    assert mounted == {volume["name"] for volume in pod["volumes"]}
    assert not {volume["hostPath"]["path"] for volume in pod["volumes"]} & {
        "/",
        "/etc",
        "/var",
        "/run",
        "/proc",
        "/sys",
    }


def test_a_roll_out_waits_for_sessions_and_flushes_nothing() -> None:
    spec = the("DaemonSet")["spec"]
    container = agent()

    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}
    assert "lifecycle" not in container
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"


def test_health_is_asked_for_where_the_agent_answers() -> None:
    at_home, outside = agent(), agent(VALUE_SETS["everything"])

    assert "--listen=127.0.0.1:9797" in at_home["args"]
    assert at_home["readinessProbe"]["httpGet"]["host"] == "127.0.0.1"
    assert "--listen=$(NODE_IP):9797" in outside["args"]
    assert "host" not in outside["readinessProbe"]["httpGet"]


def test_an_api_server_of_its_own_is_told_to_the_agent() -> None:
    environment = {each["name"]: each.get("value") for each in agent(VALUE_SETS["everything"])["env"]}

    assert (environment["KUBERNETES_SERVICE_HOST"], environment["KUBERNETES_SERVICE_PORT"]) == ("fd00::1", "443")
    assert "KUBERNETES_SERVICE_HOST" not in {each["name"] for each in agent()["env"]}


@pytest.mark.parametrize(("kind", "rights"), [("ClusterRole", CLUSTER), ("Role", OWN_NAMESPACE)])
def test_the_roles_are_the_rights_that_the_agent_has_a_reason_for(kind: str, rights: Any) -> None:
    wanted = [
        {"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs)} for rule in rights
    ]
    assert the(kind)["rules"] == wanted


def test_a_digest_wins_over_the_tag() -> None:
    assert agent(VALUE_SETS["everything"])["image"] == f"registry.example.com/net/tortie@sha256:{64 * 'a'}"


def test_objects_of_ours_are_there_only_where_values_say_so() -> None:
    kinds = {item["kind"] for item in objects()}
    assert not kinds & {"NetworkConfiguration", "BGPConfiguration"}

    said = VALUE_SETS["everything"]
    assert the("BGPConfiguration", said)["spec"] == said["bgpConfiguration"]
    assert the("NetworkConfiguration", said)["spec"] == said["networkConfiguration"]
    assert the("BGPConfiguration", said)["metadata"]["name"] == "default"


def test_without_cni_nothing_of_the_runtime_is_touched() -> None:
    pod = the("DaemonSet", VALUE_SETS["no CNI"])["spec"]["template"]["spec"]

    assert "initContainers" not in pod
    assert {volume["name"] for volume in pod["volumes"]} == {"run", "sysctls"}
    assert not [argument for argument in pod["containers"][0]["args"] if "cni" in argument]


def test_definitions_are_rendered_only_where_the_cluster_says_they_are_ours() -> None:
    assert "CustomResourceDefinition" not in {item["kind"] for item in objects()}
    with helm.Chart.load(CHART) as chart:
        assert len(chart.crds) == 5


def test_a_cleanup_runs_in_the_agents_place_with_the_agents_directories() -> None:
    pod = the("DaemonSet", {"cleanup": True})["spec"]["template"]["spec"]
    (cleaner,) = pod["initContainers"]
    (waiting,) = pod["containers"]

    assert cleaner["args"][0] == "cleanup"
    assert {mount["name"] for mount in cleaner["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert waiting["name"] == "agent"
    assert "volumeMounts" not in waiting
    assert "agent" not in waiting.get("args", [])


def test_the_values_of_the_install_page_are_taken() -> None:
    page = (ROOT / "docs" / "install.md").read_text()
    (said,) = (
        values
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        if "bgpConfiguration" in (values := yaml.safe_load(block))
    )
    assert the("BGPConfiguration", said)["spec"]["localASN"] == said["bgpConfiguration"]["localASN"]
    assert the("ServiceMonitor", said)


def test_notes_say_what_to_look_at() -> None:
    notes = render()["NOTES.txt"]

    assert "kubectl get bgppeers,noderoutingstatuses" in notes
    assert "helm uninstall" not in notes
    assert "helm test tortie -n tortie-system" in notes
    assert "TORTIE_NAMESPACE" not in notes
    assert "export TORTIE_NAMESPACE=elsewhere" in render(namespace="elsewhere")["NOTES.txt"]


def test_notes_of_a_cleanup_speak_of_the_end_alone() -> None:
    notes = render({"cleanup": True})["NOTES.txt"]

    assert "helm uninstall tortie -n tortie-system" in notes
    assert "helm test" not in notes
    assert "on its way" not in notes


def test_notes_say_that_the_image_is_yours_to_push() -> None:
    assert f"localhost/tortie:{__version__} is pulled from nowhere" in render()["NOTES.txt"]
    assert "pulled from nowhere" not in render(VALUE_SETS["everything"])["NOTES.txt"]
