"""kube-proxy as kubeadm installs it: a DaemonSet of `kube-system`, here with the program that was built for the tests.

It is told the API server's own address, as everywhere: the `kubernetes` Service is what it brings about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

MODES: Final = ("nftables", "iptables")
"""IPVS is left out: few kernels that tests meet have it, and Kubernetes has deprecated it (KEP-5495)."""

NAMESPACE: Final = "kube-system"
NAME: Final = "kube-proxy"
_CONFIGURATION: Final = "/var/lib/kube-proxy"


def objects(mode: str, *, program: Path, image: str, server: str, pod_cidrs: str) -> list[dict[str, Any]]:
    """Return what there is of it. `image` has to be given what `program` and nft or iptables need."""
    account = {"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "kubeadm:node-proxier"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
            "subjects": [account],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {
                "config.conf": yaml.safe_dump(_configuration(mode, pod_cidrs)),
                "kubeconfig.conf": yaml.safe_dump(_kubeconfig(server)),
            },
        },
        _daemonset(mode, program, image),
    ]


def _configuration(mode: str, pod_cidrs: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clusterCIDR": pod_cidrs,
        "clientConnection": {"kubeconfig": f"{_CONFIGURATION}/kubeconfig.conf"},
        # The size of the table of connections is one for the whole kernel, which is not this machine's alone.
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _kubeconfig(server: str) -> dict[str, Any]:
    secret = "/var/run/secrets/kubernetes.io/serviceaccount"
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
        "clusters": [{"name": "default", "cluster": {"server": server, "certificate-authority": f"{secret}/ca.crt"}}],
        "users": [{"name": "default", "user": {"tokenFile": f"{secret}/token"}}],
    }


def _daemonset(mode: str, program: Path, image: str) -> dict[str, Any]:
    labels = {"k8s-app": NAME}
    container = {
        "name": NAME,
        "image": image,
        "command": [str(program), f"--config={_CONFIGURATION}/config.conf", "--hostname-override=$(NODE_NAME)"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "securityContext": {"privileged": True},
        "volumeMounts": [
            {"name": "configuration", "mountPath": _CONFIGURATION},
            {"name": "lock", "mountPath": "/run/xtables.lock"},
            {"name": "alternatives", "mountPath": "/etc/alternatives", "readOnly": True},  # which iptables it is
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
            "template": {
                "metadata": {"labels": labels, "annotations": {"mode": mode}},  # with another mode it starts anew
                "spec": {
                    "serviceAccountName": NAME,
                    "hostNetwork": True,
                    "priorityClassName": "system-node-critical",
                    "tolerations": [{"operator": "Exists"}],
                    "terminationGracePeriodSeconds": 1,
                    "containers": [container],
                    "volumes": [
                        {"name": "configuration", "configMap": {"name": NAME}},
                        {"name": "lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}},
                        {"name": "alternatives", "hostPath": {"path": "/etc/alternatives", "type": "Directory"}},
                    ],
                },
            },
        },
    }
