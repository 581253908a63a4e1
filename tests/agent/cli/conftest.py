"""Commands know no lab and no cluster but those that a test gives them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def nothing_else_to_ask(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no lab up, which other tests build meanwhile, and no kubeconfig at home."""
    nothing = tmp_path_factory.mktemp("nothing")
    monkeypatch.setattr("agent.fleet.lab.default_root", lambda: nothing)
    monkeypatch.setenv("HOME", str(nothing))
    for each in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(each, raising=False)
