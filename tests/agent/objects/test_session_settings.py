from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.objects import PrefixRange, Timers
from agent.objects.model import Model
from agent.objects.wording import findings
from inet.prefix import Prefix


def refusal(model: type[Model], content: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as error:
        model.model_validate(content, by_alias=True, by_name=False)
    (finding,) = findings(error.value, model)
    return f"{finding.field}: {finding.message}"


def test_timers_are_90_30_and_10_seconds_by_default() -> None:
    timers = Timers()

    assert (timers.hold_time_seconds, timers.keepalive_time_seconds, timers.connect_retry_time_seconds) == (90, 30, 10)


def test_keepalive_follows_the_hold_time_unless_it_is_said() -> None:
    assert Timers(hold_time_seconds=30).keepalive_time_seconds == 10
    assert Timers(hold_time_seconds=30, keepalive_time_seconds=5).keepalive_time_seconds == 5
    assert Timers(hold_time_seconds=0).keepalive_time_seconds == 0


@given(st.integers(0, 70000), st.none() | st.integers(0, 70000))
def test_timers_in_force_always_fit_together(hold: int, keepalive: int | None) -> None:
    said = {"holdTimeSeconds": hold, "keepaliveTimeSeconds": keepalive}
    try:
        timers = Timers.model_validate(said, by_alias=True, by_name=False)
    except ValidationError:
        return
    in_force = (timers.hold_time_seconds, timers.keepalive_time_seconds)
    assert in_force == (0, 0) or (in_force[0] >= 3 and 1 <= in_force[1] <= in_force[0] / 3)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"holdTimeSeconds": 1}, "holdTimeSeconds: 1 is not a hold time: 0, or at least 3 seconds"),
        ({"holdTimeSeconds": 65536}, "holdTimeSeconds: 65536 is not a number of seconds (0 to 65535)"),
        ({"holdTimeSeconds": 90.0}, "holdTimeSeconds: 90.0 is not a number of seconds (0 to 65535)"),
        (
            {"keepaliveTimeSeconds": 31},
            "keepaliveTimeSeconds: 31 is more than a third of holdTimeSeconds 90: at most 30",
        ),
        (
            {"holdTimeSeconds": 0, "keepaliveTimeSeconds": 1},
            "keepaliveTimeSeconds: 1 does not go with holdTimeSeconds 0: leave it out",
        ),
        (
            {"keepaliveTimeSeconds": 0},
            "keepaliveTimeSeconds: 0 does not go with holdTimeSeconds 90: at least 1",
        ),
        ({"holdTime": 90}, "holdTime: unknown field; did you mean holdTimeSeconds?"),
        ({"connectRetryTimeSeconds": 0}, "connectRetryTimeSeconds: 0 is not a number of seconds (1 to 65535)"),
    ],
)
def test_timers_that_cannot_work_are_refused(content: dict[str, Any], wanted: str) -> None:
    assert refusal(Timers, content) == wanted


@pytest.mark.parametrize(("cidr", "length", "bits"), [("10.42.0.0/16", 16, 32), ("fd42::/48", 48, 128)])
def test_a_range_is_all_there_is_inside_its_cidr_by_default(cidr: str, length: int, bits: int) -> None:
    prefixes = PrefixRange(cidr=Prefix.parse(cidr))

    assert (prefixes.min_length, prefixes.max_length) == (length, bits)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"cidr": "10.42.0.0/16", "minLength": 8}, "minLength: 8 is shorter than 10.42.0.0/16 itself"),
        ({"cidr": "10.42.0.0/16", "maxLength": 33}, "maxLength: 33 is too long for 10.42.0.0/16: at most 32"),
        ({"cidr": "fd42::/48", "maxLength": 129}, "maxLength: 129 is not a prefix length (0 to 128)"),
        ({"cidr": "fd42::/48", "minLength": 64, "maxLength": 56}, "maxLength: 56 is less than minLength 64"),
        ({"cidr": "10.42.0.0/16", "maxLength": 8}, "maxLength: 8 is less than minLength 16"),
        ({"cidr": "fd42::1/48"}, "cidr: 'fd42::1/48' has host bits set: the prefix is fd42::/48"),
        ({"cidr": 10}, "cidr: 10 is not a prefix such as 10.42.0.0/24 or fd42::/64"),
        ({"minLength": 10}, "cidr: is required"),
    ],
)
def test_ranges_that_hold_nothing_are_refused(content: dict[str, Any], wanted: str) -> None:
    assert refusal(PrefixRange, content) == wanted
