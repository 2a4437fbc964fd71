"""An exception of a signal's handler, at each place of some functions where one may come, in turn."""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

_LOOKS = {opcode.opmap[name] for name in ("CALL", "CALL_FUNCTION_EX", "RESUME", "JUMP_BACKWARD")}


def raises_at(
    work: Callable[[], object], codes: set[CodeType], at: int, error: type[BaseException] = KeyboardInterrupt
) -> bool:
    """Raise at the n-th place in these functions where a handler may; False if there are less.

    Signals' handlers are run after those instructions, and at no others.
    """
    before, seen = sys.gettrace(), 0
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal seen
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            looks = frame in last and last[frame] in _LOOKS
            last[frame] = frame.f_code.co_code[frame.f_lasti]
            seen += looks
            if looks and seen == at:
                sys.settrace(before)
                raise error
        return trace

    sys.settrace(trace)
    try:
        work()
    except error:
        pass
    finally:
        sys.settrace(before)
    return seen >= at
