"""What BGPConfiguration and BGPPeer both say about sessions: passwords, timers, what is believed."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import Field, model_validator

from agent.objects.model import Model
from agent.objects.scalars import CIDR, Name, PrefixLength, Whole, refuse
from agent.objects.server_checks import Check, server_checks


class SecretKeyRef(Model):
    """Where a password is: a key of a Secret in Tortie's own namespace."""

    name: Name = Field(description="Name of the Secret.")
    key: str = Field(min_length=1, description="Key in its data.")


def _third_of_hold_time(said: dict[str, Any]) -> int:
    hold_time: int = said.get("hold_time_seconds", 90)
    return hold_time // 3


class Timers(Model):
    """Session timers (RFC 4271 section 10)."""

    model_config = server_checks(
        Check(
            "!has(self.holdTimeSeconds) || !(self.holdTimeSeconds in [1, 2])",
            "must be 0, or at least 3",
            "holdTimeSeconds",
        ),
        Check(
            "!has(self.keepaliveTimeSeconds) || self.keepaliveTimeSeconds <= self.holdTimeSeconds / 3",
            "must be at most a third of holdTimeSeconds",
            "keepaliveTimeSeconds",
        ),
        Check(
            "!has(self.keepaliveTimeSeconds) || self.keepaliveTimeSeconds > 0 || self.holdTimeSeconds == 0",
            "must be at least 1 unless holdTimeSeconds is 0",
            "keepaliveTimeSeconds",
        ),
    )

    hold_time_seconds: Annotated[int, Whole("a number of seconds", 0, 65535)] = Field(
        default=90,
        description="A session on which nothing is heard for so many seconds is down. 0 keeps it up for ever; "
        "1 and 2 are not allowed (RFC 4271 section 4.2). The smaller of both sides' counts.",
    )
    keepalive_time_seconds: Annotated[int, Whole("a number of seconds", 0, 21845)] = Field(
        default_factory=_third_of_hold_time,
        description="Seconds between KEEPALIVE messages: at most, and by default, a third of the hold time; "
        "0 exactly when the hold time is 0.",
    )
    connect_retry_time_seconds: Annotated[int, Whole("a number of seconds", 1, 65535)] = Field(
        default=10, description="Seconds between attempts to connect."
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        hold, keepalive = self.hold_time_seconds, self.keepalive_time_seconds
        if hold in {1, 2}:
            raise refuse(f"{hold} is not a hold time: 0, or at least 3 seconds", field="holdTimeSeconds")
        if hold == 0 and keepalive:
            raise refuse(f"{keepalive} does not go with holdTimeSeconds 0: leave it out", field="keepaliveTimeSeconds")
        if keepalive > hold // 3:
            raise refuse(
                f"{keepalive} is more than a third of holdTimeSeconds {hold}: at most {hold // 3}",
                field="keepaliveTimeSeconds",
            )
        if hold and not keepalive:
            raise refuse(f"0 does not go with holdTimeSeconds {hold}: at least 1", field="keepaliveTimeSeconds")
        return self


def _length_of_cidr(said: dict[str, Any]) -> int:
    return said["cidr"].length if "cidr" in said else 0


def _bits_of_cidr(said: dict[str, Any]) -> int:
    return said["cidr"].family.bits if "cidr" in said else 0


class PrefixRange(Model):
    """Prefixes inside a CIDR, by length."""

    model_config = server_checks(
        Check(
            "!has(self.minLength) || !isCIDR(self.cidr) || self.minLength >= cidr(self.cidr).prefixLength()",
            "must not be shorter than cidr itself",
            "minLength",
        ),
        Check(
            "!has(self.maxLength) || !isCIDR(self.cidr) || self.maxLength <= (cidr(self.cidr).ip().family() == 4 ? "
            "32 : 128)",
            "must be at most 32 for IPv4, 128 for IPv6",
            "maxLength",
        ),
        Check(
            "!has(self.maxLength) || !isCIDR(self.cidr) || self.maxLength >= (has(self.minLength) ? self.minLength : "
            "cidr(self.cidr).prefixLength())",
            "must not be less than minLength, or the length of cidr",
            "maxLength",
        ),
        Check(
            "!has(self.minLength) || !isCIDR(self.cidr) || self.minLength <= (cidr(self.cidr).ip().family() == 4 ? "
            "32 : 128)",
            "must be at most 32 for IPv4, 128 for IPv6",
            "minLength",
        ),
    )

    cidr: CIDR = Field(description="The prefix they are inside of, or are.")
    min_length: PrefixLength = Field(
        default_factory=_length_of_cidr, description="Shortest length; by default that of the CIDR."
    )
    max_length: PrefixLength = Field(
        default_factory=_bits_of_cidr, description="Longest length; by default 32 for IPv4, 128 for IPv6."
    )

    @model_validator(mode="after")
    def _lengths_are_possible(self) -> Self:
        bits = self.cidr.family.bits
        if self.min_length < self.cidr.length:
            raise refuse(f"{self.min_length} is shorter than {self.cidr} itself", field="minLength")
        if self.max_length > bits:
            raise refuse(f"{self.max_length} is too long for {self.cidr}: at most {bits}", field="maxLength")
        if self.min_length > self.max_length:
            raise refuse(f"{self.max_length} is less than minLength {self.min_length}", field="maxLength")
        return self


PREFIX_RANGES: Final = 1000
"""The longest list of them; the API server wants to know."""

MaxPrefixes = Annotated[int, Whole("a number of prefixes", 1, 10_000_000)]
