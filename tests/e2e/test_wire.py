"""A worker whose connections die without a word, or whose server reads nothing: it goes on, and says what it knows."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from qworker import SubmitUnknown, TaskTimedOut, call
from qworker.broker.aio import AsyncBroker
from qworker.broker.scripts import load
from qworker.model import Line
from support.brokers import QUEUE, item
from support.daemon import Worker, descendants
from support.promised import PROMISES, bound, runs, starts
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until

LEASE_S = 2.0
LEASE = {"QWORKER_LEASE": str(LEASE_S)}


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    proxy = Proxy(one_server.socket_path, tcp=True)
    yield proxy
    proxy.close()


@pytest.fixture
def serve(start: Callable[..., Worker]) -> Callable[..., Worker]:
    return lambda *args, **more: start(*args, target=PROMISES, env=LEASE, **more)


def test_a_worker_whose_connections_are_half_open_takes_new_tasks_within_seconds_and_keeps_its_own(
    serve, proxy, url, execution_log
) -> None:
    with bound(url) as tasks:
        worker = serve("-c", "2", server_url=proxy.url)
        long = tasks.nap.submit(4.0, "long")
        wait_until(lambda: runs(execution_log), description="the long one to run")
        proxy.half_open()
        asked = time.monotonic()

        assert tasks.nap.submit(0.0, "new").result(timeout=10) == "new"

        assert time.monotonic() - asked < 3.5, "the poll of a second, and an attempt or two that are given up"
        assert long.result(timeout=10) == "long"
        assert set(starts(execution_log).values()) == {1}
        assert not worker.events("claim.lost")


def test_a_stop_reaches_a_worker_whose_subscription_is_half_open_within_a_renewal_or_two(
    serve, proxy, url, execution_log
) -> None:
    with bound(url) as tasks:
        serve("-c", "1", server_url=proxy.url)
        future = tasks.polite.submit(60)
        wait_until(lambda: runs(execution_log), description="its start")
        proxy.half_open()
        asked = time.monotonic()
        future.stop(wait=0)

        (run,) = wait_until(lambda: [r for r in runs(execution_log) if r.asked], description="the task to see it")

        assert run.asked - asked < 2.0


def test_bells_that_ring_for_a_worker_whose_host_is_gone_hold_up_no_task_for_long(
    serve, proxy, url, execution_log
) -> None:
    """The server has not noticed, so its blocked connections are still rung, and the claim that it left still stands.

    Who rings in vain costs the poll of a second, and the one task that fills the claim comes back when that lapses.
    """
    with bound(url) as tasks, redis.Redis.from_url(url) as client:
        gone = serve("-c", "4", server_url=proxy.url)
        serve("-c", "1")
        wait_until(
            lambda: sum(c["cmd"].startswith("blpop") for c in client.client_list()) >= 2, description="both to listen"
        )
        proxy.keep_far_ends()
        gone.kill()
        waits = []
        for n in range(4):
            asked = time.monotonic()
            assert tasks.nap.submit(0.0, n).result(timeout=10) == n
            waits.append(time.monotonic() - asked)

        assert max(waits) < 2.0 + 2.0, waits
        assert sorted(waits)[-2] < 1.5, waits


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("delay_s", "lease_s"),
    [(0.1, 2.7), pytest.param(1.0, 20.0, marks=pytest.mark.slow)],
)
def test_a_server_that_is_slow_for_three_leases_costs_no_claim_and_no_second_start(
    start, proxy, url, execution_log, delay_s, lease_s
) -> None:
    """Each way takes that long, and a lease is ten answers long: an attempt may take a ninth of it."""
    lease = {"QWORKER_LEASE": str(lease_s)}
    with bound(url) as tasks:
        slow = start("-c", "2", target=PROMISES, server_url=proxy.url, env=lease)
        proxy.delay(delay_s)
        long = tasks.nap.submit(3 * lease_s, "long")
        wait_until(lambda: runs(execution_log), description="the long one to run")
        # One that is near the server would put back what lapsed.
        near = start("-c", "1", target=PROMISES, env=lease)
        short = tasks.nap.submit_many([call(0.1, n) for n in range(30)])

        assert [future.result(timeout=30) for future in short] == list(range(30))
        assert long.result(timeout=4 * lease_s) == "long"

        assert starts(execution_log) == {future.id: 1 for future in (long, *short)}
        (child,) = (run.pid for run in runs(execution_log) if run.id == long.id)
        assert child in slow.processes()
        assert not slow.events("claim.lost")
        assert not slow.events("lease.uncertain")
        assert not near.events("tasks.rescued")


@pytest.mark.parametrize("need", ["process", "thread"])
def test_what_runs_in_a_worker_that_is_cut_off_goes_on_and_is_told_that_its_lease_is_in_doubt(
    serve, proxy, url, execution_log, need
) -> None:
    with bound(url) as tasks:
        worker = serve("-c", "1", "--pool", need, server_url=proxy.url)
        future = tasks.tells_doubt.submit()
        wait_until(lambda: runs(execution_log), description="its start")
        proxy.hold()
        cut = time.monotonic()
        (run,) = wait_until(
            lambda: [run for run in runs(execution_log) if run.doubt], description="the task to be told of it"
        )
        # At nine tenths of the lease, which was renewed when it was cut off, or a beat or two of 0.4 s before.
        assert run.doubt - cut > LEASE_S * 0.9 - 1.2
        assert run.doubt - cut < LEASE_S + 1.2
        worker.wait_event("lease.uncertain")
        assert runs(execution_log) == [run], "it goes on, and is asked nothing"
        proxy.release()

        assert future.result(timeout=10) == "went on"
        assert starts(execution_log) == {future.id: 1}
        worker.wait_event("lease.certain")
        assert not worker.events("claim.lost")


def test_a_server_that_reads_nothing_is_given_up_in_time_and_gets_it_whole_later(proxy: Proxy) -> None:
    """Megabytes wait for a server that takes none of them: a connection that is given up lets go of them."""
    items = [item(f"t{n}", size=900_000) for n in range(8)]

    async def main() -> None:
        async with AsyncBroker(proxy.url, "t", timeout_s=1.5) as broker:
            await broker.submit(QUEUE, Line(), [item("first")], given=True)
            proxy.hold("requests")
            began = time.monotonic()
            with pytest.raises(SubmitUnknown):
                await broker.submit(QUEUE, Line(), items, given=True)
            assert time.monotonic() - began < 12
            proxy.release()

            await broker.submit(QUEUE, Line(), items, given=True)
            assert all(found.alive for found in await broker.peek(QUEUE, [each.id for each in items]))

    asyncio.run(main())


def test_a_window_of_large_tasks_comes_over_a_wire_on_which_it_takes_longer_than_an_attempt_may(
    start, proxy, url, execution_log
) -> None:
    """Four megabytes a second: the window is under way for three seconds, and an attempt may take two thirds of one."""
    with bound(url) as tasks:
        proxy.trickle(32_768, "answers", every_s=0.008)
        futures = tasks.nap.submit_many([call(0.0, f"{n}" * 900_000) for n in range(1, 10)])

        start("-c", "8", "--window", "9", target=PROMISES, env={"QWORKER_LEASE": "6"}, server_url=proxy.url)

        assert [future.result(timeout=30)[0] for future in futures] == [str(n) for n in range(1, 10)]
        assert starts(execution_log) == {future.id: 1 for future in futures}


def test_large_outcomes_wait_in_the_worker_for_a_server_that_reads_nothing_and_arrive_once(
    serve, proxy, url, execution_log
) -> None:
    with bound(url) as tasks:
        worker = serve("-c", "2", server_url=proxy.url)
        settle = proxy.on(load("settle").sha.encode(), "cut within", count=2)
        futures = [tasks.nap.submit(0.05, f"{n}" * 900_000) for n in range(1, 10)]
        wait_until(lambda: settle.seen >= 2, description="a settle or two to be cut in the middle")
        proxy.hold("requests")
        worker.wait_event("redis.unreachable")
        proxy.release()

        assert [future.result(timeout=20)[0] for future in futures] == [str(n) for n in range(1, 10)]
        assert starts(execution_log) == {future.id: 1 for future in futures}
        assert not worker.events("outcome.refused")


# What stands still below a worker


def test_a_child_that_stands_still_is_killed_when_its_task_is_out_of_time_and_others_run(
    serve, url, execution_log
) -> None:
    with bound(url) as tasks:
        worker = serve("-c", "2")
        frozen = tasks.nap.options(timeout=1.0, grace=0.3).submit(60.0)
        wait_until(lambda: runs(execution_log), description="its start")
        os.kill(runs(execution_log)[0].pid, signal.SIGSTOP)

        with pytest.raises(TaskTimedOut):
            frozen.result(timeout=10)

        both = [tasks.nap.submit(0.5, n) for n in range(2)]
        assert [future.result(timeout=10) for future in both] == [0, 1]
        assert worker.wait_event("task.ended", task=frozen.id)["how"] == "killed"


def test_a_fork_server_that_stands_still_holds_up_new_children_and_nothing_else(serve, url, execution_log) -> None:
    with bound(url) as tasks:
        worker = serve("-c", "2")
        fork_server = descendants(worker.pid)[0]
        victim = tasks.nap.options(timeout=0.5, grace=0.1).submit(60.0)
        wait_until(lambda: runs(execution_log), description="its start")
        os.kill(fork_server, signal.SIGSTOP)
        try:
            with pytest.raises(TaskTimedOut):
                victim.result(timeout=10)
            assert [tasks.nap.submit(0.0, n).result(timeout=10) for n in range(5)] == list(range(5))
        finally:
            os.kill(fork_server, signal.SIGCONT)

        both = [tasks.nap.submit(20.0, n) for n in range(2)]
        wait_until(lambda: {f.id for f in both} <= set(starts(execution_log)), description="both slots to serve again")
        for future in both:
            future.stop(wait=0, grace=0)
        assert not worker.events("forkserver.died")
        assert set(starts(execution_log).values()) == {1}
