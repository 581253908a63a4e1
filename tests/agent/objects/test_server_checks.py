"""Rules for the API server, as they stand in a schema. That it refuses by them is tested against a real one."""

from __future__ import annotations

from pydantic import BaseModel

from agent.objects.server_checks import Check, rules, server_checks


def test_a_rule_stands_in_the_schema_of_its_model() -> None:
    class Model(BaseModel):
        model_config = server_checks(Check("self.a < self.b", "must be less than b", "a"))
        a: int
        b: int

    assert Model.model_json_schema()["x-kubernetes-validations"] == [
        {"rule": "self.a < self.b", "message": "must be less than b", "fieldPath": ".a"}
    ]


def test_a_rule_about_the_whole_names_no_field() -> None:
    assert rules(Check("true", "never")) == {"x-kubernetes-validations": [{"rule": "true", "message": "never"}]}
