"""A script and plain commands beside it, done as one or not at all: the way of large values past Lua.

    Call(before, script, after) ── packed ─► MULTI, before…, the script, after…, EXEC ─► answer ─► the script's reply

Whatever a script is given, or looks at, Lua copies and hashes byte by byte, 1.2 ms a MiB. So what is large is written
by a command of its own, and the script, which decides, only moves it or lets it be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import hiredis

from .calls import Call, Command
from .connection import AppliedAnywayError, wire

LARGE = 4096  # bytes from which on a command of its own costs less than Lua does
_ABORTED = "EXECABORT Transaction discarded because of: "
_APART = 16_384  # what is as large as this is written from where it is, and not copied beside the rest first


def packed(call: Call[Any]) -> tuple[bytes, ...]:
    """Return a call with commands beside its script as it is written."""
    return tuple(_pieces([("MULTI",), *call.before, _script(call), *call.after, ("EXEC",)]))


def answers(call: Call[Any]) -> int:
    """Return how many replies come to a call that is more than a script."""
    return len(call.before) + len(call.after) + 3


def answer(call: Call[Any], replies: Sequence[Any]) -> Any:
    """Return the script's reply out of all these; raises the first error that is among them."""
    *queued, done = replies
    refused = isinstance(done, hiredis.ReplyError)
    found, place = (queued, len(call.before) + 1) if refused else (done, len(call.before))
    # Where MULTI is refused, each of them is done by itself: then the script is not put off, but answers.
    was_run = not isinstance(found[place], hiredis.ReplyError) and not (refused and found[place] == b"QUEUED")
    error = next((reply for reply in found if isinstance(reply, hiredis.ReplyError)), None)
    if error is None and refused:
        error = hiredis.ReplyError(str(done).removeprefix(_ABORTED))
    if error is not None:
        raise AppliedAnywayError(str(error)) if was_run else error
    return found[place]


def _script(call: Call[Any]) -> tuple[Any, ...]:
    if not call.after:
        return wire(call)
    # What comes behind it is done even if it fails, so it must not be unknown.
    assert call.script is not None
    return ("EVAL", call.script.text, *wire(call)[2:])


def _pieces(commands: Sequence[Command]) -> Iterator[bytes]:
    small: list[bytes] = []
    for command in commands:
        small.append(b"*%d\r\n" % len(command))
        for word in command:
            parts = word if isinstance(word, tuple) else (word if isinstance(word, bytes) else str(word).encode(),)
            small.append(b"$%d\r\n" % sum(map(len, parts)))
            for part in parts:
                small.append(part)
                if len(part) >= _APART:
                    small.pop()
                    yield b"".join(small)
                    yield part
                    small = []
            small.append(b"\r\n")
    yield b"".join(small)
