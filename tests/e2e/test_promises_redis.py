"""What is promised while Redis fails: full, frozen, forgetful, cut off, gone. Nothing is lost, nothing starts twice."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from qworker import ServerFull, SubmitUnknown, TaskCancelled, call
from qworker.broker.scripts import load
from qworker.errors import ResultExpired, TaskNotFound
from support.daemon import TESTS
from support.promised import PROMISES, bound, runs, starts
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until

READY = "qw:{default.default}:ready:default:normal"
LEASE_S = 2.0
LEASE = {"QWORKER_LEASE": str(LEASE_S)}


@pytest.fixture
def own(new_server: Callable[..., Server]) -> Server:
    return new_server()


@pytest.fixture
def proxy(own: Server) -> Iterator[Proxy]:
    proxy = Proxy(own.socket_path)
    yield proxy
    proxy.close()


def evalsha(script: str) -> bytes:
    """What a call of this script has on the wire and no other has."""
    return load(script).sha.encode()


# A full server


@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_a_full_server_refuses_submits_whole_and_what_it_has_renews_retries_stops_and_ends(
    start, new_server, kind, execution_log
) -> None:
    own = new_server(kind, "--maxmemory-policy", "noeviction")
    with bound(own.url) as tasks, redis.Redis.from_url(own.url) as client:
        later = tasks.nap.options(delay=1.0).submit(0.0, "later")
        worker = start("-c", "3", "--window", "8", target=PROMISES, server_url=own.url, env=LEASE)
        stopped = tasks.polite.submit(60)
        queued = tasks.nap.submit_many([call(0.2, n) for n in range(20)])
        retried = tasks.fails_once.submit()
        lost = tasks.dies.submit(1)
        cancelled = tasks.nap.submit(0.0)
        wait_until(lambda: len(runs(execution_log)) >= 3, description="three starts")
        client.config_set("maxmemory", 1)
        full = time.monotonic()

        with pytest.raises(ServerFull, match="is at its memory limit and refused the call whole"):
            tasks.nap.submit(0.0, "one")
        with pytest.raises(ServerFull) as caught:
            tasks.nap.submit_many([call(0.0, "many") for _ in range(300)])
        with pytest.raises(ServerFull):
            tasks.nap.options(delay=60).submit(0.0, "scheduled")

        assert caught.value.accepted == ()
        assert client.zcard("qw:{default.default}:later") <= 1
        assert client.llen(READY) <= 23, "nothing of what was refused is in the queue"
        assert cancelled.cancel() is True
        assert [future.result(timeout=20) for future in queued] == list(range(20))
        assert retried.result(timeout=10) == "second"
        assert lost.result(timeout=10) == "lived"
        assert later.result(timeout=10) == "later"
        wait_until(
            lambda: time.monotonic() > full + LEASE_S + 1, description="the lease to have been renewed or lapsed"
        )
        assert stopped.stop(wait=3).how == "noticed"
        assert set(starts(execution_log)) == {f.id for f in [stopped, *queued, retried, lost, later]}
        assert {run.attempt for run in runs(execution_log) if run.id not in (retried.id, lost.id)} == {1}
        assert not worker.events("claim.lost")
        assert not worker.events("lease.uncertain")

        later_worker = start("-c", "1", target=PROMISES, server_url=own.url)
        assert later_worker.wait_event("redis.full")["limit"] == 1

        client.config_set("maxmemory", 0)
        assert tasks.echo.submit("room again").result(timeout=10) == "room again"


# A frozen server


def test_a_server_frozen_for_longer_than_the_lease_makes_nothing_run_twice_and_nothing_start_meanwhile(
    start, own, execution_log
) -> None:
    with bound(own.url) as tasks:
        # Windows that the free slots cannot empty in a lease: something is there that could start.
        workers = [start("-c", "2", "--window", "24", target=PROMISES, server_url=own.url, env=LEASE) for _ in range(2)]
        long = [tasks.nap.submit(7.0, "long") for _ in range(2)]
        wait_until(lambda: len(runs(execution_log)) == 2, description="the long ones to start")
        short = tasks.nap.submit_many([call(0.3, n) for n in range(60)])
        wait_until(lambda: len(runs(execution_log)) >= 6, description="some short ones to start")

        own.freeze()
        frozen = time.monotonic()
        for worker in workers:
            worker.wait_event("lease.uncertain", timeout=LEASE_S + 3)
        wait_until(lambda: time.monotonic() > frozen + 2.2 * LEASE_S, description="twice the lease to pass")
        own.thaw()
        thawed = time.monotonic()

        assert [future.result(timeout=30) for future in short] == list(range(60))
        assert [future.result(timeout=30) for future in long] == ["long", "long"]
        assert set(starts(execution_log).values()) == {1}
        meanwhile = [run for run in runs(execution_log) if frozen + LEASE_S < run.start < thawed]
        assert meanwhile == [], "a start under a lease that may have lapsed"
        for worker in workers:
            assert not worker.events("claim.lost")
            worker.wait_event("lease.certain")


# A forgetful server


def test_scripts_forgotten_and_connections_killed_in_traffic_lose_and_double_nothing(start, own, execution_log) -> None:
    halt = threading.Event()
    rounds = [0]

    def harass() -> None:
        with redis.Redis.from_url(own.url) as client:
            while not halt.wait(0.04):
                client.script_flush()
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub")
                rounds[0] += 1

    with bound(own.url) as tasks:
        workers = [start("-c", "2", target=PROMISES, server_url=own.url, env=LEASE) for _ in range(2)]
        thread = threading.Thread(target=harass)
        thread.start()
        try:
            futures = []
            for part in range(12):
                futures += tasks.nap.submit_many([call(0.002, (part, n)) for n in range(100)])
                futures.append(tasks.nap.submit(0.0, (part, 100)))
            _, pending = concurrent.futures.wait(futures, timeout=40)
        finally:
            halt.set()
            thread.join()

        assert not pending
        assert [future.result() for future in futures] == [(part, n) for part in range(12) for n in range(101)]
        assert starts(execution_log) == {future.id: 1 for future in futures}
        assert rounds[0] >= 10
        assert all(worker.process.poll() is None for worker in workers)


def test_a_server_that_comes_back_empty_is_told_lost_tasks_are_told_and_serving_goes_on(
    start, new_server, execution_log
) -> None:
    own = new_server(durable=False)
    with bound(own.url) as tasks:
        worker = start("-c", "1", target=PROMISES, server_url=own.url, env=LEASE)
        ended = tasks.nap.submit(0.0, "kept by its producer")
        assert ended.result(timeout=10) == "kept by its producer"
        running = tasks.nap.submit(30.0)
        queued = tasks.nap.submit(0.0)
        wait_until(lambda: len(runs(execution_log)) == 2, description="the start of the long one")
        stranger = tasks.app.future(f"default:{queued.id.partition(':')[2]}")

        own.kill()
        own.start()

        worker.wait_event("redis.state_lost", queue="default")
        for future in (running, queued):
            with pytest.raises(ResultExpired, match="the server lost its data"):
                future.result(timeout=10)
        with pytest.raises(TaskNotFound, match="is not known on this server"):
            stranger.result(timeout=10)
        worker.wait_event("claim.lost", first=running.id)
        assert tasks.nap.submit(0.0, "after").result(timeout=10) == "after", "its one slot is free again"
        assert ended.result() == "kept by its producer"
        assert queued.id not in starts(execution_log)


def test_what_ends_while_its_server_comes_back_empty_has_no_outcome_there_and_its_worker_says_so(
    start, new_server, execution_log, tmp_path
) -> None:
    own = new_server(durable=False)
    gate = tmp_path / "gate"
    with bound(own.url) as tasks, redis.Redis.from_url(own.url) as client:
        worker = start("-c", "1", target=PROMISES, server_url=own.url, env=LEASE)
        future = tasks.until_let_go.submit(str(gate))
        (run,) = wait_until(lambda: runs(execution_log), description="its start")

        own.kill()
        Path(f"{gate}-{run.pid}").touch()
        wait_until(lambda: runs(execution_log)[0].end, description="its end")
        own.start()

        worker.wait_event("outcome.refused", task=future.id)
        worker.wait_event("redis.state_lost", queue="default")
        with pytest.raises(ResultExpired, match="the server lost its data"):
            future.result(timeout=10)
        assert tasks.echo.submit("after").result(timeout=10) == "after"
        phantoms = [key for key in client.scan_iter("*:result:*") if future.id.partition(":")[2].encode() in key]
        assert phantoms == []
        assert client.hget("qw:{default.default}:stats", "succeeded") == b"1", "only what came after"
        assert starts(execution_log) == {future.id: 1}
        assert not worker.events("task.ended", task=future.id)


# A connection that breaks in the middle of a command


@pytest.mark.parametrize("script", ["claim", "settle", "renew"])
def test_a_worker_whose_answers_are_lost_starts_and_ends_each_task_once(
    start, own, proxy, execution_log, script
) -> None:
    with bound(own.url) as tasks:
        worker = start("-c", "2", "--window", "8", target=PROMISES, server_url=proxy.url, env=LEASE)
        proxy.cut_answers(5, after=evalsha(script))

        futures = tasks.nap.submit_many([call(0.3, n) for n in range(24)])

        assert [future.result(timeout=20) for future in futures] == list(range(24))
        assert starts(execution_log) == {future.id: 1 for future in futures}
        assert proxy.commands > 5, "the cuts were made, and the call was sent again"
        assert not worker.events("outcome.refused")
        assert not worker.events("claim.lost")
        with redis.Redis.from_url(own.url) as client:
            wait_until(lambda: not client.exists("qw:{default.default}:held"), description="every claim to be closed")
            assert client.hget("qw:{default.default}:stats", "succeeded") == b"24", "each counted once"


@pytest.mark.parametrize("when", ["before it ran", "after it ran"])
def test_a_submit_without_an_answer_carries_its_ids_and_may_be_repeated_at_any_time(
    start, own, proxy, execution_log, when
) -> None:
    with bound(own.url) as direct:
        direct.echo.submit(0)
    with bound(proxy.url) as tasks:
        tasks.app.client()
        proxy.cut_answers(10_000, after=evalsha("submit"))
        with pytest.raises(SubmitUnknown, match="submit again with the same ids") as one:
            tasks.nap.options(id="given").submit(0.1, "given")
        with pytest.raises(SubmitUnknown) as many:
            tasks.nap.submit_many([call(0.0, n) for n in range(3)])
        proxy.cut_answers(0, after=b"")
        ids = [*one.value.ids, *many.value.ids]
        if when == "after it ran":
            start("-c", "2", target=PROMISES, server_url=own.url)
            wait_until(lambda: len([run for run in runs(execution_log) if run.end]) == 4, description="four ends")

        again = [tasks.nap.options(id="given").submit(0.1, "given")]
        again += [tasks.nap.options(id=full.partition(":")[2]).submit(0.0, n) for n, full in enumerate(many.value.ids)]
        if when == "before it ran":
            start("-c", "2", target=PROMISES, server_url=own.url)

        assert one.value.ids == ("default:given",)
        assert [future.id for future in again] == ids
        assert [future.result(timeout=10) for future in again] == ["given", 0, 1, 2]
        assert starts(execution_log) == dict.fromkeys(ids, 1)


DYING = """
import os
from support.apps.promises import nap
from qworker import call
futures = [nap.submit(0.0, "alone")] + nap.submit_many([call(0.0, n) for n in range(300)])
print(*(future.id for future in futures), flush=True)
os._exit(9)
"""


@pytest.mark.parametrize("served", [True, False])
def test_what_a_producer_submitted_runs_though_it_dies_as_soon_as_submit_returns(
    start, own, execution_log, served
) -> None:
    if served:
        start("-c", "2", target=PROMISES, server_url=own.url)
    environment = {**os.environ, "QWORKER_URL": own.url, "PYTHONPATH": str(TESTS)}

    done = subprocess.run([sys.executable, "-c", DYING], capture_output=True, text=True, env=environment, timeout=30)

    assert done.returncode == 9, done.stderr
    if not served:
        start("-c", "2", target=PROMISES, server_url=own.url)
    ids = done.stdout.split()
    assert len(ids) == 301
    wait_until(lambda: len(starts(execution_log)) == 301, description="all starts")
    assert starts(execution_log) == dict.fromkeys(ids, 1)


# A server that is away


def test_a_thousand_results_arrive_although_the_server_was_away_for_three_seconds(start, own, execution_log) -> None:
    with bound(own.url) as tasks:
        start("-c", "2", target=PROMISES, server_url=own.url)
        futures = tasks.nap.submit_many([call(0.002, n) for n in range(1_000)])
        wait_until(lambda: len(runs(execution_log)) >= 200, description="200 starts")
        own.kill()
        gone = time.monotonic()
        assert len(runs(execution_log)) < 1_000, "there is something left to do"
        wait_until(lambda: time.monotonic() > gone + 3, description="three seconds without a server")
        own.restart()

        _, pending = concurrent.futures.wait(futures, timeout=30)

        assert not pending
        assert [future.result() for future in futures] == list(range(1_000))
        assert starts(execution_log) == {future.id: 1 for future in futures}


def test_a_stop_is_seen_within_a_second_while_the_push_channel_is_dead(start, own, proxy, execution_log) -> None:
    with bound(own.url) as tasks, redis.Redis.from_url(own.url) as client:
        worker = start("-c", "1", target=PROMISES, server_url=proxy.url)
        channel = f"qw:default:stops:{worker.events('worker.started')[0]['worker']}"
        wait_until(lambda: client.pubsub_numsub(channel)[0][1] == 1, description="the worker to listen for stops")
        future = tasks.polite.submit(60)
        wait_until(lambda: runs(execution_log), description="its start")
        proxy.cut_answers(10_000, after=b"SUBSCRIBE")
        for link in client.client_list(_type="pubsub"):
            if link["name"].startswith("qw:stops:"):
                client.client_kill_filter(_id=link["id"])
        wait_until(lambda: proxy.commands >= 2, description="the worker to have tried to listen again, in vain")

        asked = time.monotonic()
        with pytest.raises(TaskCancelled):
            future.stop(wait=0)
            future.result(timeout=5)

        (run,) = runs(execution_log)
        assert run.asked is not None
        assert run.asked - asked < 1.2, "a renewal a second brings it"
