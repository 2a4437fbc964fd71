"""What a task tells of its waits, and what ends them."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from qworker import PoolExhausted, TaskInterrupt, WaitCycle, context, lending
from qworker.current_task import current
from qworker.future import Future
from qworker.lifecycle import How, State
from qworker.model import Outcome
from support.waiting import wait_until


class Slot(context.Nowhere):
    """A slot that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.why = ""
        self.why_not = ""
        self.refuses = ""  # what is said of the next wait, a little after it was told

    def asked(self) -> bool:
        return bool(self.why)

    def reason(self) -> str:
        return self.why

    def lend(self, ids: Sequence[str], *, more: bool = False) -> None:
        self.why_not = ""
        self.told.append((list(ids), more))
        if self.refuses:
            soon(lambda why=self.refuses: setattr(self, "why_not", why))

    def resume(self) -> None:
        self.told.append("resumed")

    def refused(self) -> str:
        return self.why_not


class Client:
    closed = False

    def watch(self, _future: Any) -> None:
        pass

    def hear(self, _future: Any, _timeout_s: float | None) -> None:
        pass


class Link:
    connected = True

    def client(self) -> Any:
        return Client()


@pytest.fixture
def slot(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    """This thread runs a task in this slot. No subclass of Nowhere lends, so that one is hidden."""
    slot = Slot()
    monkeypatch.setattr(lending.context, "Nowhere", type("Other", (), {}))
    token = context.enter(context.Run("default:me", "m.f", 1, 1, 1, 0, slot))
    yield slot
    context.leave(token)


def future(local: str) -> Future[Any]:
    return Future(f"default:{local}", link=Link())  # type: ignore[arg-type]


def end(one: Future[Any]) -> None:
    one.settle(Outcome(one.id, State.SUCCEEDED, How.RETURNED, value=b"\xc0"))


def soon(action: Any) -> None:
    threading.Timer(0.05, action).start()


def once_told(slot: Slot, action: Any) -> None:
    """Do it when this thread's wait has been told."""

    def act() -> None:
        wait_until(lambda: slot.told, description="the wait to be told")
        action()

    threading.Thread(target=act).start()


def test_a_wait_tells_its_id_and_then_that_it_is_over(slot: Slot) -> None:
    one = future("a")
    once_told(slot, lambda: end(one))

    assert one.wait(5)
    assert slot.told == [(["default:a"], False), "resumed"]


def test_what_has_ended_lends_nothing(slot: Slot) -> None:
    one = future("a")
    end(one)

    assert one.wait()
    assert slot.told == []


def test_a_wait_ends_when_its_time_is_up(slot: Slot) -> None:
    assert not future("a").wait(0.01)
    assert slot.told[-1] == "resumed"


@pytest.mark.parametrize("wait", [lambda one: one.result(), lambda one: concurrent.futures.wait([one])])
def test_a_wait_ends_soon_after_the_task_is_asked_to_end(slot: Slot, wait: Any) -> None:
    one = future("a")
    began = time.monotonic()
    soon(lambda: setattr(slot, "why", "stop"))

    with pytest.raises(TaskInterrupt, match="stop"):
        wait(one)
    assert time.monotonic() - began < 1.0
    assert slot.told[-1] == "resumed"


def test_a_wait_without_a_place_says_what_to_do(slot: Slot) -> None:
    slot.refuses = "place"

    with pytest.raises(PoolExhausted) as caught:
        future("a").result()

    assert str(caught.value) == (
        "task default:me (m.f) cannot wait for task default:a: its worker would have to run it, and all of its slots "
        "and of the places that it may lend (--max-lent) are taken by tasks that wait, too; give the worker a larger "
        "--max-lent, start another worker, or nest less deeply"
    )


def test_who_cleans_up_can_wait_although_it_was_asked_to_end(slot: Slot) -> None:
    one = future("a")
    slot.why = "stop"
    once_told(slot, lambda: end(one))

    with lending.unbroken():
        assert one.wait(5)


def test_as_completed_tells_its_ids_once_and_again_only_when_half_are_done(slot: Slot) -> None:
    futures = [future(str(n)) for n in range(8)]
    line = iter(futures)
    once_told(slot, lambda: end(next(line)))
    for seen, _ in enumerate(concurrent.futures.as_completed(futures), start=1):
        if seen < len(futures):
            soon(lambda: end(next(line)))

    lists = [len(told[0]) for told in slot.told if told != "resumed"]
    assert lists[0] == 8
    assert sum(lists) <= 8 + 4 + 2 + 1 + 1


def test_waits_of_several_threads_are_one_to_the_worker(slot: Slot) -> None:
    one, two = future("a"), future("b")
    threads = [threading.Thread(target=current.bind(each.wait)) for each in (one, two)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(slot.told) == 2, description="both waits to be told")
    end(one)
    threads[0].join()
    assert "resumed" not in slot.told
    end(two)
    threads[1].join()

    assert [told for told in slot.told if told != "resumed"] == [(["default:a"], False), (["default:b"], True)]
    assert slot.told[-1] == "resumed"


def test_outside_of_tasks_nothing_of_this_is_there() -> None:
    one = future("a")
    threads = threading.active_count()

    assert not one.wait(0.01)
    assert lending.run_that_lends() is None
    assert threading.active_count() == threads


def test_a_wait_for_itself_is_refused_at_once_unless_it_has_a_limit(slot: Slot) -> None:
    with pytest.raises(WaitCycle) as caught:
        future("me").result()

    assert str(caught.value) == (
        "task default:me (m.f) cannot wait for itself: it could never end; "
        "return from the task, and let who submitted it wait"
    )
    assert not future("me").wait(0.01)


def test_a_wait_in_a_circle_is_refused_and_one_with_a_limit_comes_to_its_end(slot: Slot) -> None:
    slot.refuses = "cycle"
    with pytest.raises(WaitCycle, match="wait in one direction only"):
        future("a").result()

    began = time.monotonic()
    assert not future("a").wait(0.3)
    assert time.monotonic() - began >= 0.3
