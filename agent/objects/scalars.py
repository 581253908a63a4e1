"""The values fields are made of: AS numbers, addresses, CIDRs, times, names.

Each reads what a manifest says (strictly: a number in quotes is not a number), comes out as the type the rest of
the code works with, says in its own words what is wrong, and knows its JSON schema. `NOUN` in that schema is
what the reference pages call the type; it is taken out of what Kubernetes is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    PlainValidator,
    Strict,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError, core_schema

from agent.objects.problem import show
from agent.objects.server_checks import Check, rules
from inet.prefix import Family, IPAddress, Prefix, parse_address

NOUN: Final = "x-noun"
REFUSED: Final = "refused"
"""Type of the errors raised here: their message is fit for people as it is."""

AS_TRANS: Final = 23456
LARGEST_ASN: Final = 2**32 - 1


def refuse(message: str, *, field: str = "") -> PydanticCustomError:
    """Return the error that says `message`, about `field` of the value in hand or the value itself."""
    return PydanticCustomError(REFUSED, "{message}", {"message": message, "field": field})


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number from `low` to `high`; `noun` with its article and unit; `reserved` says why some are not."""

    noun: str
    low: int
    high: int
    reserved: Mapping[int, str] = field(default_factory=dict, hash=False)

    def read(self, value: Any) -> int:
        """Return the number itself; text, fractions and booleans are not numbers."""
        if type(value) is not int or not self.low <= value <= self.high:
            quoted = ": leave out the quotes" if isinstance(value, str) and value.isdecimal() else ""
            raise refuse(f"{show(value)} is not {self.noun} ({self.low} to {self.high}){quoted}")
        if (reason := self.reserved.get(value)) is not None:
            raise refuse(f"{value} is not {self.noun}: {reason}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        noun = self.noun.removeprefix("a number of ").removeprefix("an ").removeprefix("a ")
        kept = rules(*(Check(f"self != {number}", f"{number}: {why}") for number, why in self.reserved.items()))
        said = {"type": "integer", "format": "int64", "minimum": self.low, "maximum": self.high, NOUN: noun}
        return said | kept if self.reserved else said


def _text(noun: str, **schema: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", NOUN: noun} | schema)


# Numbers

_ASN = Whole("an AS number", 1, LARGEST_ASN, {AS_TRANS: "it is AS_TRANS, a placeholder (RFC 6793 section 9)"})
_NOT_AS_TRANS: Final = f"{AS_TRANS} is AS_TRANS, a placeholder (RFC 6793 section 9)"

ASN: TypeAlias = Annotated[int, _ASN]
Port: TypeAlias = Annotated[int, Whole("a TCP port", 1, 65535)]
PrefixLength: TypeAlias = Annotated[int, Whole("a prefix length", 0, 128)]
Switch: TypeAlias = Annotated[bool, Strict()]


def _read_peer_asn(value: Any) -> int | str:
    if isinstance(value, str) and value in {"Internal", "External"}:
        return value
    try:
        return _ASN.read(value)
    except PydanticCustomError as error:
        if isinstance(value, str):
            raise refuse(f"{show(value)} is not an AS number (1 to {LARGEST_ASN}), Internal or External") from None
        raise error from None


PeerASN: TypeAlias = Annotated[
    int | Literal["Internal", "External"],
    PlainValidator(_read_peer_asn),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],  # the one form the API server takes
            "minimum": 1,
            "maximum": LARGEST_ASN,
            "pattern": "^(Internal|External)$",
            **rules(Check(f"type(self) != int || self != {AS_TRANS}", _NOT_AS_TRANS)),
            NOUN: "AS number, `Internal` or `External`",
        }
    ),
]

SMALLEST_MTU: Final = 1280  # IPv6 needs it (RFC 8200 section 5), and pods get it whether they have IPv6 or not
_MTU = Whole("an MTU", SMALLEST_MTU, 65535)


def _read_mtu(value: Any) -> int | str:
    return value if value == "auto" else _MTU.read(value)


MTU: TypeAlias = Annotated[
    int | Literal["auto"],
    PlainValidator(_read_mtu),
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],  # the one form the API server takes
            "minimum": SMALLEST_MTU,
            "maximum": 65535,
            "pattern": "^auto$",
            NOUN: "number of bytes or `auto`",
        }
    ),
]

_LINK_PATTERN = re.compile(r"[^\s/:\[\]?]{1,15}")


def _check_link_pattern(text: str) -> str:
    if not _LINK_PATTERN.fullmatch(text):
        raise refuse(f"{show(text)} is not a link's name, such as eth0 or en*: at most 15 characters")
    return text


LinkPattern: TypeAlias = Annotated[
    str,
    AfterValidator(_check_link_pattern),
    _text("name of a link", minLength=1, maxLength=15, pattern=r"^[^\s/:\[\]?]+$"),
]

# Addresses


def read_address(value: Any) -> IPAddress:
    """Read an address a session can have. A link-local one needs its interface: `fe80::1%eth0`."""
    if isinstance(value, str):
        try:
            value = parse_address(value)
        except ValueError as error:
            raise refuse(str(error)) from None
    if not isinstance(value, IPv4Address | IPv6Address):
        raise refuse(f"{show(value)} is not an IPv4 or IPv6 address")
    if value.is_multicast or value.is_unspecified or value == IPv4Address("255.255.255.255"):
        raise refuse(f"{value} is not the address of a host")
    scope = value.scope_id if isinstance(value, IPv6Address) else None
    if isinstance(value, IPv6Address) and value.is_link_local and not scope:
        raise refuse(f"{value} is link-local: say on which interface, as in {value}%eth0")
    if scope and not value.is_link_local:
        raise refuse(f"{value} is not link-local: leave out %{scope}")
    return value


def _read_router_id(value: Any) -> IPv4Address:
    """Read a BGP Identifier: any number but zero, written as an IPv4 address (RFC 6286 section 2.1)."""
    try:
        router_id = value if isinstance(value, IPv4Address) else IPv4Address(str(value))
    except ValueError:
        raise refuse(f"{show(value)} is not a router id: an IPv4 address other than 0.0.0.0") from None
    if not int(router_id):
        raise refuse("0.0.0.0 is not a router id: an IPv4 address other than 0.0.0.0")
    return router_id


def _read_cidr(value: Any) -> Prefix:
    if isinstance(value, Prefix):
        return value
    if not isinstance(value, str):
        raise refuse(f"{show(value)} is not a prefix such as 10.42.0.0/24 or fd42::/64")
    try:
        return Prefix.parse(value)
    except ValueError as error:
        raise refuse(str(error)) from None


def _read_family(value: Any) -> Family:
    for family in Family:
        if value == family.label or value is family:
            return family
    raise refuse(f"{show(value)} is not IPv4 or IPv6")


_ADDRESS_RULES: Final = rules(
    Check(
        "self.contains('%') ? isIP(self.split('%')[0]) && self.split('%').size() == 2 : isIP(self)",
        "must be an IPv4 or IPv6 address",
    ),
    Check(
        "!isIP(self.split('%')[0]) || [ip(self.split('%')[0])].all(a, a.isGlobalUnicast() || a.isLoopback() || "
        "a.isLinkLocalUnicast())",
        "must be the address of a host",
    ),
    Check(
        "!isIP(self.split('%')[0]) || [ip(self.split('%')[0])].all(a, (a.family() == 6 && a.isLinkLocalUnicast()) == "
        "self.contains('%'))",
        "a link-local address, and no other, says on which interface: fe80::1%eth0",
    ),
)

Address: TypeAlias = Annotated[
    IPAddress,
    PlainValidator(read_address),
    PlainSerializer(str),
    _text("IP address", minLength=2, maxLength=61, **_ADDRESS_RULES),  # the longest address, %, the longest interface
]
RouterID: TypeAlias = Annotated[
    IPv4Address,
    PlainValidator(_read_router_id),
    PlainSerializer(str),
    _text(
        "IPv4 address",
        format="ipv4",
        maxLength=15,
        **rules(Check("self != '0.0.0.0'", "must be an IPv4 address other than 0.0.0.0")),
    ),
]
CIDR: TypeAlias = Annotated[
    Prefix,
    PlainValidator(_read_cidr),
    PlainSerializer(str, return_type=str),
    _text(
        "CIDR",
        maxLength=49,
        **rules(
            Check(  # Kubernetes 1.31 estimates `==` of CIDRs to cost more than any schema may: hence containment
                "isCIDR(self) && cidr(self.split('/')[0] + (cidr(self).ip().family() == 4 ? '/32' : '/128'))"
                ".containsIP(cidr(self).masked().ip())",
                "must be a prefix without host bits, such as 10.42.0.0/24 or fd42::/64",
            )
        ),
    ),
]
FamilyName: TypeAlias = Annotated[
    Family,
    PlainValidator(_read_family),
    PlainSerializer(lambda family: family.label, return_type=str),
    _text("`IPv4` or `IPv6`", enum=["IPv4", "IPv6"]),
]

# Times


def _read_time(value: Any) -> datetime:
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise refuse(f"{show(value)} is not a time such as 2026-11-21T12:00:00Z")
    return moment


def _write_time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


Time: TypeAlias = Annotated[
    datetime,
    PlainValidator(_read_time),
    PlainSerializer(_write_time, return_type=str),
    _text("time (RFC 3339)", format="date-time"),
]

# Names and labels, as Kubernetes has them (k8s.io/apimachinery/pkg/util/validation)

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
LABEL_KEY: Final = rf"^({_SUBDOMAIN.pattern}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?$"


def _is_subdomain(text: str) -> bool:
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def _check_name(text: str) -> str:
    if not _is_subdomain(text):
        raise refuse(
            f"{show(text)} is not a name: lower-case letters, digits, '-' and '.', at most 253, "
            "a letter or digit first and last"
        )
    return text


def _check_label_key(text: str) -> str:
    prefix, slash, name = text.rpartition("/")
    if not _QUALIFIED.fullmatch(name) or len(name) > 63 or (slash and not _is_subdomain(prefix)):
        raise refuse(
            f"{show(text)} is not a label name: at most 63 letters, digits, '-', '_' and '.', "
            "if need be after a DNS name and '/'"
        )
    return text


def _check_label_value(text: str) -> str:
    if text and (not _QUALIFIED.fullmatch(text) or len(text) > 63):
        raise refuse(
            f"{show(text)} is not a label value: at most 63 letters, digits, '-', '_' and '.', "
            "a letter or digit first and last"
        )
    return text


def _checked_text(
    check: Callable[[str], str], noun: str, pattern: str, length: int
) -> tuple[AfterValidator, WithJsonSchema]:
    return AfterValidator(check), _text(noun, pattern=pattern, maxLength=length)


Name: TypeAlias = Annotated[str, *_checked_text(_check_name, "name", f"^{_SUBDOMAIN.pattern}$", 253)]
LabelKey: TypeAlias = Annotated[str, *_checked_text(_check_label_key, "label name", LABEL_KEY, 317)]
LabelValue: TypeAlias = Annotated[
    str, *_checked_text(_check_label_value, "label value", f"^({_QUALIFIED.pattern})?$", 63)
]
