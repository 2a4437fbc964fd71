"""What the flight recorder saw of a task, in words: "where was it stuck".

Outcome.flight ─┬► told()  ─► `qworker show`, notes of TaskTimedOut
                └► place() ─► the worker's log: one line
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import durations
from .model import Sighting

__all__ = ["place", "told"]

_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')
_WHY = {"asked": "when it was asked to end", "forced": "shortly before it was ended by force"}


def told(flight: Sequence[Sighting]) -> list[str]:
    """Return a paragraph for each sighting. What has not changed since the one before is not told again."""
    paragraphs: list[str] = []
    before: Sighting | None = None
    for sighting in flight:
        lines = [f"where it was {_WHY.get(sighting.why, sighting.why)}, after {durations.text(sighting.ran_s)}:"]
        if not sighting.stack:
            lines.append("  (its stack could not be taken)")
        elif before is not None and sighting.stack == before.stack:
            lines.append("  still there")
        else:
            frames = sighting.stack.split("\n")
            if len(frames) > 1:  # the other way round than in a traceback
                lines[0] = f"{lines[0][:-1]}, innermost call first:"
            lines += frames
        if sighting.progress is not None and (before is None or sighting.progress != before.progress):
            lines.append(f"  progress: {_progress(*sighting.progress)}")
        if sighting.lines and (before is None or sighting.lines != before.lines):
            lines.append("  the last that it printed or logged:")
            lines += [f"    {line}" for line in sighting.lines]
        paragraphs.append("\n".join(lines))
        before = sighting
    return paragraphs


def place(flight: Sequence[Sighting]) -> str:
    """Return the innermost frame that was seen last, as `file:line in function`; empty when none was."""
    for sighting in reversed(flight):
        for line in sighting.stack.split("\n"):
            if (frame := _FRAME.fullmatch(line)) is not None:
                return f"{frame[1]}:{frame[2]} in {frame[3]}"
    return ""


def _progress(done: float, total: float | None, text: str) -> str:
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of}{', ' if text else ''}{text}"
