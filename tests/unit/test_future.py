"""The future as the standard library, asyncio and a patient or impatient waiter see it. No server: a fake channel."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from qworker import (
    BrokerUnavailable,
    Progress,
    ResultExpired,
    Retry,
    TaskCancelled,
    TaskCrashed,
    TaskExpired,
    TaskFailed,
    TaskInterrupt,
    TaskNotFound,
    TaskTimedOut,
    WaitTimeout,
    codec,
)
from qworker.broker.values import StopAnswer
from qworker.future import Future
from qworker.lifecycle import How, State
from qworker.model import Outcome, Record, Told
from qworker.views import Inspection
from support.outcomes import ID, FakeChannel, ended, failed, succeeded
from support.waiting import wait_until


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel(inspection=Inspection(ID, State.QUEUED, Record(), before=120, workers=1))


@pytest.fixture
def future(channel: FakeChannel) -> Future[Any]:
    return Future(ID, name="tasks.f", link=channel)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_result_returns_the_value_as_soon_as_it_is_there(future: Future[Any]) -> None:
    thread = in_thread(lambda: future.settle(succeeded({"a": (1, 2)})))

    assert future.result(timeout=5) == {"a": (1, 2)}
    thread.join()
    assert future.done()
    assert not future.cancelled()
    assert future.exception() is None
    assert future.result() is future.result()


def test_a_value_is_decoded_only_when_somebody_asks(future: Future[Any]) -> None:
    future.settle(Outcome(ID, State.SUCCEEDED, How.RETURNED, value=b"\xc1"))

    assert future.done()
    with pytest.raises(ValueError, match="cannot decode"):
        future.result()


def test_an_exception_is_raised_as_itself_and_is_always_the_same(future: Future[Any]) -> None:
    future.settle(failed(KeyError("k")))

    with pytest.raises(KeyError, match="k"):
        future.result()
    assert isinstance(future.exception(), KeyError)
    assert future.exception() is future.exception()


def test_a_class_that_is_not_known_here_is_a_task_failed(future: Future[Any]) -> None:
    local = type("Strange", (Exception,), {"__module__": "nowhere.known"})
    future.settle(failed(local("boom")))

    with pytest.raises(TaskFailed, match="boom") as caught:
        future.result()
    assert caught.value.kind == "nowhere.known.Strange"


@pytest.mark.parametrize(
    ("outcome", "error", "text"),
    [
        (
            ended(State.TIMED_OUT, How.KILLED, worker="box-2:1:ab", ran_s=2.0, took_s=1.0, reason="t 1.0 s"),
            TaskTimedOut,
            (
                "task default:t1 (tasks.f) ran out of its time on box-2 after 2.0 s (t 1.0 s): its process was killed, "
                "1.0 s after it was asked"
            ),
        ),
        (
            ended(State.TIMED_OUT, How.LEFT_RUNNING, worker="box-2:1:ab", ran_s=2.0, still_running=True),
            TaskTimedOut,
            (
                "task default:t1 (tasks.f) ran out of its time on box-2 after 2.0 s: it did not end when asked to,"
                " and its code was still running then; see qworker dessert"
            ),
        ),
        (ended(State.CANCELLED), TaskCancelled, "task default:t1 (tasks.f) was cancelled before it was started"),
        (
            ended(State.CRASHED, How.HOST_DIED, worker="box-2:1:ab", reason="killed by signal 9, 3 times"),
            TaskCrashed,
            "task default:t1 (tasks.f) crashed on box-2 (killed by signal 9, 3 times): the process that ran it died",
        ),
        (
            ended(State.EXPIRED),
            TaskExpired,
            "task default:t1 (tasks.f) was not started before its deadline",
        ),
        (
            Outcome(ID, State.SUCCEEDED, How.RETURNED, tombstone=True),
            ResultExpired,
            "task default:t1 (tasks.f) succeeded, but its value was not kept (result_ttl=0)",
        ),
        (
            Outcome(ID, State.FAILED, How.RAISED, tombstone=True),
            ResultExpired,
            "task default:t1 (tasks.f) failed, but its exception was not kept (result_ttl=0)",
        ),
        (
            Outcome(ID, State.FAILED, How.NEVER_STARTED, reason="its header cannot be read"),
            TaskFailed,
            "task default:t1 (tasks.f) failed: its header cannot be read",
        ),
    ],
)
def test_every_other_end_says_how_it_came(
    future: Future[Any], outcome: Outcome, error: type[Exception], text: str
) -> None:
    future.settle(outcome)

    with pytest.raises(error) as caught:
        future.result()

    assert str(caught.value) == text
    assert caught.value.id == ID  # type: ignore[attr-defined]
    assert not isinstance(caught.value, TimeoutError)


def test_a_timeout_has_what_the_task_raised_then_as_its_cause(future: Future[Any]) -> None:
    noticed = failed(ValueError("late"))
    future.settle(ended(State.TIMED_OUT, How.NOTICED, error=noticed.error))

    with pytest.raises(TaskTimedOut) as caught:
        future.result()

    assert isinstance(caught.value.__cause__, ValueError)


def test_only_the_first_outcome_counts(future: Future[Any]) -> None:
    future.settle(succeeded(1))
    future.settle(succeeded(2))
    future.settle(ended(State.CANCELLED))
    future.give_up(submitted_here=True)

    assert future.result() == 1


@pytest.mark.parametrize(("here", "error"), [(True, ResultExpired), (False, TaskNotFound)])
def test_an_id_without_task_or_outcome_says_so_at_once(future: Future[Any], here: bool, error: type[Exception]) -> None:
    future.give_up(submitted_here=here)

    with pytest.raises(error, match=r"task default:t1 \(tasks\.f\)"):
        future.result(timeout=5)
    assert future.done()
    assert future.outcome is None
    assert not future.cancel()
    assert "missing" in repr(future)


@pytest.mark.parametrize(
    ("attempt", "reason", "why"),
    [
        (1, "", "it may not be run again: retries=0, or delivery is at_most_once"),
        (3, "", "its retries are used: this was attempt 3"),
        (1, "no time left for a retry", "no time left for a retry"),
    ],
)
@pytest.mark.parametrize("said", ["", "the shop is closed"])
def test_a_retry_that_came_to_nothing_says_so(
    future: Future[Any], attempt: int, reason: str, why: str, said: str
) -> None:
    asked = Retry(said, delay=1) if said else Retry(delay=1)
    future.settle(failed(asked, attempt=attempt, reason=reason))

    with pytest.raises(Retry) as caught:
        future.result()

    assert str(caught.value) == f"{said or 'asked for a retry'}, but {why}"
    assert caught.value.delay == 1
    assert "Retry" in str(caught.value.__cause__)


# Waiting


@pytest.mark.parametrize("wait", ["result", "exception", "wait"])
def test_a_timeout_that_is_no_number_is_refused_by_its_name(future: Future[Any], wait: str) -> None:
    with pytest.raises(TypeError, match=r"^timeout='0\.1s': expected a number of seconds, or None"):
        getattr(future, wait)(timeout="0.1s")


def test_a_wait_that_is_too_short_says_what_the_task_is_doing(future: Future[Any], channel: FakeChannel) -> None:
    with pytest.raises(WaitTimeout) as caught:
        future.result(timeout=0.01)

    assert str(caught.value).endswith("queued, about 120 before it")
    assert str(caught.value).startswith("task default:t1 (tasks.f) has not ended within ")
    assert (caught.value.state, caught.value.worker, caught.value.ran_for) == ("queued", None, None)
    assert isinstance(caught.value, TimeoutError)
    assert channel.watched == [future]
    with pytest.raises(WaitTimeout):
        future.exception(timeout=0)


def test_a_wait_that_is_too_short_brings_the_outcome_if_only_the_push_was_lost(
    future: Future[Any], channel: FakeChannel
) -> None:
    from qworker import codec

    channel.inspection = Inspection(ID, None, outcome=codec.pack_outcome(succeeded(5)))

    assert future.result(timeout=0) == 5


def test_a_wait_that_is_too_short_is_a_wait_timeout_also_when_the_server_is_gone(
    future: Future[Any], channel: FakeChannel
) -> None:
    channel.inspection = None

    with pytest.raises(WaitTimeout, match="what it is doing is not known, because the server is gone"):
        future.result(timeout=0)


def test_who_waits_when_the_app_is_closed_is_told(future: Future[Any], channel: FakeChannel) -> None:
    def close() -> None:
        wait_until(lambda: channel.watched, description="the wait")
        channel.closed = True
        future.wake_waiters()

    thread = in_thread(close)

    with pytest.raises(RuntimeError, match=r"the app was closed while task default:t1 \(tasks\.f\) was awaited"):
        future.result(timeout=10)
    thread.join()


def test_a_future_without_an_app_says_so() -> None:
    with pytest.raises(RuntimeError, match="has no app"):
        Future[int](ID).result(timeout=0)


# As the standard library has it


def test_wait_and_as_completed_take_it(channel: FakeChannel) -> None:
    futures = [Future[Any](f"default:{n}", link=channel) for n in range(3)]
    futures[1].settle(succeeded(1))

    done, pending = concurrent.futures.wait(futures, timeout=0)
    assert (done, pending) == ({futures[1]}, {futures[0], futures[2]})

    thread = in_thread(lambda: [future.settle(failed(OSError())) for future in (futures[2], futures[0])])
    assert set(concurrent.futures.as_completed(futures, timeout=5)) == set(futures)
    thread.join()


def test_a_handle_that_nobody_watched_is_watched_once_wait_or_as_completed_takes_it(channel: FakeChannel) -> None:
    futures = [Future[Any](f"default:{n}", link=channel) for n in range(2)]
    for future in futures:
        future.watch_when_awaited()

    concurrent.futures.wait(futures[:1], timeout=0)
    with pytest.raises(TimeoutError):
        next(iter(concurrent.futures.as_completed(futures[1:], timeout=0.001)))

    assert channel.watched == futures


@pytest.mark.parametrize("bad", [failed(OSError()), ended(State.TIMED_OUT)])
def test_wait_for_the_first_exception_returns_on_a_task_that_ended_badly(channel: FakeChannel, bad: Outcome) -> None:
    futures = [Future[Any](f"default:{n}", link=channel) for n in range(3)]
    thread = in_thread(lambda: (futures[0].settle(succeeded()), futures[1].settle(bad)))

    done, pending = concurrent.futures.wait(futures, timeout=5, return_when=concurrent.futures.FIRST_EXCEPTION)

    thread.join()
    assert futures[1] in done
    assert pending == {futures[2]}


def test_a_cancelled_task_is_cancelled_in_the_standard_librarys_sense(future: Future[Any]) -> None:
    waiter = in_thread(lambda: concurrent.futures.wait([future], timeout=5))
    future.settle(ended(State.CANCELLED))

    waiter.join(5)
    assert not waiter.is_alive()
    assert future.cancelled()
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    with pytest.raises(TaskCancelled):
        future.exception()


def test_cancel_is_true_only_for_what_will_never_run(future: Future[Any], channel: FakeChannel) -> None:
    from qworker import codec

    channel.answers = [
        StopAnswer("t1", "held", "claim", "box-2:1:ab"),
        StopAnswer("t1", "unknown"),
        StopAnswer("t1", "cancelled", outcome=codec.pack_outcome(ended(State.CANCELLED))),
    ]

    assert [future.cancel(), future.cancel()] == [False, False]
    assert not future.done()
    assert future.cancel()
    assert future.cancelled()
    assert future.cancel()
    assert channel.asked == [(True, None)] * 3


def test_cancel_of_what_was_stopped_while_it_ran_is_false(future: Future[Any]) -> None:
    future.settle(ended(State.CANCELLED, How.KILLED))

    assert future.cancelled()
    assert not future.cancel()


def test_running_is_true_while_a_worker_holds_the_task(future: Future[Any], channel: FakeChannel) -> None:
    assert not future.running()
    channel.inspection = Inspection(ID, State.CLAIMED, Record(), worker="box-2:1:ab")
    assert future.running()
    future.settle(succeeded())
    assert not future.running()


# Callbacks


def test_callbacks_are_called_in_order_on_a_thread_that_may_block(future: Future[Any], channel: FakeChannel) -> None:
    seen: list[Any] = []
    release, called = threading.Event(), threading.Event()

    def block(done: concurrent.futures.Future[Any]) -> None:
        release.wait(5)
        seen.append((done is future, threading.current_thread().name))

    future.add_done_callback(block)
    future.add_done_callback(lambda _: called.set())
    future.settle(succeeded(1))

    assert future.result(timeout=5) == 1  # although a callback blocks
    assert seen == []
    release.set()
    assert called.wait(5)
    assert seen == [(True, "qworker-callbacks")]
    assert channel.kept == [future, future]


def test_a_callback_that_raises_does_not_keep_the_next_from_being_called(
    future: Future[Any], caplog: pytest.LogCaptureFixture
) -> None:
    called = threading.Event()
    future.add_done_callback(lambda _: 1 / 0)
    future.add_done_callback(lambda _: called.set())

    future.settle(succeeded())

    assert called.wait(5)
    assert "exception calling callback" in caplog.text


def test_a_callback_on_an_ended_task_is_called_at_once(future: Future[Any], channel: FakeChannel) -> None:
    future.settle(succeeded())
    seen: list[Any] = []

    future.add_done_callback(seen.append)

    assert seen == [future]
    assert channel.kept == []


def test_a_callback_that_is_told_to_end_takes_no_other_with_it(
    future: Future[Any], channel: FakeChannel, caplog: pytest.LogCaptureFixture
) -> None:
    heard = threading.Event()

    def ends(_future: Any) -> None:
        raise TaskInterrupt("stop")  # as `current.check()` and waits in callbacks of a task do

    future.add_done_callback(ends)
    other = Future[Any]("default:other", link=channel)
    other.add_done_callback(lambda _future: heard.set())
    future.settle(succeeded(1))
    other.settle(succeeded(1))

    assert heard.wait(5)
    assert "TaskInterrupt" in caplog.text


def test_an_ended_future_is_not_kept_alive_by_the_callbacks_thread(channel: FakeChannel) -> None:
    future = Future[Any](ID, link=channel)
    called = threading.Event()
    future.add_done_callback(lambda _: called.set())
    gone = weakref.ref(future)
    future.settle(succeeded())
    assert called.wait(5)
    channel.kept.clear()

    del future

    def is_gone() -> bool:
        gc.collect()
        return gone() is None

    wait_until(is_gone, description="the future to be freed")


# asyncio


def test_await_returns_the_value_and_wakes_the_loop_from_another_thread(future: Future[Any]) -> None:
    async def main() -> Any:
        task = asyncio.ensure_future(wait(future))
        await asyncio.sleep(0)
        thread = in_thread(lambda: future.settle(succeeded(7)))
        value = await asyncio.wait_for(task, 5)
        thread.join()
        return value, await future

    assert asyncio.run(main()) == (7, 7)


async def wait(future: Future[Any]) -> Any:
    return await future


def test_await_raises_task_cancelled_and_never_asyncios_for_a_remote_cancel(future: Future[Any]) -> None:
    async def main() -> str:
        task = asyncio.ensure_future(wait(future))
        await asyncio.sleep(0)
        future.settle(ended(State.CANCELLED))
        try:
            await task
        except asyncio.CancelledError:
            return "asyncio"
        except TaskCancelled:
            return "remote"
        return "nothing"

    assert asyncio.run(main()) == "remote"


def test_cancelling_what_awaits_leaves_the_task_alone(future: Future[Any], channel: FakeChannel) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wait(future), 0.01)

    asyncio.run(main())

    assert channel.asked == []
    assert not future.done()
    future.settle(succeeded(1))
    assert future.result() == 1


def test_await_is_told_when_the_app_is_closed(future: Future[Any], channel: FakeChannel) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(wait(future))
        await asyncio.sleep(0)
        channel.closed = True
        future.wake_waiters()
        with pytest.raises(RuntimeError, match="the app was closed"):
            await asyncio.wait_for(task, 5)

    asyncio.run(main())


def test_a_loop_that_is_gone_does_not_disturb_who_settles(future: Future[Any]) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(wait(future))
        await asyncio.sleep(0)
        task.cancel()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()

    future.settle(succeeded())

    assert future.done()


def test_wrap_future_works_and_passes_exceptions_on(channel: FakeChannel) -> None:
    good, bad = (Future[Any](f"default:{name}", link=channel) for name in ("good", "bad"))

    async def main() -> None:
        wrapped = [asyncio.wrap_future(good), asyncio.wrap_future(bad)]
        good.settle(succeeded(3))
        bad.settle(failed(OSError("no")))
        assert await asyncio.wait_for(wrapped[0], 5) == 3
        with pytest.raises(OSError, match="no"):
            await asyncio.wait_for(wrapped[1], 5)

    asyncio.run(main())


# The rest


def test_the_repr_says_which_task_and_what_is_known(future: Future[Any]) -> None:
    assert repr(future) == "<Future default:t1 tasks.f not known to have ended>"
    future.settle(succeeded())
    assert repr(future) == "<Future default:t1 tasks.f succeeded>"


def test_status_asks_while_it_lives_and_remembers_the_end(future: Future[Any], channel: FakeChannel) -> None:
    assert str(future.status()) == "queued, about 120 before it"
    future.settle(succeeded(1, worker="box-2:1:ab", ran_s=0.5, attempt=2))
    channel.inspection = None

    status = future.status()

    assert (status.state, status.worker, status.ran_for, status.attempt) == ("succeeded", "box-2:1:ab", 0.5, 2)
    assert status.ended
    assert status.name == "tasks.f"


def test_a_future_is_not_pickled_by_accident(future: Future[Any]) -> None:
    with pytest.raises(TypeError, match=r"app\.future\(id\)"):
        pickle.dumps(future)


def test_no_future_is_slow_to_settle_with_ten_thousand_of_them(channel: FakeChannel) -> None:
    futures = [Future[Any](f"default:{n}", link=channel) for n in range(10_000)]
    began = time.monotonic()

    for future in futures:
        future.settle(succeeded())

    assert time.monotonic() - began < 2


def test_progress_is_asked_for_until_the_first_word_comes(channel: FakeChannel, future: Future[Any]) -> None:
    assert future.progress() is None
    told = codec.pack_told(Told(ID, Progress(1, 4, "asked for")))
    channel.inspection = Inspection(ID, State.RUNNING, Record(), workers=1, progress=told)
    assert future.progress() == (1, 4, "asked for")

    channel.inspection = None
    future.tell(Progress(2, 4, "pushed"))

    assert future.progress() == Progress(2, 4, "pushed")
    future.settle(succeeded(1))
    assert future.progress() == Progress(2, 4, "pushed")


def test_a_future_that_has_ended_asks_nothing_about_progress(channel: FakeChannel, future: Future[Any]) -> None:
    channel.inspection = None
    future.settle(succeeded(1))

    assert future.progress() is None


def test_progress_callbacks_hear_changes_on_the_callbacks_thread(channel: FakeChannel, future: Future[Any]) -> None:
    heard: list[tuple[Progress, str]] = []

    def bad(_: Progress) -> None:
        raise ValueError("mine")

    future.add_progress_callback(bad)
    future.add_progress_callback(lambda progress: heard.append((progress, threading.current_thread().name)))
    assert channel.kept == [future, future]

    for progress in (Progress(1), Progress(1), Progress(2)):
        future.tell(progress)
        wait_until(lambda progress=progress: heard and heard[-1][0] == progress, description="the callback")

    assert heard == [(Progress(1), "qworker-callbacks"), (Progress(2), "qworker-callbacks")]


def test_stop_after_the_time_is_up_says_what_came_of_it(channel: FakeChannel, future: Future[Any]) -> None:
    cancelled = codec.pack_outcome(ended(State.CANCELLED))
    channel.answers = [StopAnswer("t1", "cancelled", outcome=cancelled)]

    with pytest.raises(WaitTimeout) as caught:
        future.result(timeout=0, then="stop")

    text = str(caught.value)
    assert text.startswith(f"task {ID} (tasks.f) has not ended within ")
    assert ": queued, about 120 before it; it was stopped: its code does not run, after " in text
    assert text.endswith(": cancelled while it was queued: it will not start")
    assert caught.value.receipt is not None
    assert caught.value.receipt.outcome is State.CANCELLED
    assert caught.value.state == "queued"


def test_a_value_that_comes_while_the_task_is_stopped_is_there_for_who_wants_it(
    channel: FakeChannel, future: Future[Any]
) -> None:
    channel.answers = [StopAnswer("t1", "ended", outcome=codec.pack_outcome(succeeded(42)))]

    with pytest.raises(WaitTimeout, match=r"it had ended before: succeeded; result\(\) has what came of it$"):
        future.exception(timeout=0, then="stop")

    assert future.result() == 42


def test_a_stop_that_reaches_nobody_is_said_with_the_timeout(channel: FakeChannel, future: Future[Any]) -> None:
    def unreachable(*_: Any, **__: Any) -> StopAnswer:
        raise BrokerUnavailable("the server is gone")

    channel.stop = unreachable  # type: ignore[method-assign]

    with pytest.raises(WaitTimeout, match=r"; it could not be stopped, because the server is gone$") as caught:
        future.result(timeout=0, then="stop")
    assert caught.value.receipt is None


def test_nothing_else_can_be_done_when_the_time_is_up(future: Future[Any]) -> None:
    with pytest.raises(ValueError, match=r"^then='kill': expected None or 'stop'$"):
        future.result(timeout=0, then="kill")  # type: ignore[arg-type]
