from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent.objects.kinds import KINDS
from agent.objects.wording import _WANTED, _model_in
from tests.agent.objects.manifests import refusals

HEAD = "apiVersion: tortie.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor-1}\n"


@pytest.mark.parametrize(
    ("field", "wanted"),
    [
        ("peerASn", "unknown field; did you mean peerASN?"),
        ("peer_asn", "unknown field; did you mean peerASN?"),
        ("password", "unknown field; did you mean passwordSecretRef?"),
        ("nodeSelektor", "unknown field; did you mean nodeSelector?"),
        ("accept", "unknown field here; did you mean spec.import.accept?"),
        ("hops", "unknown field here; did you mean spec.ttlSecurity.hops?"),
        ("name", "unknown field"),  # is in more places than one
        ("bfd", "unknown field"),
        ("filters", "unknown field"),
    ],
)
def test_an_unknown_field_comes_with_the_likeliest_guess_or_none(field: str, wanted: str) -> None:
    said = HEAD + f"spec: {{peer: {{address: 172.16.1.1}}, peerASN: 1, {field}: 1}}"

    assert refusals(said) == [f"spec.{field}: {wanted}"]


def test_a_field_beside_spec_is_found_where_it_belongs() -> None:
    said = HEAD + "spec: {peer: {address: 172.16.1.1}, peerASN: 1}\ntimers: {}"

    assert refusals(said) == ["timers: unknown field here; did you mean spec.timers?"]


def test_no_message_of_pydantic_gets_through() -> None:
    """Every kind of error our models can make has words of ours."""
    ours = {*_WANTED, "refused", "literal_error", "string_too_long", "extra_forbidden"}
    wrong = (None, True, 1, 1.5, "x" * 300, "", [], [[]], [{}], [None], {}, {"x": {}}, {"": ""}, {"x": "x" * 300})
    seen: set[str] = set()
    for model_of_kind in filter(None, (kind.model for kind in KINDS.values())):
        pending = [model_of_kind]
        while pending:
            model = pending.pop()
            for name, field in model.model_fields.items():
                pending += [it for it in _models(field.annotation) if it not in pending]
                seen |= {kind for value in wrong for kind in _errors(model, field.alias or name, value)}

    assert seen <= ours, "give these words in wording.py"


def _models(annotation: object) -> list[type]:
    return [inner] if (inner := _model_in(annotation)) else []


def _errors(model: type, alias: str, value: object) -> set[str]:
    try:
        model.model_validate({alias: value}, by_alias=True, by_name=False)
    except ValidationError as error:
        return {details["type"] for details in error.errors() if details["type"] != "default_factory_not_called"}
    return set()
