"""ProcessPoolExecutor of the standard library: no broker; what a queue costs is seen beside it."""

from __future__ import annotations

from concurrent.futures import Future, ProcessPoolExecutor

import base
import work

TASKS = {function.__name__: function for function in work.TASKS}


class ProcessPool(base.Peer):
    name = "processpool"
    distributions = ()
    modes = ("process",)
    settings = "the standard library's, as it is; tasks are submitted one by one, without map's chunks"
    pace = 10_000
    cannot_stop = dict.fromkeys(["process"], "Future.cancel() cannot stop what runs (library/concurrent.futures)")
    local = True

    def open(self) -> None:
        self.pool = ProcessPoolExecutor(base.SLOTS)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, task: str, body: str) -> Future[str]:
        return self.pool.submit(TASKS[task], body)

    def result(self, handle: Future[str]) -> str:
        return handle.result(60)


if __name__ == "__main__":
    base.run(ProcessPool())
