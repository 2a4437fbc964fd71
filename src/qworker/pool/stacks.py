"""Where a coroutine waits: the stack that no signal handler can see, because a coroutine that waits is on no thread.

    task ── coroutine ── what it awaits ── what that awaits ──► frames, innermost first

For the flight recorder (recorder.py). Called in a child, by the loop that the coroutine belongs to. What is on a thread
is seen by looks.py.
"""

from __future__ import annotations

import contextlib
import os
from types import CodeType, FrameType
from typing import Any, Final

_FRAMES_MAX: Final = 100
_HERE: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - to compare with co_filename
# Of coroutines, generator-based ones and asynchronous generators: the frame, and what it waits for.
_LINKS: Final = (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await"))


def coroutine_stack(task: Any) -> str:
    """Return the stack of an asyncio task, as faulthandler would write it: from where it waits to where it began.

    It follows the task into other tasks that it awaits; where it awaits several (`gather`), it ends there. What is
    awaited may be users' code, which can answer to its attributes with an error: then it ends there, too.
    """
    lines: list[str] = []
    with contextlib.suppress(Exception):
        _follow(task, lines)
    return "\n".join(reversed(lines))


def _follow(task: Any, lines: list[str]) -> None:
    seen: set[int] = set()
    while task is not None and id(task) not in seen and len(lines) < _FRAMES_MAX:
        seen.add(id(task))
        awaited = task.get_coro()
        while awaited is not None and len(lines) < _FRAMES_MAX:
            frame, awaited = _link(awaited)
            if frame is not None:
                lines.append(frame_line(frame.f_code, frame.f_lineno))
                if _is_ours(frame.f_code):
                    lines.clear()  # what is around the task's own code
        waiter = getattr(task, "_fut_waiter", None)
        task = waiter if hasattr(waiter, "get_coro") else None


def _link(awaited: Any) -> tuple[FrameType | None, Any]:
    for frame, further in _LINKS:
        if hasattr(awaited, frame):
            return getattr(awaited, frame), getattr(awaited, further)
    return None, None


def _is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(_HERE)


def frame_line(code: CodeType, line: int | None) -> str:
    """Write one frame as faulthandler does."""
    name = code.co_filename.encode("utf-8", "backslashreplace").decode()
    return f'  File "{name}", line {line} in {code.co_name}'
