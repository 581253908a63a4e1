"""Structured logs: one event a line, JSON for machines, colour on a terminal; never a secret.

Passwords live in `bgp.speaker.Secret`, whose text is stars wherever it is printed. As a second line of defence a
processor replaces the value of every key that looks like it carries one.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

LEVELS: Final = ("debug", "info", "warning", "error")
_SENSITIVE: Final = ("password", "secret_value", "token", "md5", "authorization")


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank out values whose key says that they are secret."""
    for key in event:
        if any(word in key.lower() for word in _SENSITIVE):
            event[key] = "***"
    return event


def configure(level: str, *, node: str) -> None:
    """Log events of `level` and above to standard error, every line with the node's name."""
    structlog.contextvars.bind_contextvars(node=node)
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=str)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
