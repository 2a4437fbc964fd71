"""The collector: what pools tell becomes verdicts and log lines, whatever user code put into it."""

from __future__ import annotations

import asyncio

import pytest

from qworker import codec
from qworker.lifecycle import How, State
from qworker.model import Again, End, Ending, Lose, Release
from qworker.worker.window import Room
from support.roles import roles, settled, task


@pytest.mark.parametrize(
    ("ending", "header", "expected"),
    [
        (Ending(0, "returned", payload=b"\xc0"), {}, State.SUCCEEDED),
        (Ending(0, "raised"), {}, State.FAILED),
        (Ending(0, "raised"), {"retries": 1}, Again),
        (Ending(0, "child_died"), {}, Lose),
        (Ending(0, "host_died"), {}, Release),
        (Ending(0, "unstarted"), {}, Release),
        (Ending(0, "killed", asked="timeout"), {}, State.TIMED_OUT),
        (Ending(0, "killed", asked="drain"), {}, Release),
        (Ending(0, "killed"), {}, Release),  # its worker ended in disorder: nobody asked, nobody is to blame
        (Ending(0, "killed"), {"delivery": "at_most_once"}, State.CRASHED),
    ],
)
def test_each_ending_is_settled_as_its_verdict_says(ending, header, expected) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a", **header))
            held = w.held("a")
            w.run(w.settler.run())

            w.collector.endings([ending._replace(number=held.number)])

            (item,) = await w.settles(1)
            if isinstance(expected, State):
                assert isinstance(item, End)
                assert codec.unpack_outcome(item.value).state is expected
            else:
                assert isinstance(item, expected)

    asyncio.run(scenario())


def test_an_ending_of_a_task_that_was_let_go_is_nobodys() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            number = w.pool.number_of("a")
            w.state.ledger.drop([number])

            w.pool.end(number, "returned", payload=b"\xc0")

            assert w.settler.pending == 0

    asyncio.run(scenario())


def test_a_second_ending_of_a_task_changes_nothing() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            ending = Ending(w.pool.number_of("a"), "returned", payload=b"\xc0")

            w.collector.endings([ending, ending])

            assert w.settler.pending == 1
            assert w.state.ledger.in_pool["process"] == 0

    asyncio.run(scenario())


def test_after_a_window_that_stalled_no_more_is_claimed_than_the_slots_can_start() -> None:
    async def scenario() -> None:
        async with roles(process=2) as w:
            room = w.state.rooms["process"] = Room(2)
            room.target = 64
            w.accept(*(task(f"a{n}") for n in range(8)))

            w.collector.endings([Ending(n, "unstarted", detail="stalled") for n in list(w.pool.orders)])

            assert room.target == 2

    asyncio.run(scenario())


def test_a_window_that_drained_quickly_widens_the_room() -> None:
    async def scenario() -> None:
        async with roles(process=2) as w:
            w.accept(*(task(local) for local in "abcd"))

            w.collector.endings([Ending(n, "returned", payload=b"\xc0") for n in list(w.pool.orders)])

            assert w.state.rooms["process"].target == 8

    asyncio.run(scenario())


# The drain's own ends.


def test_only_kills_of_the_drain_count_as_killed_by_it() -> None:
    """A child recycled days ago must not turn today's clean exit into `work was killed`."""

    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(*(task(local) for local in "abc"))
            a, b, c = w.pool.orders

            w.collector.endings(
                [Ending(a, "killed", asked="recycle"), Ending(b, "killed", asked="timeout"),
                 Ending(c, "interrupted", asked="drain")]
            )  # fmt: skip
            assert w.state.killed == 0

            w.accept(task("d"), claim="c2")
            w.pool.end(w.pool.number_of("d"), "killed", asked="drain")
            assert w.state.killed == 1

    asyncio.run(scenario())


def test_a_thread_that_outlives_the_drain_goes_back_only_when_its_child_is_gone() -> None:
    async def scenario() -> None:
        async with roles(thread=2) as w:
            w.accept(task("a"))
            w.pool.end(w.pool.number_of("a"), "left_running", asked="drain")
            assert w.settler.pending == 0

            w.collector.children_gone()

            w.run(w.settler.run())
            assert await w.settles(1) == [Release("a", "c1")]
            assert w.state.killed == 1

    asyncio.run(scenario())


def test_a_thread_that_outlives_the_drain_does_not_run_again_if_it_may_start_only_once() -> None:
    async def scenario() -> None:
        async with roles(thread=2) as w:
            w.accept(task("a", delivery="at_most_once"))
            w.collector.endings([Ending(w.held("a").number, "left_running", asked="drain")])

            w.collector.children_gone()

            w.run(w.settler.run())
            (end,) = await w.settles(1)
            outcome = codec.unpack_outcome(end.value)
            assert (outcome.state, outcome.how, outcome.still_running) == (State.CRASHED, How.KILLED, False)

    asyncio.run(scenario())


def test_a_thread_left_running_by_its_timeout_is_settled_at_once_as_still_running() -> None:
    async def scenario() -> None:
        async with roles(thread=2) as w:
            w.accept(task("a"))
            w.run(w.settler.run())

            w.pool.end(w.pool.number_of("a"), "left_running", asked="timeout", ran_s=1.0)

            (end,) = await w.settles(1)
            outcome = codec.unpack_outcome(end.value)
            assert (outcome.state, outcome.how, outcome.still_running) == (State.TIMED_OUT, How.LEFT_RUNNING, True)

    asyncio.run(scenario())


# The log.


def test_a_failure_whose_error_cannot_be_read_is_told_and_harms_nobody() -> None:
    """User code shares the child's stream, and may have written what looks like an outcome."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))

            w.pool.end(w.pool.number_of("a"), "raised", payload=b"\xc1 no msgpack")
            await w.settler.wait_empty()

            (told,) = w.told("task.ended")
            assert told["error"] == "an error that cannot be read"

    asyncio.run(scenario())


def test_a_log_line_of_a_task_cannot_take_the_place_of_our_own_fields() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            fields = {"level": "error", "text": "forged", "stream": "forged", "task": "forged", "colour": "red"}

            w.collector.output(w.pool.number_of("a"), "log", "hello", fields)

            (told,) = w.told("task.output")
            assert told == {"text": "hello", "stream": "log", "task": "default:a", "name": "t", "colour": "red"}

    asyncio.run(scenario())


def test_what_happens_to_survivors_is_counted_and_shown_soon() -> None:
    async def scenario() -> None:
        async with roles() as w:
            shown = []
            w.collector.changed = lambda: shown.append(True)

            w.collector.event("survivor.appeared", "warning", task="default:a")
            w.collector.event("forkserver.died", "error")

            assert w.state.counters["survivor.appeared"] == 1
            assert shown == [True]

    asyncio.run(scenario())


def test_a_retry_says_which_attempt_failed_and_when_the_next_one_is_due() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a", retries=2, backoff_ms=4_000, jitter=False))

            w.pool.end(w.pool.number_of("a"), "raised")
            await w.settler.wait_empty()

            (told,) = w.told("task.retry")
            assert (told["attempt"], told["of"], told["again_in_s"]) == (1, 3, 4.0)

    asyncio.run(scenario())


def test_an_outcome_that_was_recorded_by_an_earlier_sending_counts_once_as_recorded() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            w.broker.script("settle", settled("again"))

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            assert w.state.counters["succeeded"] == 1
            assert not w.told("outcome.refused")

    asyncio.run(scenario())
