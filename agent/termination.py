"""What SIGTERM and SIGINT mean to a process that is to be the agent, from its first line to its last.

Before the event loop runs nothing has begun that had to be ended, so it ends at once. Left to the kernel and to
Python, SIGTERM would go unheard by a container's first process until it has a handler, and SIGINT end in a trace.
Nothing is imported here that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def end_at_once() -> None:
    """Have signals end this process, with status 0. One that `hold` kept does so now."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def hold() -> None:
    """Keep signals for the program that replaces this one: handlers do not outlive that, the mask does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def tell(told: Callable[[], object]) -> None:
    """Have signals call a function, in the main thread, between any two of its steps."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: told())


def ignore() -> None:
    """Have signals mean nothing: the process is at its end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
