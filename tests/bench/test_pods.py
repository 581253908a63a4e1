from __future__ import annotations

import subprocess
import time

import pytest

from bench.exits import Exit, Exits
from bench.measure import BenchError
from bench.pods import Wired, own_parts, wired_in

LOG = """\
time="2026-11-22T07:00:00.000000000Z" level=debug msg="begin cni setup" podsandboxid=aa
time="2026-11-22T07:00:00.010000000Z" level=debug msg="begin cni setup" podsandboxid=bb
time="2026-11-22T07:00:00.090123456Z" level=info msg="starting signal loop" namespace=k8s.io
time="2026-11-22T07:00:00.100123456Z" level=debug msg="cni result: {\\"Interfaces\\":{}}" podsandboxid=aa
"""


def test_a_network_is_timed_from_its_beginning_to_its_result() -> None:
    (wired,) = wired_in(LOG)
    assert wired.had - wired.asked == pytest.approx(0.100123)


def test_what_our_plugin_took_is_told_pod_by_pod() -> None:
    wired = [Wired(10.0, 10.100), Wired(10.005, 10.120)]
    last = [Exit(10.099, 0.009), Exit(10.121, 0.020)]
    first = [Exit(10.012, 0.006), Exit(10.004, 0.003)]  # of the second pod, of the first
    assert own_parts(wired, [*first, *last]) == pytest.approx([0.012, 0.026])
    assert own_parts(wired, last) == pytest.approx([0.009, 0.020])


def test_runs_that_are_missing_are_an_error() -> None:
    with pytest.raises(BenchError, match="ran 1 times for 2 pods"):
        own_parts([Wired(10.0, 10.1), Wired(10.0, 10.2)], [Exit(10.1, 0.01)])


@pytest.mark.kernel
def test_the_kernel_tells_of_ends_of_programs() -> None:
    with Exits("sleep") as exits:
        subprocess.run(["sleep", "0.2"], check=True)
        subprocess.run(["true"], check=True)
        found = exits.take()
        deadline = time.monotonic() + 10
        while not found and time.monotonic() < deadline:
            found = exits.take()
    assert [0.2 <= each.took < 5 for each in found] == [True]
