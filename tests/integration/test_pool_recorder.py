"""The flight recorder: where a task was when it was asked to end, and shortly before it was ended by force."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from support.pools import a_pool
from support.waiting import await_until


async def run(pool, name, *args, **options):
    """Run a task to its end, once more when the machine was too busy: for the pool's line, or for a stack in time."""
    for _ in range(5):
        ending = await pool.run(name, *args, **options)
        if ending.kind != "unstarted" and all(seen.stack for seen in ending.flight):
            break
    return ending


def frames_of(stack: str) -> list[str]:
    """The functions in a stack, innermost first."""
    return [line.rsplit(" in ", 1)[1] for line in stack.split("\n")]


@pytest.mark.parametrize("kind", ["process", "thread"])
@pytest.mark.parametrize(("name", "frames"), [("regex", ["match", "regex"]), ("nap", ["nap"])])
def test_a_task_is_seen_where_it_hangs_also_in_c_with_the_gil_held(kind, name, frames):
    async def check():
        # Prompt, as in a worker: a thread child that says nothing with the GIL held ends with the grace of its culprit.
        async with a_pool(kind, 2, prompt=True) as pool:
            ending = await run(pool, name, *([3600] if name == "nap" else []), timeout_s=0.3, grace_s=1.2)

            asked, forced = ending.flight
            assert (asked.why, forced.why) == ("asked", "forced")
            assert asked.ran_s == pytest.approx(0.3, abs=0.2)
            assert asked.ran_s + 0.3 < forced.ran_s < ending.ran_s
            assert frames_of(asked.stack) == frames_of(forced.stack) == frames
            assert "pool_tasks.py" in asked.stack

    asyncio.run(check())


def test_each_thread_is_seen_where_it_is_itself_among_busy_siblings():
    """A dump of all threads ends at a hundred of them."""

    async def check():
        async with a_pool("thread", 120) as pool:
            idle = [pool.put("nap", 3600) for _ in range(3)]
            hung = {
                pool.put("dive", 3, timeout_s=0.5, grace_s=60): ["_dive", "_dive", "_dive", "dive"],
                pool.put("tell_and_hang", 0, timeout_s=0.5, grace_s=60): ["tell_and_hang"],
                pool.put("wait_for_file", "/nowhere/to/be/found", timeout_s=0.5, grace_s=60): ["wait_for_file"],
            }
            for number in [*idle, *hung]:
                await pool.running(number)
            pool.put("busy_loop")
            looks = pool.pool.recorder._looks
            await await_until(
                lambda: all(n in looks and looks[n][0].stack for n in hung), timeout=20, description="three stacks"
            )

            for number, frames in hung.items():
                assert frames_of(looks[number][0].stack)[-len(frames) :] == frames
            assert not pool.heard.named("child.died")

    asyncio.run(check())


def test_progress_and_the_last_lines_are_told_and_the_rest_is_left_out():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await run(pool, "tell_and_hang", 25, timeout_s=0.4, grace_s=0.2)

            asked, forced = ending.flight
            assert asked.progress == forced.progress == (3.0, 10.0, "third of ten")
            assert asked.lines == tuple(f"line {index}" for index in range(15, 25))
            assert forced.lines == asked.lines
            assert len(pool.pool.recorder) == 0

    asyncio.run(check())


def test_one_that_gets_stuck_while_it_tidies_up_is_seen_in_both_places():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await run(pool, "hang_in_finally", timeout_s=0.3, grace_s=0.6)

            asked, forced = ending.flight
            assert frames_of(asked.stack)[-1] == "hang_in_finally"
            assert frames_of(forced.stack) == ["_tidy_up_for_ever", "hang_in_finally"]

    asyncio.run(check())


def test_a_task_that_notices_has_the_stack_of_the_ask_with_its_outcome():
    """Its thread wrote it before it could go on to tell an outcome."""

    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("leave_in_time", 0.5)
            await await_until(lambda: any(task.progress for task in pool.pool.running()), description="its code runs")
            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert ending.kind == "returned"
            assert [frames_of(seen.stack)[-1] for seen in ending.flight] == ["leave_in_time"]

    asyncio.run(check())


def test_a_survivor_is_seen_too_and_the_next_attempt_in_its_child_as_itself():
    async def check():
        async with a_pool("thread", 1) as pool:
            left = await run(pool, "nap", 3600, timeout_s=0.1, grace_s=0.6)
            after = await run(pool, "dive", 1, timeout_s=0.1, grace_s=0.6)

            assert left.kind == after.kind == "left_running"
            assert [frames_of(seen.stack) for seen in left.flight] == [["nap"]] * 2
            assert [frames_of(seen.stack) for seen in after.flight] == [["_dive", "dive"]] * 2

    asyncio.run(check())


def test_a_deep_stack_keeps_its_innermost_frames():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await run(pool, "dive", 300, timeout_s=0.3, grace_s=0.3)

            stack = ending.flight[0].stack
            assert stack.endswith("\n  ...")
            assert len(stack) <= 8192
            assert set(frames_of(stack[: stack.rindex("\n")])) == {"_dive"}

    asyncio.run(check())


def test_a_task_that_reset_all_signals_is_not_ended_by_being_looked_at():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("shrug_off_signals", timeout_s=0.3, grace_s=0.3)

            assert (ending.kind, ending.asked) == ("killed", "timeout")
            assert ending.took_s >= 0.3
            assert [seen.stack for seen in ending.flight] == ["", ""]

    asyncio.run(check())


def test_a_child_that_stands_still_delays_neither_the_kill_nor_the_next_look():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 3600, grace_s=0.3)
            os.kill((await pool.running(number)).child, signal.SIGSTOP)
            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert ending.kind == "killed"
            assert ending.took_s < 0.6
            assert [seen.stack for seen in ending.flight] == ["", ""]

    asyncio.run(check())


@pytest.mark.parametrize("reason", ["drain", "recycle", "fenced"])
def test_what_the_worker_asks_for_its_own_sake_is_not_looked_at(reason):
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 3600)
            await pool.running(number)
            pool.pool.ask(number, reason, 0.1)

            assert (await pool.ending(number)).flight == ()

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_with_no_grace_a_task_is_seen_just_before_its_limit(kind):
    async def check():
        async with a_pool(kind, 1) as pool:
            ending = await run(pool, "nap", 3600, timeout_s=0.5, grace_s=0)
            in_time = await run(pool, "nap", 0.49, timeout_s=0.5, grace_s=0)

            [asked] = ending.flight
            assert frames_of(asked.stack) == ["nap"]
            assert ending.took_s < 0.3
            assert in_time.kind != "returned" or in_time.flight == ()
            assert len(pool.pool.recorder) == 0

    asyncio.run(check())


def test_a_stop_without_grace_does_not_wait_for_a_stack():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 3600)
            await pool.running(number)
            begun = time.monotonic()
            pool.pool.ask(number, "stop", 0)
            ending = await pool.ending(number)

            assert time.monotonic() - begun < 0.5
            assert [seen.why for seen in ending.flight] == ["asked"]

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_coroutine_is_seen_where_it_waits_and_where_it_waits_on_after_its_cancellation(kind):
    async def check():
        async with a_pool(kind, 1) as pool:
            ending = await run(pool, "hold_on", timeout_s=0.3, grace_s=0.6)

            asked, forced = ending.flight
            assert frames_of(asked.stack) == ["_wait_for_nothing", "hold_on"]
            assert frames_of(forced.stack) == ["wait", "_wait_on", "hold_on"]

    asyncio.run(check())


def test_coroutines_of_one_loop_are_each_seen_where_they_wait():
    async def check():
        async with a_pool("async", 8) as pool:
            calls = ("hold_on",), ("wait_for_ever",), ("dive", 2)
            endings = await asyncio.gather(*(run(pool, *call, timeout_s=0.5, grace_s=0.6) for call in calls))

            assert [frames_of(seen.stack) for seen in endings[0].flight] == [
                ["_wait_for_nothing", "hold_on"],
                ["wait", "_wait_on", "hold_on"],
            ]
            assert endings[0].flight[0].lines == ("waiting",)
            assert [frames_of(seen.stack) for seen in endings[1].flight] == [["sleep", "wait_for_ever"]]
            assert [frames_of(seen.stack) for seen in endings[2].flight] == [["_dive", "_dive", "dive"]] * 2

    asyncio.run(check())


def test_a_loop_that_stands_still_is_seen_by_what_its_thread_does():
    async def check():
        async with a_pool("async", 2) as pool:
            waits = pool.put("wait_for_ever", grace_s=0.8)
            blocks = pool.put("block_the_loop", grace_s=0.8)
            await await_until(lambda: any(task.progress for task in pool.pool.running()), description="it blocks")
            for number in (waits, blocks):
                pool.pool.ask(number, "stop")
            for number in (waits, blocks):
                flight = (await pool.ending(number)).flight
                why, stack = flight[0].stack.split("\n", 1)
                assert why == "  (its event loop did not answer: this is what its thread did)"
                assert frames_of(stack) == ["block_the_loop"]

    asyncio.run(check())


def test_thousands_that_are_stopped_together_are_not_all_looked_at():
    async def check():
        async with a_pool("async", 1000) as pool:
            numbers = [pool.put("wait_for_ever") for _ in range(1000)]
            await await_until(lambda: len(pool.pool.running()) == 1000, timeout=30, description="all wait")
            for number in numbers:
                pool.pool.ask(number, "stop")
            looked_at = len(pool.pool.recorder)
            endings = [await pool.ending(number, timeout=30) for number in numbers]

            assert looked_at == 500
            assert {ending.kind for ending in endings} == {"thrown"}
            assert len(pool.pool.recorder) == 0

    asyncio.run(check())
