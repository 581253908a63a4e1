"""Label selectors: which nodes, peers or pods. Shape only; `policy.selector` evaluates."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from agent.objects.model import Model
from agent.objects.scalars import LABEL_KEY, LabelKey, LabelValue, refuse
from agent.objects.server_checks import Check, server_checks


class Requirement(Model):
    """One condition on one label."""

    model_config = server_checks(
        Check(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && self.values.size() > 0)",
            "In and NotIn need at least one value, Exists and DoesNotExist take none",
            "values",
        )
    )

    key: LabelKey = Field(description="Label name.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label is compared. A missing label satisfies `NotIn` and `DoesNotExist`."
    )
    values: tuple[LabelValue, ...] = Field(default=(), description="Values for `In` and `NotIn`; none for the others.")

    @model_validator(mode="after")
    def _values_fit_the_operator(self) -> Self:
        if self.operator in {"In", "NotIn"} and not self.values:
            raise refuse(f"operator {self.operator} needs at least one value", field="values")
        if self.operator in {"Exists", "DoesNotExist"} and self.values:
            raise refuse(f"operator {self.operator} takes no values", field="values")
        return self


class LabelSelector(Model):
    """A choice by labels. All conditions must hold; an empty selector chooses everything."""

    model_config = server_checks(
        Check(
            f"!has(self.matchLabels) || self.matchLabels.all(key, key.matches(r'{LABEL_KEY}'))",
            "every key must be a label name: at most 63 letters, digits, '-', '_' and '.', if need be after a DNS name "
            "and '/'",
            "matchLabels",
        )
    )

    match_labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=64, description="Labels that must have exactly these values."
    )
    match_expressions: tuple[Requirement, ...] = Field(default=(), description="Further conditions.")
