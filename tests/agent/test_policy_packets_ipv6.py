"""The public suites with packets, in the other family: they take a minute each way, and files run side by side."""

from __future__ import annotations

import os

import pytest

from tests.agent.test_policy_packets import SUITES, passes

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces"),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", SUITES)
def test_the_public_suites_pass_with_packets_of_ipv6(file: str) -> None:
    passes(file, "ipv6")
