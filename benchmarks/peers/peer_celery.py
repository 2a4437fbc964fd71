"""Celery, on its Redis transport and Redis result backend."""

from __future__ import annotations

import sys
from typing import Any

import base
import work
from celery import Celery
from celery.contrib.abortable import AbortableTask
from celery.result import AsyncResult

app = Celery("bench", broker=base.URL, backend=base.URL if base.RESULTS else None)
app.conf.update(
    task_ignore_result=not base.RESULTS,
    worker_prefetch_multiplier=64 if base.AHEAD else 1,
    task_acks_late=not base.AHEAD,
    worker_disable_rate_limits=True,
    redis_max_connections=100 + base.SLOTS,  # redis-py's default of 100 is no more than the threads that store results
    broker_connection_retry_on_startup=True,  # its default, said aloud so that it does not warn
)
WRAPPED = {function.__name__: app.task(name=function.__name__)(function) for function in work.TASKS}


@app.task(bind=True, base=AbortableTask, name="listening", ignore_result=False)
def listening(self: AbortableTask, body: str) -> str:
    """Ask the result backend at each look whether it was aborted, as celery.contrib.abortable has it."""
    return work.listen(body, self.is_aborted)


if base.MODE == "thread":
    WRAPPED["linger"] = listening


class CeleryPeer(base.Peer):
    name = "celery"
    distributions = ("celery", "kombu", "redis", "hiredis")
    modes = ("process", "thread")
    settings = (
        "prefork or threads pool; worker_prefetch_multiplier=64 (docs.celeryq.dev: userguide/optimizing);"
        " 1 with task_acks_late for long among short (the same page);"
        " worker_disable_rate_limits (userguide/configuration); bulk shares a producer (userguide/calling);"
        " task_ignore_result where results are off (userguide/tasks); --without-gossip --without-mingle"
        " --without-heartbeat; task events are off by default; log level error."
        " stop: revoke(terminate=True), which ends the process of the pool (userguide/workers); in threads, which it"
        " cannot end, AbortableTask.is_aborted and AbortableAsyncResult.abort (reference/celery.contrib.abortable)"
    )
    pace = 900
    not_soon_back = (
        "lost: acknowledged before it runs, the default (userguide/tasks: acks_late); with task_acks_late it is back "
        "after visibility_timeout, by default an hour (getting-started/backends-and-brokers/redis)"
    )

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].delay(body)

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        # Still one message after another, but without taking a producer from its pool for each; quicker than a group.
        with app.producer_pool.acquire(block=True) as producer:
            return [WRAPPED[task].apply_async((body,), producer=producer) for body in bodies]

    def result(self, handle: AsyncResult) -> str:
        return handle.get(timeout=60)

    def cancel(self, handle: AsyncResult) -> None:
        if base.MODE == "process":
            handle.revoke(terminate=True)
        else:
            handle.abort()

    def command(self) -> list[str]:
        pool = {"process": "prefork", "thread": "threads"}[base.MODE]
        return [
            sys.executable, "-m", "celery", "-A", "peer_celery", "worker",
            "--pool", pool, "--concurrency", str(base.SLOTS), "--loglevel", "error",
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(CeleryPeer())
