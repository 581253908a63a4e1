"""libnftables, bound by ctypes: text in, the lines it refused out.

The library compiles text and runs it as one transaction. Text comes in as an anonymous file: for a text in memory the
library's messages name no line. Calls block, for seconds with a large text, and other threads go on meanwhile. A
context is kept as long as it is of use: its end may have to wait for what the kernel still has to tidy up, 15 ms.

What it compiled a text to it tells in the words of libnftnl, which it is linked with. The same words are to be had for
rules that the kernel has: so the two can be compared, and nothing needs to be written to know what would be there.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from typing import Final, NamedTuple

from felix.netlink import open_socket
from felix.nfnetlink import NETLINK_NETFILTER

LIBRARY: Final = "libnftables.so.1"

_COMPILED: Final = 0x8  # NFT_DEBUG_NETLINK: tell what was compiled
_WORDS_BYTES: Final = 4096  # a rule takes some hundred

_NEWEST_NEEDED: Final = "nft_ctx_set_optimize"  # came with 1.0.2, and has no other use here
_OLDEST: Final = "1.0.2"

_LARGE: Final = 64 * 1024
_RETURN_MEMORY: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others do so unasked

_LOCK: Final = threading.Lock()  # the library has state that its contexts share

_ERROR: Final = re.compile(r"^[^:]*:(\d+):\d+-\d+: Error: (?:Could not process rule: )?(.*)$")
_GUESS: Final = re.compile(r"; did you mean .*")  # names of other chains, whatever it is about


class LibraryError(Exception):
    """libnftables cannot be used here. The text is for people."""


class TextError(NamedTuple):
    """Why a text was refused: a line of it, counted from 1, or 0 where nobody says which, and the library's words."""

    line: int
    message: str


class Library:
    """The library, loaded. Raises LibraryError where it is missing or too old."""

    def __init__(self, name: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise LibraryError(
                f"{name} cannot be loaded ({error}): install libnftables (Debian: libnftables1)"
            ) from error
        if not hasattr(self._library, _NEWEST_NEEDED):
            raise LibraryError(f"{name} is too old: libnftables {_OLDEST} or newer is needed")
        declare = self._library
        declare.nft_ctx_new.argtypes = [ctypes.c_uint32]
        declare.nft_ctx_new.restype = ctypes.c_void_p
        declare.nft_ctx_free.argtypes = [ctypes.c_void_p]
        declare.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        declare.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        declare.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        declare.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        declare.nft_ctx_get_output_buffer.argtypes = [ctypes.c_void_p]
        declare.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        declare.nft_ctx_output_set_debug.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        declare.nft_ctx_set_dry_run.argtypes = [ctypes.c_void_p, ctypes.c_bool]
        declare.nft_run_cmd_from_filename.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        declare.nftnl_rule_alloc.restype = ctypes.c_void_p
        declare.nftnl_rule_free.argtypes = [ctypes.c_void_p]
        declare.nftnl_rule_nlmsg_parse.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        declare.nftnl_rule_snprintf.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
        ]

    def open(self) -> Context:
        """Return a new context. Raises OSError where there is no socket left to be had."""
        return Context(self._library)

    def rule_words(self, message: bytes) -> bytes:
        """Return what a rule says, from the netlink message in which the kernel tells of it; b"" if nobody knows."""
        rule = self._library.nftnl_rule_alloc()
        try:
            if self._library.nftnl_rule_nlmsg_parse(message, rule) < 0:
                return b""
            size = _WORDS_BYTES
            while True:
                buffer = ctypes.create_string_buffer(size)
                if (needed := self._library.nftnl_rule_snprintf(buffer, size, rule, 0, 0)) < size:
                    return buffer.value
                size = needed + 1
        finally:
            self._library.nftnl_rule_free(rule)


class Context:
    """What runs texts in the network namespace of the thread that made it. One thread at a time may use it."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._is_spent = False
        self._context = self._new()

    def close(self) -> None:
        """Free the context."""
        with _LOCK:
            self._library.nft_ctx_free(self._context)

    def _new(self) -> int:
        with open_socket(0, NETLINK_NETFILTER):
            pass  # the library ends the whole process where it can have no socket
        with _LOCK:
            context: int = self._library.nft_ctx_new(0)
            self._library.nft_ctx_buffer_error(context)
            self._library.nft_ctx_buffer_output(context)
        return context

    def run(self, text: str, *, is_dry: bool = False) -> list[TextError]:
        """Run a text as one transaction; return why it was refused.

        A dry run goes as far as the kernel, which checks everything and then drops it. Raises OSError where there is
        no file or socket left to be had.
        """
        return self._process(text, is_dry=is_dry, told=0)[0]

    def compile(self, text: str) -> tuple[list[TextError], bytes]:
        """Run a text dry; return why it was refused, and the rules it was compiled to, in the library's words.

        Of each rule there is a line that begins with family, table and chain, followed by indented ones.
        """
        return self._process(text, is_dry=True, told=_COMPILED)

    def _process(self, text: str, *, is_dry: bool, told: int) -> tuple[list[TextError], bytes]:
        if self._is_spent:
            spent, self._context = self._context, self._new()
            self._library.nft_ctx_free(spent)
        self._library.nft_ctx_output_set_debug(self._context, told)
        self._library.nft_ctx_set_dry_run(self._context, is_dry)
        with os.fdopen(os.memfd_create("nft"), "wb") as file:
            file.write(text.encode())
            file.flush()
            with _LOCK:
                errors = self._run(f"/proc/self/fd/{file.fileno()}")
                output: bytes = self._library.nft_ctx_get_output_buffer(self._context)  # and empty it
        self._is_spent = is_dry or bool(errors)  # then it believes in things that never came to be
        if len(text) > _LARGE and _RETURN_MEMORY:
            _RETURN_MEMORY(0)  # 1,000 chains take 30 MB, which glibc would keep for another time
        return errors, output

    def _run(self, path: str) -> list[TextError]:
        failed = self._library.nft_run_cmd_from_filename(self._context, path.encode())
        errors = self._library.nft_ctx_get_error_buffer(self._context)  # and empty it for the next time
        return _read_errors(errors.decode(errors="replace")) if failed else []


def _read_errors(output: str) -> list[TextError]:
    found = [match for line in output.splitlines() if (match := _ERROR.match(line))]
    errors = [TextError(int(match[1]), _GUESS.sub("", match[2])) for match in found]
    return errors or [TextError(0, output.strip() or "libnftables does not say why")]
