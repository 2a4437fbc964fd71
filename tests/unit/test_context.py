"""`current`: in a task, in its helper threads, in a plain call."""

from __future__ import annotations

import contextvars
import logging
import threading
import time

import pytest

from qworker import context
from qworker.context import Run
from qworker.current_task import current
from qworker.errors import TaskInterrupt


class FakeSlot:
    """A slot whose ask is an event, so that a wait is woken at once."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.why = "stop"
        self.shown: list[tuple[float, float | None, str]] = []
        self.uncertain = False

    def asked(self) -> bool:
        return self.event.is_set()

    def reason(self) -> str:
        return self.why

    def lease_uncertain(self) -> bool:
        return self.uncertain

    def progress(self, done: float, total: float | None, text: str) -> None:
        self.shown.append((done, total, text))

    def wait_asked(self, timeout_s: float) -> bool:
        return self.event.wait(timeout_s)


@pytest.fixture(autouse=True)
def _plain_process():
    """Each test begins and ends as a process that is no child."""
    yield
    context._in_child = False
    context._fallback = None


@pytest.fixture
def slot():
    return FakeSlot()


@pytest.fixture
def run(slot):
    run = Run("default:1", "tasks.work", run=2, attempt=3, fence=77, retries=4, slot=slot, ends=time.monotonic() + 60)
    token = context.enter(run)
    yield run
    context.leave(token)


def in_thread(fn):
    """Run a function in a fresh thread; return what it returned or raised."""
    result: list[object] = []

    def body() -> None:
        try:
            result.append(fn())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join(10)
    return result[0]


def test_a_task_knows_itself(run):
    assert (current.id, current.name, current.run, current.attempt, current.retries, current.fence) == (
        "default:1", "tasks.work", 2, 3, 4, 77,
    )  # fmt: skip
    assert 59 < current.remaining() <= 60
    assert (current.asked, current.reason, current.lease_uncertain) == (False, None, False)
    assert context.running() is run


def test_check_raises_once_it_was_asked_and_says_why(run, slot):
    current.check()

    slot.why = "timeout"
    slot.event.set()

    assert (current.asked, current.reason) == (True, "timeout")
    with pytest.raises(TaskInterrupt) as caught:
        current.check()
    assert caught.value.reason == "timeout"


def test_an_interrupt_passes_through_except_exception(run, slot):
    slot.event.set()

    with pytest.raises(TaskInterrupt):
        try:
            current.check()
        except Exception:
            pytest.fail("swallowed")


def test_sleep_is_cut_short_by_an_ask(run, slot):
    threading.Timer(0.05, slot.event.set).start()
    before = time.monotonic()

    with pytest.raises(TaskInterrupt):
        current.sleep(30)

    assert time.monotonic() - before < 5


def test_sleep_sleeps_when_nobody_asks(run):
    before = time.monotonic()

    current.sleep(0.03)

    assert time.monotonic() - before >= 0.03


def test_sleep_after_an_ask_raises_at_once_even_for_no_time(run, slot):
    slot.event.set()

    with pytest.raises(TaskInterrupt):
        current.sleep(0)


def test_sleep_refuses_a_negative_time_as_the_stdlib_does(run):
    with pytest.raises(ValueError, match=r"sleep length must be non-negative"):
        current.sleep(-1)


def test_progress_and_the_state_of_the_lease_go_through_the_slot(run, slot):
    current.progress(1, 10, "rows")
    current.progress(2)
    slot.uncertain = True

    assert slot.shown == [(1, 10, "rows"), (2, None, "")]
    assert current.lease_uncertain


def test_after_its_end_remaining_is_nothing_and_without_a_limit_it_is_none(slot):
    for ends, remaining in ((time.monotonic() - 5, 0.0), (None, None)):
        token = context.enter(Run("q:1", "t", 1, 1, 1, 0, slot, ends))
        assert current.remaining() == remaining
        context.leave(token)


def test_in_a_plain_call_everything_is_inert():
    assert (current.id, current.attempt, current.asked, current.reason, current.remaining()) == (
        "",
        1,
        False,
        None,
        None,
    )
    assert not current.lease_uncertain
    assert context.running() is None
    current.check()
    current.progress(1)
    current.sleep(0)
    assert current.bind(len) is len


def test_a_thread_of_a_task_in_a_child_with_several_slots_is_told_what_to_do(run):
    error = in_thread(lambda: current.id)

    assert isinstance(error, RuntimeError)
    assert str(error) == (
        "`current` was used in a thread that belongs to no task: start it with target=current.bind(function), "
        "called in the task itself, or run the task in a process slot"
    )


def test_a_bound_function_finds_its_task_in_any_thread(run, slot):
    def helper(factor: int, *, plus: int) -> tuple[str, int]:
        return current.id, factor + plus

    bound = current.bind(helper)

    assert in_thread(lambda: bound(1, plus=2)) == ("default:1", 3)
    assert bound.__name__ == "helper"
    assert isinstance(in_thread(lambda: current.id), RuntimeError)


def test_a_bound_function_leaves_the_thread_as_it_was(run):
    bound = current.bind(lambda: current.id)

    def body() -> object:
        bound()
        return context.running()

    assert in_thread(body) is None


def test_in_a_child_with_one_slot_threads_fall_back_to_its_task(run):
    context.set_fallback(run)
    assert in_thread(lambda: current.id) == "default:1"

    context.set_fallback(None)
    assert isinstance(in_thread(lambda: current.id), RuntimeError)


def test_a_copied_context_belongs_to_the_task(run):
    copied = contextvars.copy_context()

    assert in_thread(lambda: copied.run(lambda: current.id)) == "default:1"


def test_each_thread_has_its_own_task(slot):
    both = threading.Barrier(2)

    def task(number: int) -> str:
        token = context.enter(Run(f"q:{number}", "t", 1, 1, 1, 0, slot))
        both.wait(10)
        seen = current.id
        both.wait(10)
        context.leave(token)
        return seen

    threads: list[object] = []
    other = threading.Thread(target=lambda: threads.append(task(1)))
    other.start()
    mine = in_thread(lambda: task(2))
    other.join(10)

    assert (mine, threads) == ("q:2", ["q:1"])


def test_the_log_goes_through_logging_with_its_fields(run, caplog):
    with caplog.at_level(logging.DEBUG, logger="qworker.task"):
        current.log.debug("at 100%d", step=1)
        current.log.warning("slow", took_s=2)

    assert [(record.getMessage(), record.levelname, record.fields) for record in caplog.records] == [
        ("at 100%d", "DEBUG", {"step": 1}),
        ("slow", "WARNING", {"took_s": 2}),
    ]
    assert caplog.records[0].funcName == "test_the_log_goes_through_logging_with_its_fields"
