"""Where no signal's handler comes between: Python runs them in the main thread only, between any two of its lines.

What tells several others the same thing, each once, must not be ended in the middle by Ctrl-C. Used by `Future`, and by
the Executor that ends with Ctrl-C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["call", "may_be_interrupted"]


def may_be_interrupted() -> bool:
    """Whether this is the main thread."""
    return threading.get_ident() == threading.main_thread().ident


def call(work: Callable[[], object]) -> None:
    """Call it, and return when it has ended. Ctrl-C ends the wait, not the work, unless it comes before that begins."""
    if not may_be_interrupted():
        work()
        return
    thread = threading.Thread(target=work, name="qworker-uninterrupted", daemon=True)
    thread.start()
    thread.join()
