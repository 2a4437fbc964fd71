"""The producer against a real server: what is queued, what comes back and how, what it says meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from qworker import (
    App,
    BadCall,
    Conflict,
    Future,
    ResultExpired,
    TaskCancelled,
    TaskExpired,
    TaskNotFound,
    TaskTimedOut,
    WaitTimeout,
    call,
    unserved,
)
from qworker.lifecycle import How, State
from qworker.task import Task
from support.fake_worker import FakeWorker
from support.servers import Server
from support.waiting import wait_until


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url) as app:
        yield app


@pytest.fixture
def other(url: str) -> Iterator[App]:
    """Another producer's app, on the same server."""
    with App(url) as app:
        yield app


@pytest.fixture
def worker(url: str) -> Iterator[FakeWorker]:
    worker = FakeWorker(url)
    yield worker
    worker.close()


@pytest.fixture
def add(app: App) -> Task[..., int]:
    return app.task(add_up, name="tasks.add")  # type: ignore[call-overload, no-any-return]


def add_up(x: int, y: int = 1) -> int:
    return x + y


@pytest.fixture
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the questions that are asked every two seconds, which would find what the test is about by other ways."""
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)


def arrives(*futures: Any) -> bool:
    """Wait for outcomes as `concurrent.futures.wait` does: unlike `result`, it asks nothing when its time is up."""
    return not concurrent.futures.wait(futures, timeout=10).not_done


# There and back


def test_a_task_is_queued_when_submit_returns(add: Any, worker: FakeWorker) -> None:
    future = add.options(timeout=3, retries=2).submit(4, y=5)

    [task] = worker.claim()

    assert task.id == future.id
    assert (task.args, task.kwargs) == ((4,), {"y": 5})
    assert (task.header.name, task.header.timeout_ms, task.header.retries) == ("tasks.add", 3000, 2)


def test_values_and_exceptions_are_pushed_back(add: Any, worker: FakeWorker) -> None:
    with worker.serving(lambda x, y: {"sum": x + y, "when": datetime(2026, 1, 1, tzinfo=UTC)} if y else 1 / y):
        assert add.submit(4, 5).result(timeout=10) == {"sum": 9, "when": datetime(2026, 1, 1, tzinfo=UTC)}
        with pytest.raises(ZeroDivisionError):
            add.submit(4, 0).result(timeout=10)


@pytest.mark.usefixtures("no_rounds")
def test_a_value_that_is_too_large_to_be_pushed_is_fetched(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)

    worker.succeed(worker.claim_one(), "x" * 500_000)

    assert arrives(future)
    assert len(future.result()) == 500_000


def test_a_result_ttl_of_zero_keeps_no_value(add: Any, worker: FakeWorker) -> None:
    with worker.serving(add_up), pytest.raises(ResultExpired, match="result_ttl=0"):
        add.options(result_ttl=0).submit(1).result(timeout=10)


def test_the_inbox_is_listened_on_before_the_first_task_is_queued(app: App, add: Any, one_server: Server) -> None:
    future = add.submit(1)

    with redis.Redis.from_url(one_server.url) as client:
        channels = client.pubsub_channels()

    assert channels == [f"qw:default:inbox:{app.client().id}".encode()]
    assert future.id.startswith("default:")


def test_many_are_submitted_in_few_round_trips_and_all_come_back(
    add: Any, worker: FakeWorker, one_server: Server
) -> None:
    with redis.Redis.from_url(one_server.url) as client:
        client.config_resetstat()
        futures = add.submit_many(call(n) for n in range(3_000))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]

    with worker.serving(add_up):
        _, pending = concurrent.futures.wait(futures, timeout=30)

    assert calls < 20
    assert not pending
    assert [future.result() for future in futures] == [n + 1 for n in range(3_000)]


def test_calls_of_several_tasks_queues_and_ids_go_together(app: App, add: Any, url: str) -> None:
    calls = [
        add.call(1),
        add.options(queue="mail").call(2),
        add.options(id="mine").call(3),
        add.options(priority="high").call(4),
    ]

    futures = app.submit_many(calls)

    workers = [FakeWorker(url), FakeWorker(url, queue="mail")]
    claimed = {task.id: task.args for worker in workers for task in worker.claim(10)}
    assert claimed == {future.id: (n,) for n, future in enumerate(futures, 1)}
    assert futures[2].id == "default:mine"
    for worker in workers:
        worker.close()


def test_a_task_may_be_submitted_by_name_by_function_or_itself(app: App, add: Any, worker: FakeWorker) -> None:
    app.submit("tasks.add", 1)
    app.submit(add_up, 2)
    app.submit(add, 3)
    app.submit("unknown.here", 4)

    names = [task.header.name for task in worker.claim(10)]

    assert names == ["tasks.add"] * 3 + ["unknown.here"]


def test_namespaces_do_not_see_each_other(url: str, worker: FakeWorker) -> None:
    with App(url, namespace="elsewhere") as app:
        app.submit("tasks.add", 1)

    assert worker.claim(10) == []


# What it is doing meanwhile


def test_a_patient_waiter_is_told_once_that_nobody_serves_the_task(
    add: Any, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unserved, "AFTER_S", 0.05)
    monkeypatch.setattr(unserved, "_said", set())
    first, second = add.submit(1, 2), add.submit(3, 4)

    for future in (first, second):
        with pytest.raises(WaitTimeout):
            future.result(timeout=0.1)

    said = [record.getMessage() for record in caplog.records if record.name == "qworker"]
    assert said == [
        (
            f"{first.shown} has been waited for 50 ms: queued, next in its line; "
            "no worker serves queue 'default' on this server"
        )
    ]
    with worker.serving(lambda x, y: x + y):
        assert [first.result(timeout=10), second.result()] == [3, 7], "and the wait goes on"


def test_a_waiter_for_a_task_that_runs_is_told_nothing_and_who_waits_for_one_that_nobody_serves_is(
    add: Any, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unserved, "AFTER_S", 0.05)
    monkeypatch.setattr(unserved, "_said", set())
    runs, waits = add.submit(1, 2), add.submit(3, 4)
    worker.start(worker.claim_one())

    def said_to_a_waiter_for(future: Future[int]) -> list[str]:
        caplog.clear()
        with pytest.raises(WaitTimeout):
            future.result(timeout=0.1)
        return [record.getMessage() for record in caplog.records if record.name == "qworker"]

    assert runs.status().workers is None
    assert said_to_a_waiter_for(runs) == []
    assert waits.status().workers == 0
    [warning] = said_to_a_waiter_for(waits)
    assert "no worker serves queue 'default' on this server" in warning


def test_an_impatient_waiter_is_told_what_the_task_is_doing(add: Any, worker: FakeWorker) -> None:
    futures = add.options(retries=3).submit_many([call(n) for n in range(4)])

    def told() -> str:
        with pytest.raises(WaitTimeout) as caught:
            futures[3].result(timeout=0)
        return str(caught.value).partition(": ")[2].removeprefix("1 ")

    assert told().endswith("queued, about 3 before it; no worker serves queue 'default' on this server")
    worker.beat()
    assert told().endswith("queued, about 3 before it")
    tasks = worker.claim(4)
    assert told().endswith("handed to box-2 and perhaps running, attempt 1 of 4")
    worker.start(tasks[3], ran_ms=4_200)
    assert "running on box-2 for 4." in told()
    worker.succeed(tasks[3], 7)
    assert futures[3].result(timeout=0) == 7


def test_a_scheduled_task_says_when_it_is_due(add: Any) -> None:
    status = add.options(delay=60).submit(1).status()

    assert status.state == "scheduled"
    assert 55 < status.due_in <= 60


def test_running_tells_whether_a_worker_holds_it(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)
    assert not future.running()
    worker.claim_one()
    assert future.running()


def test_unknown_ids_are_not_found_at_once(app: App) -> None:
    with pytest.raises(TaskNotFound, match="task default:never is not known on this server"):
        app.future("default:never").result(timeout=10)
    assert str(app.future("default:never").status()) == "no task of this id is known"


# Ids and handles


def test_the_same_id_and_content_is_the_same_task(add: Any, worker: FakeWorker) -> None:
    first, second = (add.options(id="a").submit(1) for _ in range(2))

    worker.succeed(worker.claim_one(), 5)

    assert (first.result(timeout=10), second.result(timeout=10)) == (5, 5)
    assert worker.claim(10) == []
    assert add.options(id="a").submit(1).result(timeout=10) == 5


def test_the_same_id_with_other_content_is_a_conflict(add: Any, worker: FakeWorker) -> None:
    add.options(id="a").submit(1)

    with pytest.raises(Conflict, match="default:a"):
        add.options(id="a").submit(2)
    with pytest.raises(Conflict):
        add.options(id="a", timeout=7).submit(1)

    assert [task.args for task in worker.claim(10)] == [(1,)]


def test_a_conflict_half_way_tells_what_is_queued(app: App, add: Any) -> None:
    add.options(id="z").submit(1)

    with pytest.raises(Conflict) as caught:
        app.submit_many([add.call(1), add.call(2), add.options(id="z").call(3)])

    assert len(caught.value.accepted) == 2
    assert all(future.status().state == "queued" for future in caught.value.accepted)


@pytest.mark.usefixtures("no_rounds")
def test_a_task_of_another_producer_can_be_awaited_by_its_id(add: Any, other: App, worker: FakeWorker) -> None:
    """Its outcome is pushed to the one that submitted it, so this one has to ask."""
    handle = other.future(add.submit(1).id)
    other.client()
    waiting = threading.Thread(target=concurrent.futures.wait, args=([handle], 10))
    waiting.start()

    worker.succeed(worker.claim_one(), 5)

    waiting.join()
    assert handle.done()
    assert handle.result() == 5


@pytest.mark.usefixtures("no_rounds")
def test_a_task_that_another_producer_submitted_first_can_be_awaited(add: Any, other: App, worker: FakeWorker) -> None:
    add.options(id="a").submit(1)
    twin = other.task(add_up, name="tasks.add").options(id="a").submit(1)  # type: ignore[call-overload]

    worker.succeed(worker.claim_one(), 5)

    assert arrives(twin)
    assert twin.result() == 5


# Cancel and stop


def test_a_cancelled_task_never_starts(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)

    assert future.cancel()

    assert future.cancelled()
    assert worker.claim(10) == []
    with pytest.raises(TaskCancelled, match=r"\(tasks\.add\) was cancelled before it was started"):
        future.result(timeout=0)


def test_a_claimed_task_is_not_cancelled(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)
    task = worker.claim_one()

    assert not future.cancel()
    assert worker.stops(task) == ()
    worker.succeed(task, 2)
    assert future.result(timeout=10) == 2
    assert not future.cancel()


def test_a_stop_reaches_the_worker_and_its_answer_the_receipt(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)
    task = worker.claim_one()

    def obey() -> None:
        stops = wait_until(lambda: worker.stops(task), description="the stop")
        assert stops[0][2].grace_ms == 500
        worker.end(task, State.CANCELLED, How.KILLED, took_s=0.5)

    thread = threading.Thread(target=obey)
    thread.start()
    receipt = future.stop(wait=10, grace=0.5)
    thread.join()

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "killed", False)
    assert receipt.note == "its process was killed"
    assert not future.cancel()


def test_a_stop_that_is_not_obeyed_in_time_says_so(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)
    task = worker.claim_one()
    worker.start(task, ran_ms=3_000)

    receipt = future.stop(wait=0.05)

    assert (receipt.outcome, receipt.state, receipt.still_running) == (None, "running", True)
    assert receipt.note.startswith("running on box-2 for 3.")
    assert receipt.note.endswith("asked to stop")


def test_a_stop_of_what_its_dead_worker_held_says_that_nobody_can_tell(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)
    task = worker.claim(lease_ms=100)[0]
    worker.start(task, ran_ms=1_000, lease_ms=100)
    wait_until(lambda: future.status().lease_left < 0, description="the lease to lapse")

    receipt = future.stop(wait=0)

    assert (receipt.outcome, receipt.still_running) == (None, None)
    assert receipt.note.startswith("box-2 cannot be reached")


def test_stops_of_queued_finished_and_unknown_tasks(app: App, add: Any, worker: FakeWorker) -> None:
    queued, finished = add.submit(1), add.options(priority="high").submit(2)
    worker.succeed(worker.claim_one(), 3)

    receipts = [future.stop() for future in (queued, finished, app.future("default:never"))]

    assert [(one.outcome, one.how, one.still_running) for one in receipts] == [
        ("cancelled", "never_started", False),
        ("succeeded", "returned", False),
        (None, None, None),
    ]


# Nothing is lost, nothing is leaked


def test_a_lost_push_is_made_up_for_by_asking(add: Any, worker: FakeWorker) -> None:
    future = add.submit(1)

    worker.settle_silently(worker.claim_one(), 9)

    assert arrives(future)
    assert future.result() == 9


def test_an_outcome_that_is_gone_before_it_was_heard_of_is_expired(add: Any, worker: FakeWorker, url: str) -> None:
    future = add.submit(1)
    worker.settle_silently(worker.claim_one(), 9)
    with redis.Redis.from_url(url) as client:
        client.delete(f"qw:{{default.default}}:result:{future.id.partition(':')[2]}")

    with pytest.raises(ResultExpired, match="was queued, and the server knows nothing of it any more"):
        future.result(timeout=10)


def test_a_task_that_nobody_serves_expires_at_its_deadline(add: Any) -> None:
    future = add.options(deadline=0.2).submit(1)

    assert arrives(future)
    with pytest.raises(TaskExpired, match="was not started before its deadline"):
        future.result(timeout=10)


def test_a_handle_of_a_task_past_its_deadline_finds_it_expired(add: Any, other: App) -> None:
    handle = other.future(add.options(deadline=0.05).submit(1).id)

    wait_until(lambda: handle.status().state == "expired", description="its deadline")


def test_futures_that_nobody_holds_leave_nothing_behind(app: App, add: Any, worker: FakeWorker) -> None:
    for n in range(300):
        add.submit(n)
    add.submit_many(call(n) for n in range(300))
    gc.collect()

    assert len(app.client().registry) == 0


def test_a_callback_is_called_although_nobody_holds_the_future(app: App, add: Any, worker: FakeWorker) -> None:
    seen: list[int] = []
    add.submit(1).add_done_callback(lambda future: seen.append(future.result()))
    gc.collect()

    with worker.serving(add_up):
        wait_until(lambda: seen == [2], description="the callback")

    wait_until(lambda: len(app.client().registry) == 0, description="the future to be forgotten")


def test_a_callback_may_submit_and_wait(add: Any, worker: FakeWorker) -> None:
    seen: list[int] = []

    with worker.serving(add_up):
        add.submit(1).add_done_callback(lambda future: seen.append(add.submit(future.result()).result(timeout=10)))
        wait_until(lambda: seen == [3], description="the second task's value")


def test_tens_of_thousands_are_awaited_by_one_listener(app: App, add: Any, worker: FakeWorker) -> None:
    futures = add.submit_many(call(n) for n in range(20_000))
    threads = threading.active_count()

    with worker.serving(add_up):
        values = [future.result() for future in concurrent.futures.as_completed(futures, timeout=50)]

    assert sorted(values) == list(range(1, 20_001))
    assert threads <= 4
    assert len(app.client().registry) == 0


# asyncio


def test_coroutines_submit_and_await_together(app: App, add: Any, worker: FakeWorker, url: str) -> None:
    async def one(n: int) -> int:
        future = await add.asubmit(n)
        return await future  # type: ignore[no-any-return]

    async def main() -> list[int]:
        return await asyncio.gather(*(one(n) for n in range(500)))

    with redis.Redis.from_url(url) as client:
        add.submit(0).cancel()  # its connection is there
        client.config_resetstat()
        futures = asyncio.run(submit_while_paused(add, 500, client))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        for future in futures:
            future.cancel()

    assert calls < 10
    with worker.serving(add_up):
        assert asyncio.run(main()) == [n + 1 for n in range(500)]


async def submit_while_paused(task: Any, count: int, client: redis.Redis) -> list[Any]:
    """Submit so many on a server that answers none before all have begun: a busy machine is no different."""
    client.client_pause(60_000, all=False)
    submits = asyncio.gather(*(task.asubmit(n) for n in range(count)))
    await asyncio.sleep(0)  # each of them has begun
    client.client_unpause()
    return await submits


def test_what_is_refused_at_asubmit_is_refused_to_its_coroutine_only(add: Any) -> None:
    async def main() -> list[Any]:
        same = add.options(id="a")
        await same.asubmit(1)
        return await asyncio.gather(
            same.asubmit(2), add.asubmit(1), same.asubmit(1), add.asubmit(), return_exceptions=True
        )

    conflict, good, again, bad = asyncio.run(main())

    assert isinstance(conflict, Conflict)
    assert good.status().state == "queued"
    assert again.id == "default:a"
    assert isinstance(bad, BadCall)


def test_await_of_a_timed_out_task_raises_what_result_raises(add: Any, worker: FakeWorker) -> None:
    async def main() -> None:
        future = await add.asubmit(1)
        task = await asyncio.to_thread(worker.claim_one)
        worker.end(task, State.TIMED_OUT, How.KILLED, ran_s=2.0, reason="timeout 1.0 s")
        with pytest.raises(TaskTimedOut, match=r"on box-2 after 2\.0 s \(timeout 1\.0 s\): its process was killed"):
            await asyncio.wait_for(wait(future), 10)

    asyncio.run(main())


async def wait(future: Any) -> Any:
    return await future
