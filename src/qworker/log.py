"""Events: one line per transition, for people (console) or machines (JSON lines).

    log.event("task.ended", task=…, outcome="failed") ──► queue ──► writer thread ──► stream

Nothing here raises and nothing here waits: a terminal that was paused, a log driver that blocks or a full disk must
not stop the loop that renews leases. Lines wait in a bounded queue for a thread of their own; what does not fit is
counted, and the count is written when there is room again. Before `setup`, lines go to stderr at once.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, Protocol, TextIO

__all__ = ["Block", "Emit", "Format", "Level", "Writer", "close", "event", "setup"]

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]

LEVELS: Mapping[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_COLOURS = {"debug": "\x1b[2m", "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}
_DIM, _BOLD, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_MOST_WAITING = 10_000  # lines
_OWN = frozenset({"time", "level", "event"})


class Block(str):
    """A field of several lines: on a console they stand below their event, in JSON it is a string like any other."""

    __slots__ = ()


class Emit(Protocol):
    """Write one event to the log: what `event` is."""

    def __call__(self, name: str, /, *, level: str = "info", **fields: object) -> None: ...


def event(name: str, /, *, level: str = "info", **fields: object) -> None:
    """Write an event with its fields. Raises nothing."""
    number = LEVELS.get(level, 20)
    if number < _threshold:
        return
    try:
        line = _render(time.time(), level, name, fields)
    except Exception as error:  # a field whose __str__ raises
        line = f"{name} (its fields cannot be shown: {type(error).__name__})\n"
    _write(line)


def setup(format: Format = "console", level: str = "info", stream: TextIO | None = None) -> None:  # noqa: A002
    """Choose where events go and how they look, and write them in a thread of their own from now on."""
    global _render, _threshold, _write, _writer
    close()
    stream = stream if stream is not None else sys.stderr
    _threshold = LEVELS[level]
    _render = render_json if format == "json" else (_render_coloured if _is_coloured(stream) else render_console)
    _writer = Writer(stream, lambda count: _render(time.time(), "warning", "log.dropped", {"lines": count}))
    _write = _writer.put


def close(timeout_s: float = 1.0) -> None:
    """Write what waits, for at most `timeout_s`; later events go to stderr at once."""
    global _write, _writer
    writer, _writer, _write = _writer, None, _write_now
    if writer is not None:
        writer.close(timeout_s)


def escape(text: str) -> str:
    r"""Return text without control characters (`\n`, `\x1b`, direction marks): they would rule the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def render_console(now: float, level: str, name: str, fields: Mapping[str, object]) -> str:
    """Return an event as a line for people: local time, level, event, then `field=value`."""
    shown = " ".join(f"{escape(key)}={_value(value)}" for key, value in fields.items() if _is_short(value))
    return f"{_local(now)} {level:<7} {escape(name)} {shown}".rstrip() + "\n" + _blocks(fields)


def render_json(now: float, level: str, name: str, fields: Mapping[str, object]) -> str:
    """Return an event as one JSON object on one line; `time` is UTC."""
    when = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line: dict[str, object] = {"time": when, "level": level, "event": name}
    for key, value in fields.items():
        line[f"field_{key}" if key in _OWN else key] = _plain(value)
    return json.dumps(line, default=str, allow_nan=False) + "\n"


def _render_coloured(now: float, level: str, name: str, fields: Mapping[str, object]) -> str:
    known = ((escape(key), value) for key, value in fields.items() if _is_short(value))
    shown = " ".join(f"{_DIM}{key}={_RESET}{_value(value)}" for key, value in known)
    colour = _COLOURS.get(level, "")
    head = f"{_DIM}{_local(now)}{_RESET} {colour}{level:<7}{_RESET} {_BOLD}{escape(name)}{_RESET} {shown}"
    return head.rstrip() + "\n" + _blocks(fields)


def _is_short(value: object) -> bool:
    return value is not None and not isinstance(value, Block)


def _blocks(fields: Mapping[str, object]) -> str:
    blocks = (value for value in fields.values() if isinstance(value, Block))
    return "".join(f"    {escape(line)}".rstrip() + "\n" for block in blocks for line in block.split("\n") if line)


def _local(now: float) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))}.{int(now % 1 * 1000):03d}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".") if abs(value) < 1e12 else str(value)
    text = escape(str(value))
    return '"' + text.replace('"', '\\"') + '"' if not text or " " in text or "=" in text or '"' in text else text


def _plain(value: object) -> object:
    """Return a field as JSON can say it: that has no NaN, no infinity, and no keys but text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _escaped(char: str) -> str:
    return ascii(char)[1:-1]


def _is_coloured(stream: TextIO) -> bool:
    try:
        return stream.isatty() and not os.environ.get("NO_COLOR")
    except Exception:
        return False  # closed, or no real stream


def _write_now(line: str) -> None:
    _write_to(sys.stderr, line)


def _write_to(stream: TextIO | None, text: str) -> None:
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except UnicodeEncodeError:
        _write_to(stream, text.encode("ascii", "backslashreplace").decode())
    except Exception:  # noqa: S110
        pass  # closed, or the disk is full: the work goes on without its log


class Writer:
    """Writes lines in the order in which they came. `put` may be called from any thread and never waits."""

    def __init__(self, stream: TextIO, say_dropped: Callable[[int], str]) -> None:
        self._stream, self._say_dropped = stream, say_dropped
        self._lines: deque[str] = deque()
        self._dropped = 0
        self._closing = False
        self._some = threading.Event()
        self._thread = threading.Thread(target=self._run, name="qworker-log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        if len(self._lines) < _MOST_WAITING:
            self._lines.append(line)
        else:
            self._dropped += 1
        if not self._some.is_set():
            self._some.set()

    def close(self, timeout_s: float) -> None:
        self._closing = True
        self._some.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not (self._closing and not self._lines):
            self._some.wait()
            self._some.clear()  # before looking, so that a line put from now on wakes the next round
            batch = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if dropped:
                batch.append(self._say_dropped(dropped))
            if batch:
                _write_to(self._stream, "".join(batch))


_threshold = 20
_render: Callable[[float, str, str, Mapping[str, object]], str] = render_console
_writer: Writer | None = None
_write: Callable[[str], None] = _write_now
