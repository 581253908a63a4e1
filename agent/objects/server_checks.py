"""What the API server checks by itself before an object is stored: rules in CEL that repeat our own validators.

A rule stands beside the validator it repeats, and only where one schema keyword cannot say the same. It makes the
server refuse at `kubectl apply` what the agent would otherwise refuse later; the agent stays the judge, because
manifests in a directory never meet a server. Rules are priced by the server from the longest input the schema
allows: every list and text they look into needs its limit (`max_length`). Addresses and CIDRs are looked into with
the libraries of Kubernetes 1.31.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from pydantic import ConfigDict

RULES: Final = "x-kubernetes-validations"


class Check(NamedTuple):
    """One rule: `rule` must be true of `self`, or the object is refused with `message` about `field`."""

    rule: str
    message: str
    field: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the rule as it stands in a schema."""
        said = {"rule": self.rule, "message": self.message}
        return said | {"fieldPath": f".{self.field}"} if self.field else said


def rules(*checks: Check) -> dict[str, Any]:
    """Return the schema keyword that holds `checks`."""
    return {RULES: [check.to_json() for check in checks]}


def server_checks(*checks: Check) -> ConfigDict:
    """Return the configuration of a model whose objects the server checks."""
    return ConfigDict(json_schema_extra=rules(*checks))
