"""ThreadPoolExecutor of the standard library: no broker, no processes; what a queue costs is seen beside it."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import base
import work

TASKS = {function.__name__: function for function in work.TASKS}


class ThreadPool(base.Peer):
    name = "threadpool"
    distributions = ()
    modes = ("thread",)
    settings = "the standard library's, as it is; tasks run in the producer's own process"
    pace = 80_000
    cannot_stop = dict.fromkeys(["thread"], "Future.cancel() cannot stop what runs (library/concurrent.futures)")
    local = True

    def open(self) -> None:
        self.pool = ThreadPoolExecutor(base.SLOTS)

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, task: str, body: str) -> Future[str]:
        return self.pool.submit(TASKS[task], body)

    def result(self, handle: Future[str]) -> str:
        return handle.result(60)


if __name__ == "__main__":
    base.run(ThreadPool())
