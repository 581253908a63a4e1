"""Kubernetes label selectors: what `matchLabels` and `matchExpressions` say, as a value.

In go label selectors as the API has them (meta/v1 LabelSelector); out comes a `Selector` that matches label sets.
The one idea: a selector *is* its canonical text. Two ways of writing the same thing (a matchLabels entry and an In
of one value, another order, a value twice) give equal, equally hashed selectors, so that whatever is derived from
one is shared.

An empty selector matches everything. An absent one matches nothing or everything, depending on the field: that is
for the caller to say.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from policy.fields import (
    FieldError,
    check_known,
    check_label_key,
    check_label_value,
    forbidden,
    invalid,
    required,
)


class Operator(enum.StrEnum):
    """How a requirement judges the value of its key (meta/v1 LabelSelectorOperator)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"

    @property
    def takes_values(self) -> bool:
        """Whether values must be given (else they must not)."""
        return self in {Operator.IN, Operator.NOT_IN}


class Requirement(NamedTuple):
    """One condition on one key. A set without the key satisfies NotIn and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        values = sorted(set(self.values))
        match self.operator:
            case Operator.IN:
                return f"{self.key}={values[0]}" if len(values) == 1 else f"{self.key} in ({','.join(values)})"
            case Operator.NOT_IN:
                return f"{self.key}!={values[0]}" if len(values) == 1 else f"{self.key} notin ({','.join(values)})"
            case Operator.EXISTS:
                return self.key
            case Operator.DOES_NOT_EXIST:
                return f"!{self.key}"


class Selector:
    """A conjunction of requirements, without repetition, in the order of their text.

    Immutable. `str` gives the canonical text as kubectl's -l takes it, `*` for the selector of everything.
    """

    __slots__ = ("_text", "requirements")

    requirements: tuple[Requirement, ...]

    def __init__(self, requirements: Iterable[Requirement] = ()) -> None:
        by_text = {str(requirement): requirement for requirement in requirements}
        self.requirements = tuple(by_text[text] for text in sorted(by_text))
        self._text = ",".join(sorted(by_text)) or "*"

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a label set satisfies every requirement."""
        for key, operator, values in self.requirements:
            value = labels.get(key)
            if operator is Operator.IN:
                satisfied = value in values
            elif operator is Operator.NOT_IN:
                satisfied = value not in values
            else:
                satisfied = (value is not None) is (operator is Operator.EXISTS)
            if not satisfied:
                return False
        return True

    @property
    def matches_everything(self) -> bool:
        """Whether this is the empty selector."""
        return not self.requirements

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Selector({self._text})"


EVERYTHING: Final = Selector()

_SELECTOR_FIELDS: Final = frozenset({"matchLabels", "matchExpressions"})
_REQUIREMENT_FIELDS: Final = frozenset({"key", "operator", "values"})


def selector_of_labels(labels: Mapping[str, str]) -> Selector:
    """Return the selector that asks for each of these labels."""
    return Selector(Requirement(key, Operator.IN, (value,)) for key, value in labels.items())


def decode_selector(raw: object, path: str, errors: list[FieldError]) -> Selector:
    """Read a LabelSelector, adding complaints to `errors`. With a complaint the result is not to be used."""
    if not isinstance(raw, Mapping):
        errors.append(invalid(path, raw, "must be an object with matchLabels or matchExpressions"))
        return EVERYTHING
    if not raw:
        return EVERYTHING
    errors += check_known(raw, _SELECTOR_FIELDS, path)
    requirements = [
        *_decode_labels(raw.get("matchLabels"), f"{path}.matchLabels", errors),
        *_decode_expressions(raw.get("matchExpressions"), f"{path}.matchExpressions", errors),
    ]
    return Selector(requirements)


def _decode_labels(raw: object, path: str, errors: list[FieldError]) -> Iterable[Requirement]:
    if raw is None:
        return
    if not isinstance(raw, Mapping):
        errors.append(invalid(path, raw, "must be an object of strings"))
        return
    for key, value in raw.items():
        if not isinstance(key, str) or not isinstance(value, str):
            errors.append(invalid(path, {str(key): value}, "key and value must be strings"))
            continue
        complaints = check_label_key(key, path) + check_label_value(value, path)
        errors += complaints
        if not complaints:
            yield Requirement(key, Operator.IN, (value,))


def _decode_expressions(raw: object, path: str, errors: list[FieldError]) -> Iterable[Requirement]:
    if raw is None:
        return
    if not isinstance(raw, list):
        errors.append(invalid(path, raw, "must be a list"))
        return
    for index, expression in enumerate(raw):
        complaints: list[FieldError] = []
        requirement = _decode_expression(expression, f"{path}[{index}]", complaints)
        errors += complaints
        if requirement is not None and not complaints:
            yield requirement


def _decode_expression(raw: object, path: str, errors: list[FieldError]) -> Requirement | None:
    if not isinstance(raw, Mapping):
        errors.append(invalid(path, raw, "must be an object with key, operator and values"))
        return None
    errors += check_known(raw, _REQUIREMENT_FIELDS, path)
    key = raw.get("key") or ""
    values: Any = raw.get("values") or []
    if not isinstance(key, str):
        errors.append(invalid(f"{path}.key", key, "must be a string"))
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        errors.append(invalid(f"{path}.values", values, "must be a list of strings"))
        return None
    try:
        operator = Operator(raw.get("operator") or "")
    except ValueError:
        errors.append(invalid(f"{path}.operator", raw.get("operator"), "not a valid selector operator"))
        return None
    if operator.takes_values and not values:
        errors.append(required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    if values and not operator.takes_values:
        detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
        errors.append(forbidden(f"{path}.values", detail))
    errors += check_label_key(key, f"{path}.key")
    for index, value in enumerate(values):
        errors += check_label_value(value, f"{path}.values[{index}]")
    return Requirement(key, operator, tuple(sorted(set(values))))
