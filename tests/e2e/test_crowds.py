"""Many workers at once: a thousand that died, and ten that start. All is dealt with soon, and by few calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import pytest
import redis

from qworker import call
from qworker.broker import Broker
from qworker.ids import new_token
from support.daemon import Worker, spawn_worker
from support.promised import PROMISES, bound, starts
from support.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LEASE_S = 6.0
DEAD = 1_000
WORKERS, TASKS = 10, 10


@pytest.fixture
def own(new_server: Callable[..., Server]) -> Server:
    return new_server(durable=False)


def test_what_a_thousand_dead_workers_held_has_all_run_within_seconds_of_their_leases(
    start, own, execution_log
) -> None:
    """A worker was there before they lapsed; a call puts back 32 windows."""
    with bound(own.url) as tasks, Broker(own.url) as broker:
        futures = tasks.nap.submit_many([call(0.0, n) for n in range(DEAD)])
        for n in range(DEAD):
            rooms = [(("default",), 1)]
            window = broker.claim("default", claim=new_token(), worker=f"gone:{n}:0000", rooms=rooms,
                                  lease_ms=int(LEASE_S * 1000))  # fmt: skip
            assert len(window.tasks) == 1
        lapsed = time.monotonic() + LEASE_S
        worker = start("-c", "2", target=PROMISES, server_url=own.url)

        assert [future.result(timeout=LEASE_S + 20) for future in futures] == list(range(DEAD))

        assert time.monotonic() - lapsed < 10
        assert starts(execution_log) == {future.id: 1 for future in futures}
        assert sum(event["count"] for event in worker.events("tasks.rescued")) == DEAD
        assert broker.stats("default").counters["succeeded"] == DEAD


def test_ten_workers_that_start_at_once_share_ten_tasks_by_few_calls(own, tmp_path, execution_log) -> None:
    workers: list[Worker] = []
    with bound(own.url) as tasks, redis.Redis.from_url(own.url) as client:
        futures = tasks.nap.submit_many([call(0.0, n) for n in range(TASKS)])
        client.config_resetstat()
        env = {"EXECUTION_LOG": str(execution_log)}
        try:
            workers += [spawn_worker(own.url, PROMISES, "-c", "1", log_dir=tmp_path, env=env) for _ in range(WORKERS)]
            served_s = sum(age_of(worker.wait_event("worker.started", timeout=60)) for worker in workers)
            assert [future.result(timeout=20) for future in futures] == list(range(TASKS))
            scripts = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        finally:
            for worker in workers:
                worker.close()
        # Each opens, looks around, claims and tells of itself; each task is claimed and settled, and its bell rings one
        # worker; and who is idle looks once a second.
        assert scripts < 10 * WORKERS + 4 * TASKS + 1.5 * served_s
        assert starts(execution_log) == {future.id: 1 for future in futures}


def age_of(event: dict[str, str]) -> float:
    """How many seconds ago a worker logged it."""
    return time.time() - datetime.fromisoformat(event["time"]).timestamp()
