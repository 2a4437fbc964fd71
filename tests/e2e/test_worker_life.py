"""A worker's pools follow its tasks; it ends in one piece whenever it is told to, and whatever befalls a role."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import redis

from e2e.conftest import executions
from qworker import TaskTimedOut, call
from support.daemon import TESTS, alive, descendants, spawn_worker
from support.waiting import wait_until

THREADED = """
import os, threading
from qworker import App
app = App()

@app.task
def plain() -> int:
    return os.getpid()

@app.task(pool="{need}")
def special() -> str:
    return threading.current_thread().name
"""


@pytest.mark.parametrize(("need", "slots"), [("thread", 16), ("async", 100)])
def test_a_worker_opens_the_pool_that_a_task_needs_though_nobody_named_it(
    tmp_path, url, start, monkeypatch, need, slots
) -> None:
    (tmp_path / f"wants_{need}.py").write_text(THREADED.format(need=need))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("QWORKER_URL", url)
    module = __import__(f"wants_{need}")

    worker = start("-c", "1", target=f"wants_{need}:app")

    assert worker.wait_event("worker.started")["slots"] == f"process=1,{need}={slots}"
    special, plain = module.special.submit(), module.plain.submit()
    assert special.result(timeout=15) != "MainThread"
    assert alive(plain.result(timeout=15))
    module.app.close()


def test_a_worker_whose_tasks_need_one_pool_has_one(start) -> None:
    worker = start("-c", "1", target="support.apps.plain_needs:app")

    assert worker.wait_event("worker.started")["slots"] == "process=1"


def test_term_ends_a_worker_that_still_waits_for_its_server(tmp_path) -> None:
    """As PID 1 of a container nothing else would end it: the kernel ignores what has no handler."""
    worker = spawn_worker(f"unix://{tmp_path}/nobody.sock", "support.apps.basic:app", log_dir=tmp_path)
    try:
        wait_until(lambda: worker.events("redis.unreachable"), timeout=20, description="its first complaint")
        below = descendants(worker.pid)

        worker.term()

        assert worker.wait(10) == 0
        assert "Traceback" not in worker.log()
        assert not [pid for pid in below if alive(pid)]
    finally:
        worker.close()


def test_data_of_another_schema_ends_the_worker_in_one_line_and_leaves_nothing_behind(tmp_path, url) -> None:
    with redis.Redis.from_url(url) as client:
        client.hset("qw:{default.default}:meta", "schema", "99")
    worker = spawn_worker(url, "support.apps.basic:app", log_dir=tmp_path)
    try:
        wait_until(lambda: worker.events("worker.failed"), timeout=20, description="the failure in its log")
        below = descendants(worker.pid)

        assert worker.wait(10) == 1
        assert "Traceback" not in worker.log()
        assert "has schema 99, this qworker reads 1" in worker.log()
        assert not [pid for pid in below if alive(pid)]
    finally:
        worker.close()


def test_a_task_of_broken_bytes_fails_and_the_worker_goes_on(start, tasks, url) -> None:
    worker = start("-c", "1")
    with redis.Redis.from_url(url) as client:
        client.hset("qw:{default.default}:bodies", "broken", b"12345678b")
        client.rpush("qw:{default.default}:ready:default:normal", "broken")

    assert worker.wait_event("task.ended", task="default:broken")["outcome"] == "failed"
    assert tasks.add.submit(1, 1).result(timeout=10) == 2
    assert worker.process.poll() is None


def test_a_burst_stays_for_the_retries_of_what_it_ran(start, tasks) -> None:
    future = tasks.asks_for_retry.submit(1, 1.5)

    assert start("-c", "1", "--burst").wait(30) == 0

    assert future.result(timeout=1) == 2


def test_tasks_given_back_by_a_drain_are_run_by_an_idle_worker_at_once(start, tasks, execution_log) -> None:
    """The bell that their release rings is not taken by the worker that drains."""
    first = start("-c", "1", "--window", "8")
    running = tasks.nap.submit(3.0, tag="running")
    wait_until(lambda: executions(execution_log), description="the first start")
    waiting = tasks.nap.submit(0.0, tag="waiting")
    wait_until(lambda: waiting.status().state == "claimed", description="the second to be claimed")
    start("-c", "1")

    begun = time.monotonic()
    first.process.send_signal(signal.SIGTERM)

    assert waiting.result(timeout=5) == "waiting"
    assert time.monotonic() - begun < 2.0
    assert running.result(timeout=10) == "running"


def test_without_uvloop_everything_works_on_asyncios_own_loop(start, tasks, tmp_path) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "uvloop.py").write_text("raise ImportError('not here')\n")
    worker = start("-c", "2", env={"PYTHONPATH": f"{shadow}:{TESTS}"})
    many = tasks.add.submit_many([call(n, 1) for n in range(300)])
    stuck = tasks.stuck_in_c.options(timeout=0.3, grace=0.3).submit()

    assert [future.result(timeout=20) for future in many] == [n + 1 for n in range(300)]
    with pytest.raises(TaskTimedOut):
        stuck.result(timeout=10)
    worker.term()
    assert worker.wait() == 0


def test_an_idle_worker_asks_redis_hardly_more_than_once_a_second_and_rests(start, url, tasks) -> None:
    worker = start("-c", "2")
    assert tasks.add.submit(1, 1).result(timeout=10) == 2
    pids = worker.processes()
    with redis.Redis.from_url(url) as client:
        calls = CallCounter(client)
        # Once it has found nothing, it is idle.
        wait_until(lambda: calls.of("blpop") >= 1, description="the worker to wait for the bell")
        before, spent, begun = calls.all(), cpu_s(pids), time.monotonic()

        wait_until(lambda: calls.of("evalsha") >= before["evalsha"] + 8, timeout=20, description="eight more looks")

        took = time.monotonic() - begun
        asked = {name: count - before.get(name, 0) for name, count in calls.all().items()}
        # A look each second; in eight seconds the record once or twice, and the bell twice at most.
        assert (asked["evalsha"] + asked["blpop"]) / took <= 1.6, asked
        assert (cpu_s(pids) - spent) / took < 0.05


class CallCounter:
    """Counts the calls of clients at the server; those of scripts count as the script's one."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def all(self) -> dict[str, int]:
        stats = self._client.info("commandstats")
        return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}

    def of(self, name: str) -> int:
        return self.all().get(name, 0)


def cpu_s(pids: list[int]) -> float:
    """The processor time that processes have used, in seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
