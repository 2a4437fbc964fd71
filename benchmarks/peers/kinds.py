"""Which kind of function a contestant is given that runs both: coroutines on its loop, and plain ones aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import base
import work


def best(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a worker of event loops is quickest with: doing nothing is a coroutine, what blocks is not.

    With threads all is plain, for that is what is measured; with async slots all is a coroutine that can be one.
    """
    if base.MODE == "async" or (base.MODE == "process" and function is work.noop):
        return work.ASYNC_TASKS.get(function.__name__, function)
    return function
