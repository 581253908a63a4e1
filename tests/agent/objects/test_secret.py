from __future__ import annotations

import base64
import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.datastore.manifest_file import read_manifests
from agent.namespace import OWN_NAMESPACE
from agent.objects import Secret
from agent.objects.kinds import manifest
from bgp.speaker import Secret as Password
from tests.agent.objects.manifests import accepted, refusals

HEAD = "apiVersion: v1\nkind: Secret\nmetadata: {name: bgp}\n"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_passwords_are_read_from_both_fields_and_plain_ones_win() -> None:
    secret = accepted(
        Secret,
        HEAD + f"data: {{mesh: {encoded('one')}, tor: {encoded('two')}}}\nstringData: {{tor: three}}\ntype: Opaque",
    )

    assert secret.passwords == {"mesh": Password("one"), "tor": Password("three")}
    assert secret.metadata.namespace == OWN_NAMESPACE


def test_a_value_that_is_no_text_does_not_spoil_the_others() -> None:
    secret = accepted(Secret, HEAD + f"data: {{tor: {encoded('two')}, key: //79}}")

    assert secret.passwords == {"tor": Password("two")}


def test_nothing_shows_a_password() -> None:
    secret = accepted(Secret, HEAD + f"data: {{mesh: {encoded('hunter2')}}}\nstringData: {{tor: hunter2}}")

    for shown in (repr(secret), str(secret), json.dumps(manifest(secret)), secret.model_dump_json(), f"{secret.data}"):
        assert "hunter2" not in shown
        assert encoded("hunter2") not in shown


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("data: {tor: hunter2!}", "data.tor: is not base64: plain text belongs under stringData"),
        ("data: {tor: 12345}", "data.tor: is not base64: plain text belongs under stringData"),
        ("data: hunter2", "data: is not a mapping"),
        ("data: [hunter2]", "data: is not a mapping"),
        ("stringData: {tor: 12345}", "stringData.tor: is not a string: put it in quotes"),
        ("stringData: {tor: [hunter2]}", "stringData.tor: is not a string: put it in quotes"),
        (
            "stringData: {tor: !hunter2 x}",
            "stringData.tor: a YAML tag means nothing here: quote a text that starts with !",
        ),
        (
            "stringData: {tor: *hunter2}",
            "stringData.tor: an alias (*) without its anchor (&): quote a text that starts with *",
        ),
    ],
)
def test_no_message_repeats_what_may_be_a_password(content: str, wanted: str) -> None:
    assert refusals(HEAD + content) == [wanted]


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ("{nodeMesh: {passwordSecretRef: hunter2}}", "spec.nodeMesh.passwordSecretRef: is not a mapping"),
        (
            "{nodeMesh: {password: hunter2}}",
            "spec.nodeMesh.password: unknown field; did you mean passwordSecretRef?",
        ),
        (
            "{nodeMesh: {passwordSecretRef: {name: Hunter2, key: x}}}",
            (
                "spec.nodeMesh.passwordSecretRef.name: is not a name: lower-case letters, digits, '-' and '.', at most "
                "253, a letter or digit first and last"
            ),
        ),
    ],
)
def test_a_password_in_the_wrong_place_is_not_repeated(spec: str, wanted: str) -> None:
    head = "apiVersion: tortie.dev/v1alpha1\nkind: BGPConfiguration\nmetadata: {name: default}\n"

    assert refusals(head + f"spec: {spec}") == [wanted]


@given(
    # With a snowman, which no message has: "tortie" alone is part of a namespace's name.
    st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=6).map("\N{SNOWMAN}".__add__),
    st.sampled_from(
        ["data: {tor: %s}", "data: %s", "stringData: [%s]", "stringData: {tor: {x: %s}}", "other: {x: %s}"]
    ),
)
def test_whatever_the_password_and_wherever_it_stands_no_problem_shows_it(password: str, place: str) -> None:
    assume(password not in "tortie-system stringData plain text belongs under")  # words that messages consist of
    quoted = json.dumps(password)
    file = read_manifests("s.yaml", (HEAD + place % quoted).encode())

    problems = [*file.problems, *(problem for found in file.found for problem in found.problems)]
    for problem in problems:
        assert password not in str(problem.to_json())
        assert repr(password) not in str(problem)


def test_not_even_the_exception_behind_a_problem_shows_a_password() -> None:
    with pytest.raises(ValueError, match="validation error") as error:
        Secret.model_validate({"metadata": {"name": "bgp"}, "data": {"tor": ["hunter2"]}, "stringData": "hunter2"})

    assert "hunter2" not in str(error.value)
    assert "hunter2" not in repr(error.value)
