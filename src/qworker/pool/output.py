"""What tasks print and log, as frames with the number of their attempt.

    print ──► sys.stdout (Capture) ─┐
    logging ──► root (LogCapture) ──┴─► Meter ──► Outbox ──► worker: `task.output`

Installed in each child after the fork. What user code writes to the file descriptors themselves (C code, its own
subprocesses) goes where the worker's own output goes. Nothing here may raise into user code, or hold it up for long:
beyond a budget per second, text is dropped and the number of dropped characters is told.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from .. import context
from . import frames
from .outbox import Outbox

_LINE_MAX: Final = 8 * 1024
_OWN: Final = frozenset({"level", "logger"})  # fields that say where a line comes from
_BURST: Final = 256 * 1024
_PER_SECOND: Final = 64 * 1024


class Output:
    """All output of one child: who printed it, and whether there is room for it."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._partial: dict[tuple[int, str], str] = {}
        self._room: float = _BURST
        self._at = time.monotonic()
        self._dropped: dict[int, int] = {}

    @staticmethod
    def number() -> int:
        """Return the attempt whose code calls this; 0: nobody's, as in a helper thread without `current.bind`."""
        run = context.run_here.get() or context._fallback
        return 0 if run is None else getattr(run.slot, "number", 0)

    def write(self, stream: str, text: str) -> None:
        """Take a piece of text; whole lines are sent, the rest waits for its end."""
        key = (self.number(), stream)
        text = self._partial.pop(key, "") + text
        *lines, rest = text.split("\n")
        for line in lines:
            self.line(key[0], stream, line)
        while len(rest) > _LINE_MAX:
            self.line(key[0], stream, rest[:_LINE_MAX])
            rest = rest[_LINE_MAX:]
        if rest:
            self._partial[key] = rest

    def line(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None = None) -> None:
        """Send one line, if there is room for it in this second."""
        for start in range(0, len(text) or 1, _LINE_MAX):
            piece = text[start : start + _LINE_MAX]
            now = time.monotonic()
            self._room = min(_BURST, self._room + (now - self._at) * _PER_SECOND)
            self._at = now
            size = len(piece) + 64 + (_size(fields) if fields else 0)
            if self._room < size:
                self._dropped[number] = self._dropped.get(number, 0) + len(piece) + 1
                continue
            self._room -= size
            self._outbox.send(frames.pack_frame(frames.OUTPUT, number, stream, _clean(piece), fields))

    def finish(self, number: int) -> None:
        """The attempt ends: send its unfinished lines, and say what was dropped."""
        if not (self._partial or self._dropped):
            return
        if self._partial:
            for stream in ("stdout", "stderr"):
                rest = self._partial.pop((number, stream), "")
                if rest:
                    self.line(number, stream, rest)
        if self._dropped:
            dropped = self._dropped.pop(number, 0)
            if dropped:
                text = f"[{dropped} characters of output dropped: more than {_PER_SECOND} per second]"
                self._outbox.send(frames.pack_frame(frames.OUTPUT, number, "stderr", text, None))


def _clean(text: str) -> str:
    """Lone surrogates (an undecodable file name) cannot be encoded, and must not cost the line."""
    return text.encode("utf-8", "backslashreplace").decode()


def _add(fields: dict[str, Any], more: Mapping[object, object]) -> None:
    """Add what user code gives, as long as all of it together is no longer than a line may be."""
    room = _LINE_MAX
    for key, value in more.items():
        name, plain = _clean(str(key)), _plain(value)
        if name in _OWN:
            name = f"field_{name}"
        room -= len(name)
        if room <= 0:
            break
        if isinstance(plain, str):
            plain = plain[:room]
            room -= len(plain)
        fields[name] = plain


def _size(fields: Mapping[str, Any]) -> int:
    return sum(len(key) + (len(value) if isinstance(value, str) else 8) for key, value in fields.items())


def _plain(value: object) -> str | int | float:
    """Return the value of a field as a frame can carry it."""
    if isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**64):
        return value
    return _clean(value if isinstance(value, str) else repr(value))


class _Bytes(io.BufferedIOBase):
    """The `buffer` of a capture, for code that writes bytes."""

    def __init__(self, text: Capture) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._text.write(bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)


class Capture(io.TextIOBase):
    """What `sys.stdout` and `sys.stderr` are in a child."""

    def __init__(self, output: Output, stream: str, original: Any) -> None:
        self._output = output
        self._stream = stream
        self._original = original
        self.restored = False  # in a process that user code forked: the frames are not its to write
        self.buffer = _Bytes(self)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.restored:
            if self._original is not None:
                self._original.write(text)
        else:
            self._output.write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        # Since Python 3.13 a finalizer reports what it meets, and the original may be closed by then.
        if self.restored and self._original is not None and not getattr(self._original, "closed", False):
            self._original.flush()

    def fileno(self) -> int:
        """Give the real descriptor, for subprocesses that are told to write there."""
        if self._original is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._original.fileno())


class LogCapture(logging.Handler):
    """The root logging handler of a child."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {"level": record.levelname.lower(), "logger": record.name}
            _add(fields, getattr(record, "fields", {}))  # of `current.log`
            self._output.line(self._output.number(), "log", self.format(record), fields)
        except Exception:
            self.handleError(record)


def install(outbox: Outbox) -> tuple[Output, Callable[[], None]]:
    """Capture stdout, stderr and logging of this process.

    Returns the output, and what undoes the capture in a process that user code forks.
    """
    output = Output(outbox)
    captures = [Capture(output, "stdout", sys.stdout), Capture(output, "stderr", sys.stderr)]
    sys.stdout, sys.stderr = captures
    root = logging.getLogger()
    if not root.handlers and root.level == logging.WARNING:
        root.setLevel(logging.INFO)  # nobody configured it, so what tasks tell is worth a line
    handler = LogCapture(output)
    root.addHandler(handler)

    def undo() -> None:
        root.removeHandler(handler)
        for capture in captures:
            capture.restored = True

    return output, undo
