"""Which futures are awaited: weakly, each once settled and never after, and what is to be asked about when."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest

from qworker.broker.registry import FIRST_PAUSE_S, ROUND_SIZE, Registry


class Fake:
    """A future, as far as the registry cares."""

    def __init__(self, id: str) -> None:  # noqa: A002
        self.id = id

    def settle(self, outcome: Any) -> None: ...
    def settle_alone(self, outcome: Any) -> bool: ...
    def learn(self, outcome: Any) -> None: ...
    def give_up(self, *, submitted_here: bool) -> None: ...
    def wake_waiters(self) -> None: ...
    def forget_parent(self) -> None: ...


@pytest.fixture
def registry() -> Registry:
    return Registry()


def settled(registry: Registry, id: str) -> list[Any]:  # noqa: A002
    """Return the futures of an id, as the client settles them, and have the registry leave them."""
    entries = registry.entries(id)
    futures = [future for entry in entries if (future := entry()) is not None]
    registry.leave(id, entries)
    return futures


def test_a_future_that_nobody_holds_is_forgotten(registry: Registry) -> None:
    registry.add((Fake(f"q:{n}") for n in range(10_000)), own=True)
    gc.collect()

    assert len(registry) == 0
    assert registry.entries("q:1") == ()
    assert registry.next_round() == []


def test_a_future_with_callbacks_is_held_until_its_end(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=True)
    assert registry.keep(future)
    del future
    gc.collect()

    assert [one.id for one in settled(registry, "q:1")] == ["q:1"]
    assert len(registry) == 0


def test_a_future_that_is_not_awaited_is_not_kept(registry: Registry) -> None:
    assert not registry.keep(Fake("q:1"))


def test_all_handles_of_one_id_are_settled(registry: Registry) -> None:
    first, second = Fake("q:1"), Fake("q:1")
    registry.add((first,), own=True)
    registry.add((second,), own=False)

    assert registry.knows(first)
    assert registry.knows(second)
    assert not registry.knows(Fake("q:1"))
    assert {id(one) for one in settled(registry, "q:1")} == {id(first), id(second)}


def test_a_handle_that_comes_between_the_settling_and_the_leaving_is_awaited(registry: Registry) -> None:
    first, late = Fake("q:1"), Fake("q:1")
    registry.add((first,), own=True)
    entries = registry.entries("q:1")
    registry.add((late,), own=False)
    registry.hurry(("q:1",))

    registry.leave("q:1", entries)

    assert registry.all() == [late]
    assert registry.hurried(registry.next_hurried()) == ["q:1"]


def test_what_the_server_does_not_know_is_not_asked_about_again(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=False)
    registry.hurry(("q:1",))

    assert registry.take_sent("q:1", registry.asking()) == [(future, False)]
    assert registry.hurried(registry.next_hurried()) == []


def test_dropping_one_handle_leaves_the_other(registry: Registry) -> None:
    first, second = Fake("q:1"), Fake("q:1")
    registry.add((first, second), own=True)

    registry.drop((first,))

    assert registry.all() == [second]


def test_a_task_whose_submit_is_under_way_is_not_asked_about_nor_given_up(registry: Registry) -> None:
    future = Fake("q:1")
    entries = registry.add((future,), own=True)

    assert registry.next_round() == []
    assert registry.take_sent("q:1", registry.asking()) == []
    registry.confirm(entries)
    assert registry.next_round() == ["q:1"]
    assert registry.take_sent("q:1", registry.asking()) == [(future, True)]
    assert len(registry) == 0


def test_an_answer_that_is_older_than_the_submit_gives_nothing_up(registry: Registry) -> None:
    future, handle = Fake("q:1"), Fake("q:1")
    asked = registry.asking()
    registry.confirm(registry.add((future,), own=True))
    registry.add((handle,), own=False)

    assert registry.take_sent("q:1", asked) == []
    assert len(registry.take_sent("q:1", registry.asking())) == 2


def test_a_forked_child_finds_no_lock_that_a_thread_of_its_parent_held(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=False)
    holder = threading.Thread(target=registry._lock.acquire)  # and it never lets go, as one that was not forked
    holder.start()
    holder.join()

    assert registry.leave_parent() == [future]


def test_a_push_settles_even_a_task_whose_submit_is_not_answered_yet(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=True)

    assert settled(registry, "q:1") == [future]


def test_the_round_is_bounded_and_comes_to_everything(registry: Registry) -> None:
    futures = [Fake(f"q:{n}") for n in range(ROUND_SIZE + 10)]
    registry.add(futures, own=False)

    first, second = registry.next_round(), registry.next_round()

    assert len(first) == ROUND_SIZE
    assert set(first + second) == {future.id for future in futures}
    assert len(registry.next_round(everything=True)) == len(futures)


def test_hurried_ids_are_asked_about_at_once_and_then_ever_more_rarely(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=False)
    registry.hurry(("q:1",))
    now = registry.next_hurried()

    assert registry.hurried(now) == ["q:1"]
    assert registry.hurried(now) == []
    assert registry.next_hurried() == pytest.approx(now + FIRST_PAUSE_S)
    pauses = []
    for _ in range(20):
        due = registry.next_hurried()
        pauses.append(due - now)
        now = due
        assert registry.hurried(now) == ["q:1"]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(1.0, rel=0.01)


def test_hurried_ids_that_ended_or_are_not_held_any_more_are_not_asked_about(registry: Registry) -> None:
    kept, gone = Fake("q:1"), Fake("q:2")
    registry.add((kept, gone), own=False)
    registry.hurry(("q:1", "q:2"))
    settled(registry, "q:1")
    del gone
    gc.collect()

    assert registry.hurried(registry.next_hurried()) == []


def test_a_deadline_comes_up_once_and_only_for_what_is_awaited(registry: Registry) -> None:
    future = Fake("q:1")
    registry.add((future,), own=True)
    registry.set_deadline("q:1", 10.0)
    registry.set_deadline("q:2", 5.0)

    assert registry.next_deadline() == 5.0
    assert registry.past_deadline(9.0) == []
    assert registry.past_deadline(11.0) == ["q:1"]
    assert registry.next_deadline() == float("inf")


def test_deadlines_of_what_nobody_awaits_do_not_pile_up(registry: Registry) -> None:
    for n in range(10_000):
        registry.add((Fake(f"q:{n}"),), own=True)
        registry.set_deadline(f"q:{n}", 1e9)

    assert len(registry._deadlines) < 1_000


def test_the_garbage_collector_may_free_futures_while_the_lock_is_held(registry: Registry) -> None:
    """A weak reference's callback runs wherever the collector does; taking the lock there would be a deadlock."""
    future = Fake("q:1")
    registry.add((future,), own=True)

    with registry._lock:
        del future
        gc.collect()

    assert len(registry) == 0


def test_many_threads_may_add_and_take_at_once(registry: Registry) -> None:
    def work(name: int) -> None:
        for n in range(500):
            future = Fake(f"q:{name}-{n}")
            entries = registry.add((future,), own=True)
            registry.confirm(entries)
            if n % 2:
                assert settled(registry, future.id) == [future]

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    gc.collect()
    assert len(registry) == 0
