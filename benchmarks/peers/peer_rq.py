"""RQ: its worker pool of SimpleWorkers, which run jobs in themselves instead of in a fork for each."""

from __future__ import annotations

import sys
from typing import Any

import base
import redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.job import Job

RESULT_TTL = 500 if base.RESULTS else 0  # 500 s is its default; 0 keeps nothing


class RQ(base.Peer):
    name = "rq"
    distributions = ("rq", "redis", "hiredis")
    modes = ("process",)
    settings = (
        "rq worker-pool of SimpleWorkers (python-rq.org/docs/workers; docs/benchmark.md in its repository: six times"
        " as fast as the forking Worker, for jobs of milliseconds); enqueue_many; a blocking wait for results;"
        " result_ttl=0 where results are off; --quiet. stop: send_stop_job_command (docs/workers), and the forking"
        " Worker there, for what it does is to kill the fork"
    )
    pace = 600
    not_soon_back = (
        "maintenance, each 10 minutes, takes it for failed, and runs it again only where Retry is given "
        "(docs/exceptions; DEFAULT_MAINTENANCE_TASK_INTERVAL in rq/defaults.py)"
    )

    def open(self) -> None:
        self.redis = redis.Redis.from_url(base.URL, socket_timeout=None)  # its waits for results block for longer
        self.queue = Queue("bench", connection=self.redis)

    def close(self) -> None:
        self.redis.close()

    def submit(self, task: str, body: str) -> Any:
        return self.queue.enqueue(f"work.{task}", body, result_ttl=RESULT_TTL)

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        return self.queue.enqueue_many(
            [Queue.prepare_data(f"work.{task}", args=(body,), result_ttl=RESULT_TTL) for body in bodies]
        )

    def result(self, handle: Job) -> str:
        result = handle.latest_result(timeout=60)
        if result is None:
            raise TimeoutError("no result in 60 s")
        return result.return_value

    def cancel(self, handle: Job) -> None:
        send_stop_job_command(self.redis, handle.id)

    def command(self) -> list[str]:
        kind = "Worker" if base.STOPS else "SimpleWorker"
        return [
            sys.executable, "-m", "rq.cli", "worker-pool", "--url", base.URL,
            "--worker-class", f"rq.worker.{kind}", "--num-workers", str(base.SLOTS), "--quiet", "bench",
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(RQ())
