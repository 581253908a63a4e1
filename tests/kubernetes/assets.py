"""Where the programs of Kubernetes are that tests run: KUBEBUILDER_ASSETS, else what scripts/kubernetes-assets built.

KUBEBUILDER_ASSETS is the convention of controller-runtime's envtest: a directory with etcd, kube-apiserver and kubectl.
`setup-envtest use -p path` prints such a directory, too, but has no kube-controller-manager and no kubelet: what needs
one is skipped there.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SERVER = ("etcd", "kube-apiserver", "kubectl")
_SCRIPT = Path(__file__).parents[2] / "scripts" / "kubernetes-assets"


def directory() -> Path:
    """Return where programs should be; it need not exist."""
    printed = subprocess.run([_SCRIPT, "--print"], check=True, capture_output=True, text=True)
    return Path(printed.stdout.strip())


def missing(*programs: str) -> str:
    """Return why a test that needs these programs cannot run; empty when it can."""
    place = directory()
    lacking = [name for name in programs if not os.access(place / name, os.X_OK)]
    how = f"build them with scripts/kubernetes-assets {' '.join(lacking)}, or set KUBEBUILDER_ASSETS"
    return f"no {', '.join(lacking)} in {place}: {how}" if lacking else ""
