from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.kubernetes.access import Access, AccessError, is_in_pod, own_namespace

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: main
contexts: [{name: main, context: {cluster: c, user: u}}, {name: other, context: {cluster: d, user: u}}]
clusters:
- {name: c, cluster: {server: "https://c:6443", insecure-skip-tls-verify: true}}
- {name: d, cluster: {server: "https://d:6443", insecure-skip-tls-verify: true}}
users: [{name: u, user: {token: secret-token}}]
"""


def test_its_namespace_is_what_it_is_told_else_the_service_accounts(tmp_path: Path) -> None:
    (tmp_path / "namespace").write_text("networking\n")
    assert own_namespace({"POD_NAMESPACE": "told"}, tmp_path) == "told"
    assert own_namespace({}, tmp_path) == "networking"
    assert own_namespace({}, tmp_path / "none") == "tortie-system"


def test_a_process_is_in_a_pod_if_it_is_told_of_the_server() -> None:
    assert is_in_pod({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    assert not is_in_pod({})


async def test_a_kubeconfig_says_where_and_as_whom(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    configuration = await Access(file).load()
    assert configuration.host == "https://c:6443"
    assert configuration.api_key == {"BearerToken": "Bearer secret-token"}
    assert (await Access(file, "other").load()).host == "https://d:6443"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (None, "there is no such file"),
        ("", "nothing in it"),
        ("- a list", "it does not read as one"),
        ("words", "it does not read as one"),
        ("a: [", "found '<stream end>' in"),
        ("apiVersion: v1", "it has no current-context"),
        (KUBECONFIG.replace("current-context: main", "current-context: gone"), "gone"),
        (KUBECONFIG.replace("user: {token: secret-token}", "user: {tokenFile: /nowhere}"), "/nowhere"),
    ],
)
async def test_one_that_cannot_be_used_is_named_and_no_secret_with_it(
    tmp_path: Path, content: str | None, wanted: str
) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(AccessError) as refused:
        await Access(file).load()
    assert str(refused.value).startswith(f"kubeconfig {file} cannot be used: ")
    assert wanted in str(refused.value)
    assert "secret-token" not in str(refused.value)


FILES = {
    "main": KUBECONFIG,
    "other": KUBECONFIG.replace("current-context: main", "current-context: other").replace("https://", "https://not-"),
    "unset": KUBECONFIG.replace("current-context: main", 'current-context: ""'),
    "none": KUBECONFIG.replace("current-context: main", ""),
    "chosen": "current-context: other",
    "token": "users: [{name: u, user: {token: first}}]",
    "empty": "",
    "comment": "# nothing yet",
}


@pytest.mark.parametrize(
    ("named", "host"),
    [
        ("main:other", "https://c:6443"),
        ("other:main", "https://not-d:6443"),
        ("main:chosen", "https://c:6443"),
        ("chosen:main", "https://d:6443"),
        ("unset:chosen", "https://d:6443"),
        ("none:chosen:main", "https://d:6443"),
        ("main:unset", "https://c:6443"),
        ("nowhere:main:other", "https://c:6443"),
        ("empty:main", "https://c:6443"),
        ("main:comment:other", "https://c:6443"),
    ],
)
async def test_several_kubeconfigs_are_one_as_kubectl_has_it(tmp_path: Path, named: str, host: str) -> None:
    """Whoever says a name, or the context, first: hosts are those that `kubectl config view --minify` shows."""
    assert (await _several(tmp_path, named).load()).host == host


async def test_of_several_kubeconfigs_each_name_is_the_firsts_that_has_it(tmp_path: Path) -> None:
    configuration = await _several(tmp_path, "token:main").load()
    assert (configuration.host, configuration.api_key["BearerToken"]) == ("https://c:6443", "Bearer first")
    assert (await _several(tmp_path, "main:other", "other").load()).host == "https://d:6443"


async def test_a_kubeconfig_may_be_named_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text(KUBECONFIG)
    assert (await Access(Path("/nowhere:~/config")).load()).host == "https://c:6443"


async def test_files_are_looked_for_beside_the_kubeconfig_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "users").mkdir()
    (tmp_path / "users" / "token").write_text("from-file")
    (tmp_path / "users" / "config").write_text("users: [{name: u, user: {tokenFile: token}}]")
    configuration = await _several(tmp_path, "users/config:main").load()
    assert configuration.api_key["BearerToken"] == "Bearer from-file"


async def test_a_context_does_not_make_up_for_a_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="there is no such file, or nothing in it"):
        await _several(tmp_path, "nowhere:empty", "main").load()


def _several(directory: Path, named: str, context: str | None = None) -> Access:
    for name, content in FILES.items():
        (directory / name).write_text(content)
    return Access(Path(":".join(f"{directory}/{name}" for name in named.split(":"))), context)


async def test_outside_of_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(AccessError, match="the pod's service account cannot be used"):
        await Access().load()


def test_the_client_library_is_loaded_without_its_synchronous_half() -> None:
    """It would cost every node 7 MB; this holds as long as `kubernetes.aio` needs nothing of it."""
    script = (
        "import asyncio, sys; from agent.kubernetes.access import prepare; prepare()\n"
        "from kubernetes.aio.client.api_client import ApiClient\n"
        "from kubernetes.aio.client.configuration import Configuration\n"
        "async def main(): await ApiClient(Configuration(host='http://x')).close()\n"
        "asyncio.run(main())\n"
        "print(*sorted({'urllib3', 'requests', 'kubernetes.client', 'kubernetes.dynamic'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_an_agent_with_manifests_does_not_load_it_at_all() -> None:
    script = "import sys, agent.daemon; print('kubernetes' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
