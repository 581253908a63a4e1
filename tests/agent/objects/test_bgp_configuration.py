from __future__ import annotations

import pytest

from agent.objects import BGPConfiguration, BGPConfigurationSpec
from inet.prefix import Prefix
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n"


@pytest.mark.parametrize("spec", ["", "spec:\n", "spec: {}\n", "spec: {timers: null, import: }\n"])
def test_everything_has_a_default(spec: str) -> None:
    said = accepted(BGPConfiguration, HEAD + spec).spec

    assert said == BGPConfigurationSpec()
    assert (said.local_asn, said.listen_port, said.max_paths) == (64512, 179, 64)
    assert said.node_mesh.enabled
    assert said.node_mesh.password_secret_ref is None
    assert said.timers.hold_time_seconds == 90
    assert (said.graceful_restart.enabled, said.graceful_restart.restart_time_seconds) == (True, 120)
    assert (said.import_.accept, said.import_.max_prefixes) == ((), 10000)


def test_what_is_said_is_taken() -> None:
    spec = accepted(
        BGPConfiguration,
        HEAD
        + """
spec:
  localASN: 4200000001
  nodeMesh: {enabled: false, passwordSecretRef: {name: bgp, key: mesh}}
  gracefulRestart: {enabled: off}
  import: {accept: [{cidr: 192.0.2.0/24}, {cidr: "2001:db8::/32"}], maxPrefixes: 5}
""",
    ).spec

    assert spec.local_asn == 4200000001
    assert not spec.node_mesh.enabled
    assert (spec.node_mesh.password_secret_ref.name, spec.node_mesh.password_secret_ref.key) == ("bgp", "mesh")
    assert not spec.graceful_restart.enabled
    assert [each.cidr for each in spec.import_.accept] == [Prefix.parse("192.0.2.0/24"), Prefix.parse("2001:db8::/32")]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("{localASN: 0}", "spec.localASN: 0 is not an AS number (1 to 4294967295)"),
        ("{localASN: 1.10}", "spec.localASN: 1.1 is not an AS number (1 to 4294967295)"),
        ("{localASN: null, asNumber: 65000}", "spec.asNumber: unknown field"),
        ("{nodeMesh: {enabled: 'yes'}}", "spec.nodeMesh.enabled: 'yes' is not true or false"),
        ("{nodeMesh: false}", "spec.nodeMesh: false is not a mapping"),
        ("{nodeMesh: {passwordSecretRef: {name: bgp}}}", "spec.nodeMesh.passwordSecretRef.key: is required"),
        ("{nodeMesh: {passwordSecretRef: {name: bgp, key: ''}}}", "spec.nodeMesh.passwordSecretRef.key: is empty"),
        (
            "{gracefulRestart: {restartTimeSeconds: 4096}}",
            "spec.gracefulRestart.restartTimeSeconds: 4096 is not a number of seconds (1 to 4095)",
        ),
        ("{maxPaths: 0}", "spec.maxPaths: 0 is not a number of paths (1 to 256)"),
        ("{import: {accept: 10.0.0.0/8}}", "spec.import.accept: '10.0.0.0/8' is not a list"),
        ("{import: {accept: [10.0.0.0/8]}}", "spec.import.accept[0]: '10.0.0.0/8' is not a mapping"),
        ("{maxPrefixes: 5}", "spec.maxPrefixes: unknown field here; did you mean spec.import.maxPrefixes?"),
        ("{communities: []}", "spec.communities: unknown field"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_wanted(spec: str, wanted: str) -> None:
    assert refusals(HEAD + f"spec: {spec}") == [wanted]
