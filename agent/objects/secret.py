"""Secret: passwords by key, held so that no repr, log line, error or JSON shows them."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from agent.objects.model import KubernetesObject
from agent.objects.scalars import refuse
from bgp.speaker import Secret as Password


def _read_encoded(value: Any) -> Password | None:
    """Read base64; what is not text underneath (a key file, say) cannot be a password and becomes None."""
    if isinstance(value, Password):
        return value
    try:
        raw = base64.b64decode("".join(value.split()), validate=True)
    except (AttributeError, binascii.Error, ValueError):
        raise refuse("is not base64: plain text belongs under stringData") from None
    try:
        return Password(raw.decode())
    except UnicodeDecodeError:
        return None


def _read_plain(value: Any) -> Password:
    if isinstance(value, Password):
        return value
    if not isinstance(value, str):
        raise refuse("is not a string: put it in quotes")
    return Password(value)


_HIDDEN = PlainSerializer(lambda value: None if value is None else "***", return_type=str | None)
_STRING = WithJsonSchema({"type": "string"})

Encoded: TypeAlias = Annotated[Password | None, PlainValidator(_read_encoded), _HIDDEN, _STRING]
Plain: TypeAlias = Annotated[Password, PlainValidator(_read_plain), _HIDDEN, _STRING]


class Secret(KubernetesObject):
    """Passwords by key."""

    kind: ClassVar[str] = "Secret"

    data: dict[str, Encoded] = Field(default_factory=dict, description="Values in base64.")
    string_data: dict[str, Plain] = Field(default_factory=dict, description="Values as they are; they win over data.")

    @property
    def passwords(self) -> dict[str, Password]:
        """Every value that is text, by key."""
        return {key: value for key, value in (self.data | self.string_data).items() if value is not None}
