"""The chart through Helm's own engine: values in, objects out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

CHART = Path(__file__).parents[2] / "charts" / "tortie"
HOOK = "helm.sh/hook"
RELEASE, NAMESPACE = "tortie", "tortie-system"

VALUE_SETS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "image": {"repository": "registry.example.com/net/tortie", "digest": f"sha256:{64 * 'a'}"},
        "imagePullSecrets": [{"name": "registry"}],
        "networkConfiguration": {"podCIDRs": ["10.42.0.0/16", "fd42::/48"], "serviceCIDRs": ["10.43.0.0/16"]},
        "bgpConfiguration": {"localASN": 4200000001, "nodeMesh": {"enabled": False}},
        "cni": {"binDir": "/var/lib/rancher/k3s/data/cni", "confDir": "/var/lib/rancher/k3s/agent/etc/cni/net.d"},
        "apiServer": {"host": "fd00::1", "port": 443},
        "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "400Mi"}},
        "affinity": {"nodeAffinity": {}},
        "podAnnotations": {"example.com/a": "true"},
        "podLabels": {"team": "net"},
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": "10%"}},
        "metrics": {
            "enabled": True,
            "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "rules": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True},
        },
    },
    "no CNI": {"cni": {"enabled": False}, "updateStrategy": {"type": "OnDelete", "rollingUpdate": None}},
    "running pods": {"mtu": {"correctRunningPods": True}},
    "cleanup": {"cleanup": True},
}


def render(values: dict[str, Any] | None = None, name: str = RELEASE, namespace: str = NAMESPACE) -> dict[str, str]:
    """Return what each template makes of the values."""
    with helm.Chart.load(CHART) as chart:
        return {
            path.removeprefix("tortie/templates/"): text
            for path, text in chart.render(values or {}, name=name, namespace=namespace).items()
        }


def documents(values: dict[str, Any] | None = None, **named: str) -> list[dict[str, Any]]:
    """Return all that is rendered of these values."""
    texts = (text for path, text in render(values, **named).items() if path.endswith(".yaml"))
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def objects(values: dict[str, Any] | None = None, **named: str) -> list[dict[str, Any]]:
    """Return the objects of a release with these values."""
    return [each for each in documents(values, **named) if HOOK not in each["metadata"].get("annotations", {})]


def hooks(values: dict[str, Any] | None = None, **named: str) -> list[dict[str, Any]]:
    """Return what `helm test` makes, in its order."""
    made = [each for each in documents(values, **named) if HOOK in each["metadata"].get("annotations", {})]
    return sorted(made, key=lambda each: int(each["metadata"]["annotations"].get(f"{HOOK}-weight", 0)))


def the(kind: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the one object of a kind."""
    (found,) = (each for each in objects(values) if each["kind"] == kind)
    return found
