"""A word to whoever waits for a task that nobody can run: most often the worker was forgotten, or the name is misspelt.

    Future.result() ─► wait() ── 5 s ──► status: no worker serves its queue, knows its name, has its slots? ─► a warning
                          └──────────► and on: a worker may come

Said through the logger `qworker`, which without any set-up writes to stderr, and once for each queue and reason.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from . import durations, lending
from .errors import QWorkerError

if TYPE_CHECKING:
    from .future import Future

__all__ = ["wait"]

AFTER_S = 5.0  # a worker that is started in another terminal at the same time is there by then
_said: set[tuple[str, str]] = set()


def wait(future: Future[Any], timeout: float | None) -> bool:
    """Wait as `Future.wait` does."""
    short = timeout is not None and timeout <= AFTER_S
    # A task that waits would have to lend its slot twice; its worker logs what it cannot run.
    if short or future.done() or lending.run_that_lends() or future.run is not None:
        return future.wait(timeout)
    began = time.monotonic()
    if future.wait(AFTER_S):
        return True
    _tell(future)
    return future.wait(None if timeout is None else timeout - (time.monotonic() - began))


def _tell(future: Future[Any]) -> None:
    try:
        status = future._found(future.client().inspect(future.id, timeout_s=1.0))
    except QWorkerError:
        return  # who waits is told by the wait itself
    if status.workers is None or (status.workers and not status.unmet):
        return  # it waits for no worker, or for one that is busy
    reason = future.id.partition(":")[0], status.unmet
    if reason not in _said:
        _said.add(reason)
        waited = durations.text(AFTER_S)
        logging.getLogger("qworker").warning("%s has been waited for %s: %s", future.shown, waited, status)
