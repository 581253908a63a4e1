from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def run(code: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    program = f"import os, signal, sys\nfrom agent import termination\nNUMBER = {int(number)}\n{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


@SIGNALS
def test_before_anything_has_begun_a_signal_is_the_end(number: signal.Signals) -> None:
    code = """
        termination.end_at_once()
        os.kill(os.getpid(), NUMBER)
        print("went on")
    """
    done = run(code, number)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@SIGNALS
def test_a_signal_just_before_the_program_is_replaced_is_for_the_next_one(number: signal.Signals) -> None:
    code = """
        if len(sys.argv) == 1:
            termination.hold()
            os.kill(os.getpid(), NUMBER)
            os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], "again"])
        print("replaced", flush=True)
        termination.end_at_once()
        print("went on")
    """
    done = run(code, number)
    assert (done.returncode, done.stdout, done.stderr) == (0, "replaced\n", "")


@SIGNALS
def test_whoever_is_to_be_told_hears_of_each_signal_until_there_is_nothing_left_to_end(number: signal.Signals) -> None:
    code = """
        termination.tell(lambda: print("told"))
        os.kill(os.getpid(), NUMBER)
        os.kill(os.getpid(), NUMBER)
        termination.ignore()
        os.kill(os.getpid(), NUMBER)
    """
    done = run(code, number)
    assert (done.returncode, done.stdout, done.stderr) == (0, "told\ntold\n", "")
