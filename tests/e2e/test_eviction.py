"""A server that evicts keys in the middle of a run: what it takes is lost, and who waits for it is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from qworker import App, ResultExpired, TaskNotFound
from support.daemon import Worker
from support.servers import Server

ECHO = "support.apps.basic.echo"
QUEUE = "qw:{default.default}:"
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def server(request: pytest.FixtureRequest, new_server: Callable[..., Server]) -> Server:
    return new_server(request.param, durable=False)


def crowd_out(server: Server, policy: str, *, until: Callable[[redis.Redis], Any], ttl_s: int | None = None) -> None:
    """Let the server evict until something has happened, by writing keys of somebody else."""
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("maxmemory-policy", policy)
        admin.config_set("maxmemory", int(admin.info("memory")["used_memory"]) + (1 << 20))
        for round_ in range(500):
            with admin.pipeline(transaction=False) as pipe:
                for n in range(100):
                    pipe.set(f"other:{round_}:{n}", b"x" * 1000, ex=ttl_s)
                pipe.execute(raise_on_error=False)
            if until(admin):
                break
        else:
            raise AssertionError(f"it evicted {admin.info('stats')['evicted_keys']} keys, and not what was waited for")
        admin.config_set("maxmemory", 0)


def test_tasks_that_are_evicted_are_told_as_lost_and_the_worker_goes_on(
    server: Server, start: Callable[..., Worker]
) -> None:
    worker = start("-c", "2", "--allow-eviction", server_url=server.url)
    with App(server.url) as app:
        echo = app.named(ECHO)
        assert echo.submit("before").result(timeout=10) == "before"
        lost = [echo.options(delay=60).submit(n) for n in range(20)]

        crowd_out(server, "allkeys-random", until=lambda admin: not admin.exists(QUEUE + "bodies"))

        for future in lost:
            with pytest.raises(ResultExpired, match="the server lost its data"):
                future.result(timeout=30)
        assert echo.submit("after").result(timeout=10) == "after"
    worker.term()
    assert worker.wait() == 0


def test_a_server_that_evicts_what_has_a_time_to_live_loses_results_and_no_task(
    server: Server, start: Callable[..., Worker]
) -> None:
    worker = start("-c", "2", server_url=server.url)
    with App(server.url) as app:
        echo = app.named(ECHO)
        done = echo.options(result_ttl=60).submit("done")
        assert done.result(timeout=10) == "done"
        later = [echo.options(delay=5).submit(n) for n in range(20)]

        crowd_out(
            server, "volatile-ttl", ttl_s=3600, until=lambda admin: not admin.exists(QUEUE + "result:" + done.id[8:])
        )

        assert [future.result(timeout=30) for future in later] == list(range(20))
        with pytest.raises(TaskNotFound, match="it ended longer ago than its result_ttl"):
            app.future(done.id).result(timeout=10)
    worker.term()
    assert worker.wait() == 0
