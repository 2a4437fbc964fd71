"""`current.iterate`: go through items so that the next attempt goes on where this one was ended.

    for item in current.iterate(items) ─► a completed item ─► slot.save(cursor) ─► worker ── renewal, way back ─► Redis
    the next attempt ◄── run.cursor ◄── the order ◄── claim ◄─────────────────────────────────────────────────────┘

An item is completed when the next one is asked for. The cursor names the last of them, so a task that is ended in the
middle of an item does that item again; one that dies within the 50 ms between two savings, those items, too. A cursor
is kept for as long as its task lives, and goes with its outcome.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from . import codec
from .context import Run
from .current_task import current
from .errors import CursorLost, DecodeError, NotEncodable, TaskTooLarge

__all__ = ["iterate"]

T = TypeVar("T")

SAVE_EVERY_S: Final = 0.05
CURSOR_MAX: Final = 4096


def iterate(run: Run, items: Iterable[T], key: Callable[[T], object] | None) -> Iterator[T]:
    """See `Current.iterate`; `run` is the attempt that this code belongs to."""
    if any(loop.open for loop in run.loops):
        raise RuntimeError(
            f"cannot begin `current.iterate` in task {run.id}: another one is not over, and a task has one cursor. Go "
            "through the inner items with a plain loop"
        )
    loop = _Loop(run)
    run.loops.append(loop)
    return (yield from loop.steps(items, key))


class _Loop:
    """One `current.iterate` of an attempt, from its first item on."""

    def __init__(self, run: Run) -> None:
        self.open = True
        self._run, self._place = run, len(run.loops)  # which one of this attempt's loops it is
        self._saved_at = float("-inf")
        self._last: Any = None  # the key of the last completed item
        self._unsaved = False

    def steps(self, items: Iterable[T], key: Callable[[T], object] | None) -> Iterator[T]:
        try:
            begun, reached = _read(self._run)
            if begun > self._place:
                return  # an earlier attempt had come to a later loop: this one is over
            seeking = begun == self._place
            for index, item in enumerate(items):
                name = index if key is None else key(item)
                if seeking:
                    seeking = name != reached
                    continue
                current.check()
                yield item
                self._completed(name)
            if seeking:
                raise CursorLost(
                    f"cannot go on with `current.iterate` in task {self._run.id}: an earlier attempt had completed the "
                    f"item {_shown(reached)}, and it is not among the items any more. Give items in the same order "
                    "each time, with key= a function whose value stays the same, or submit the task anew"
                )
        finally:
            self.end()

    def end(self) -> None:
        """The loop is left; or its task has ended, and somebody still holds the generator."""
        self.open = False
        if self._unsaved:
            # Whoever leaves the loop has an error of its own, or none: the cursor before is a right one, too.
            with contextlib.suppress(NotEncodable):
                self._save()

    def _completed(self, name: object) -> None:
        self._last, self._unsaved = name, True
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        self._run.slot.save(_pack(self._place, self._last, self._run))
        self._saved_at, self._unsaved = time.monotonic(), False


def _pack(place: int, name: object, run: Run) -> bytes:
    try:
        cursor = codec.pack_value([place, name])
    except (NotEncodable, TaskTooLarge) as error:
        raise NotEncodable(
            f"cannot save where `current.iterate` is in task {run.id}: the key of an item cannot be sent: {error}. "
            "Let key= return a number or a short text"
        ) from None
    if len(cursor) > CURSOR_MAX:
        raise NotEncodable(
            f"cannot save where `current.iterate` is in task {run.id}: the key of an item takes {len(cursor):,} bytes, "
            f"at most {CURSOR_MAX:,} are kept. Let key= return a number or a short text"
        )
    return cursor


def _read(run: Run) -> tuple[int, object]:
    """Return in which loop an earlier attempt was, and the key that it had completed there; (-1, None) for none."""
    if run.cursor is None:
        return -1, None
    try:
        place, name = codec.unpack_value(run.cursor)
        return int(place), name
    except (DecodeError, TypeError, ValueError) as error:
        raise CursorLost(
            f"cannot go on with `current.iterate` in task {run.id}: the cursor that was kept cannot be read ({error}). "
            "Submit the task anew"
        ) from error


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 200 else f"{text[:200]}…"
