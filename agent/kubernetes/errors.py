"""What can go wrong with a request to the API server, in words for people."""

from __future__ import annotations

import msgspec


class Unreachable(Exception):  # noqa: N818 - it says what the server is
    """No answer: the server cannot be reached, broke off, or took too long."""


class Refused(Exception):  # noqa: N818 - it says what the request was
    """An answer that is not what was asked for. `retry_after_s` is what the server asks to wait, 0 if nothing."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {reason}: {message}" if reason else f"{status}: {message}")
        self.status = status
        self.reason = reason  # one word: Forbidden, NotFound, Expired
        self.retry_after_s = retry_after_s


class Status(msgspec.Struct):
    """The API's own kind of answer when something went wrong."""

    code: int = 0
    reason: str = ""
    message: str = ""

    def as_error(self) -> Refused:
        """Return it as what is raised."""
        return Refused(self.code, self.reason, self.message)


def refusal(status: int, body: bytes, retry_after: str = "") -> Refused:
    """Return what an answer with an error status says."""
    try:
        said = msgspec.json.decode(body, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Status(message=body[:200].decode(errors="replace").strip() or "no explanation")
    wait_s = float(retry_after) if retry_after.isdecimal() else 0.0
    return Refused(status, said.reason, said.message, wait_s)
