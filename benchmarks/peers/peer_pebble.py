"""Pebble's ProcessPool: local processes that can be killed, one task at a time each."""

from __future__ import annotations

from typing import Any

import base
import work
from pebble import ProcessPool

TASKS = {function.__name__: function for function in work.TASKS}


class Pebble(base.Peer):
    name = "pebble"
    distributions = ("pebble",)
    modes = ("process",)
    settings = "defaults; no timeout on the tasks. stop: ProcessFuture.cancel(), which ends the process"
    pace = 15_000
    local = True

    def open(self) -> None:
        self.pool = ProcessPool(base.SLOTS)

    def close(self) -> None:
        self.pool.stop()
        self.pool.join()

    def submit(self, task: str, body: str) -> Any:
        return self.pool.schedule(TASKS[task], args=[body])

    def result(self, handle: Any) -> str:
        return handle.result(60)

    def cancel(self, handle: Any) -> None:
        handle.cancel()


if __name__ == "__main__":
    base.run(Pebble())
