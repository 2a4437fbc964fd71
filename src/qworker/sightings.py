"""What the flight recorder saw of a task, in words: "where was it stuck".

Outcome.flight ─┬► told()  ─► `qworker show`, notes of TaskTimedOut
                └► place() ─► the worker's log: one line
"""

from __future__ import annotations

from collections.abc import Sequence

from . import durations
from .model import Sighting

__all__ = ["place", "told"]

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
            lines += sighting.stack.split("\n")
        if sighting.progress is not None and (before is None or sighting.progress != before.progress):
            lines.append(f"  progress: {_progress(*sighting.progress)}")
        if sighting.lines and (before is None or sighting.lines != before.lines):
            lines.append("  the last that it printed or logged:")
            lines += [f"    {line}" for line in sighting.lines]
        paragraphs.append("\n".join(lines))
        before = sighting
    return paragraphs


def place(flight: Sequence[Sighting]) -> str:
    """Return the innermost frame that was seen last; empty when none was."""
    for sighting in reversed(flight):
        for line in sighting.stack.split("\n"):
            if line.startswith("  File "):
                return line.strip()
    return ""


def _progress(done: float, total: float | None, text: str) -> str:
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of}{', ' if text else ''}{text}"
