"""Thread slots: a thread cannot be ended alone, so its outcome is told, its slot replaced, and its child recycled."""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import signal
import sys
import termios
import time

import pytest

from qworker.lifecycle import State
from qworker.pool import frames
from support.pools import a_pool, error_of, make_order, value_of
from support.processes import is_running
from support.waiting import await_until, wait_until


def test_all_slots_run_at_once_in_one_child():
    async def check():
        async with a_pool("thread", 8) as pool:
            before = time.monotonic()
            numbers = [pool.put("nap", 0.5) for _ in range(8)]

            shown = [await pool.running(number) for number in numbers]
            assert pool.pool.free == 0
            for number in numbers:
                assert value_of(await pool.ending(number)) == "rested"

            assert time.monotonic() - before < 2
            assert len({task.child for task in shown}) == 1
            assert {task.slot for task in shown} == set(range(8))
            assert pool.pool.free == 8

    asyncio.run(check())


@pytest.mark.parametrize("trial", range(3))  # who reads the stream first is a race that each trial may decide anew
def test_thousands_of_short_orders_end_exactly_once(trial):
    async def check():
        async with a_pool("thread", 4) as pool:
            orders = [make_order("echo", index) for index in range(3000)]
            for order in orders:
                pool.pool.put([order])

            assert [await pool.value(order) for order in orders] == list(range(3000))

    asyncio.run(check())


def test_tasks_in_threads_print_for_themselves():
    async def check():
        async with a_pool("thread", 4) as pool:
            numbers = [pool.put("talk", 3, f"from {index}") for index in range(4)]

            for number in numbers:
                await pool.ending(number)

            for index, number in enumerate(numbers):
                said = [text for n, stream, text, _ in pool.heard.lines if n == number and stream == "stdout"]
                assert said == [f"from {index}"] * 3 + ["no newline"]

    asyncio.run(check())


def test_a_task_that_does_not_end_leaves_its_outcome_on_time_and_its_slot_is_replaced(tmp_path):
    async def check():
        async with a_pool("thread", 2) as pool:
            gate = tmp_path / "gate"
            stuck = pool.put("wait_for_file", str(gate), timeout_s=0.2, grace_s=0.2)
            child = (await pool.running(stuck)).child

            ending = await pool.ending(stuck)

            assert (ending.kind, ending.asked) == ("left_running", "timeout")
            assert ending.took_s == pytest.approx(0.2, abs=0.2)
            (survivor,) = pool.pool.survivors()
            assert (survivor.name, survivor.child, survivor.outcome) == (
                "pool_tasks.wait_for_file",
                child,
                State.TIMED_OUT,
            )
            # Both slots' worth of work still runs at the same time.
            assert pool.pool.free == 2
            pair = [pool.put("nap", 0.3) for _ in range(2)]
            for number in pair:
                assert (await pool.running(number)).child == child
            for number in pair:
                assert value_of(await pool.ending(number)) == "rested"

            gate.touch()

            await await_until(lambda: not pool.pool.survivors(), description="the survivor is gone")
            assert pool.heard.named("survivor.gone")[0]["task"] == survivor.id
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_at_the_most_survivors_the_child_is_recycled_and_healthy_siblings_finish():
    async def check():
        async with a_pool("thread", 3, max_survivors=2) as pool:
            sibling = pool.put("nap", 1.5)
            old = (await pool.running(sibling)).child
            stuck = [pool.put("nap", 3600, timeout_s=0.1, grace_s=0.1) for _ in range(2)]
            for number in stuck:
                assert (await pool.ending(number)).kind == "left_running"

            fresh = value_of(await pool.run("who"))["pid"]

            assert fresh != old
            assert len(pool.pool.survivors()) == 2
            assert value_of(await pool.ending(sibling)) == "rested"
            await await_until(lambda: not is_running(old), description="the old child is gone")
            await await_until(lambda: not pool.pool.survivors(), description="and its survivors")
            assert pool.heard.named("child.recycled")[0]["child"] == old

    asyncio.run(check())


def test_a_recycled_child_whose_siblings_take_too_long_is_killed_and_they_go_back_uncharged():
    async def check():
        async with a_pool("thread", 2, max_survivors=1, recycle_timeout_s=0.2) as pool:
            sibling = pool.put("nap", 3600, grace_s=0.2)
            old = (await pool.running(sibling)).child
            stuck = pool.put("nap", 3600, timeout_s=0.1, grace_s=0.1)
            assert (await pool.ending(stuck)).kind == "left_running"

            ending = await pool.ending(sibling)

            assert (ending.kind, ending.asked) == ("host_died", "recycle")
            assert not is_running(old)
            assert pool.pool.survivors() == []

    asyncio.run(check())


def test_a_child_whose_gil_is_held_is_replaced_within_a_second_and_killed_when_the_grace_ends():
    async def check():
        async with a_pool("thread", 2, prompt=True) as pool:
            sibling = pool.put("nap", 3600)
            await pool.running(sibling)
            before = time.monotonic()
            culprit = pool.put("regex", timeout_s=1.5, grace_s=0.5)
            wedged = (await pool.running(culprit)).child

            fresh = value_of(await pool.run("who"))["pid"]

            assert time.monotonic() - before < 1.4
            assert fresh != wedged
            ending = await pool.ending(culprit)
            assert (ending.kind, ending.asked) == ("killed", "timeout")
            assert (await pool.ending(sibling)).kind == "host_died"
            assert not is_running(wedged)
            assert pool.heard.named("child.wedged")[0]["child"] == wedged
            assert pool.pool.survivors() == []

    asyncio.run(check())


def test_orders_in_a_wedged_child_are_taken_back_and_run_elsewhere():
    async def check():
        async with a_pool("thread", 1, prompt=True) as pool:
            await pool.run("noop")
            culprit = pool.put("regex", timeout_s=20)
            await pool.running(culprit)
            behind = [make_order("echo", index) for index in range(10)]
            pool.pool.put(behind)

            # A busy machine may need the half second after which what waits goes back to the worker to start a child.
            assert [await pool.value(order) for order in behind] == list(range(10))
            assert culprit not in pool.heard.ended

    asyncio.run(check())


def test_a_child_that_was_only_stopped_for_a_while_drains_and_is_closed():
    async def check():
        async with a_pool("thread", 2, prompt=True) as pool:
            number = pool.put("polite", 1.5)
            child = (await pool.running(number)).child

            os.kill(child, signal.SIGSTOP)
            await await_until(lambda: pool.heard.named("child.wedged"), description="it is found wedged")
            os.kill(child, signal.SIGCONT)

            assert value_of(await pool.ending(number)) == "done"
            await await_until(lambda: not is_running(child), description="it is closed")
            assert value_of(await pool.run("who"))["pid"] != child
            assert pool.heard.named("child.killed") == []

    asyncio.run(check())


def test_when_a_thread_child_dies_everybody_in_it_is_suspect_and_nobody_is_blamed_alone():
    async def check():
        async with a_pool("thread", 3) as pool:
            neighbours = [pool.put("nap", 3600) for _ in range(2)]
            for number in neighbours:
                await pool.running(number)

            ending = await pool.run("die", int(signal.SIGKILL))

            assert (ending.kind, ending.exact, ending.detail) == ("child_died", False, "signal 9")
            for number in neighbours:
                ending = await pool.ending(number)
                assert (ending.kind, ending.exact) == ("child_died", False)
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_a_suspect_runs_beside_the_thread_child_in_one_of_its_own():
    async def check():
        async with a_pool("thread", 3) as pool:
            neighbour = pool.put("nap", 1)
            child = (await pool.running(neighbour)).child

            ending = await pool.run("die", int(signal.SIGKILL), alone=True)
            quiet = value_of(await pool.run("who", alone=True))

            assert (ending.kind, ending.exact) == ("child_died", True)
            assert quiet["pid"] != child
            assert quiet["thread"] == "MainThread"
            assert value_of(await pool.ending(neighbour)) == "rested"
            await await_until(lambda: not is_running(quiet["pid"]), description="its child is closed after it")
            assert pool.pool.free == 3

    asyncio.run(check())


def test_a_suspect_that_is_asked_before_it_starts_leaves_no_child_behind():
    async def check():
        async with a_pool("thread", 2) as pool:
            number = pool.put("noop", alone=True)

            pool.pool.ask(number, "stop")

            await await_until(lambda: number in pool.heard.ended, description="its end to be told")
            assert pool.heard.ended[number].kind == "unstarted"
            await await_until(lambda: len(pool.pool.nursery.kids) == 1, description="only the thread child is left")

    asyncio.run(check())


def test_a_suspect_that_will_not_end_is_killed_because_it_is_alone():
    async def check():
        async with a_pool("thread", 2) as pool:
            ending = await pool.run("nap", 3600, timeout_s=0.1, grace_s=0.1, alone=True)

            assert ending.kind == "killed"
            assert pool.pool.survivors() == []

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_coroutine_runs_in_its_slot_and_is_cancelled_when_asked(kind):
    async def check():
        async with a_pool(kind, 2) as pool:
            assert value_of(await pool.run("gather", 7)) == 21
            number = pool.put("wait_for_ever")
            await pool.running(number)
            asked_at = time.monotonic()

            pool.pool.ask(number, "stop")

            ending = await pool.ending(number)
            assert (ending.kind, ending.asked) == ("thrown", "stop")
            assert error_of(ending).kind == "asyncio.exceptions.CancelledError"
            assert time.monotonic() - asked_at < 1

    asyncio.run(check())


def test_recall_and_ask_reach_what_waits_in_a_thread_child():
    async def check():
        async with a_pool("thread", 2) as pool:
            await pool.run("noop")
            running = [pool.put("nap", 0.5) for _ in range(2)]
            for number in running:
                await pool.running(number)
            waiting = [pool.put("noop") for _ in range(50)]

            assert pool.pool.ask(waiting[7], "stop")
            recalled = pool.pool.recall()

            assert pool.heard.ended[waiting[7]].kind == "unstarted"
            assert recalled == waiting[:7] + waiting[8:]
            for number in running:
                assert value_of(await pool.ending(number)) == "rested"

    asyncio.run(check())


def test_a_child_is_replaced_after_its_share_of_orders():
    async def check():
        async with a_pool("thread", 2, max_tasks_per_child=4) as pool:
            numbers = [pool.put("who") for _ in range(12)]

            pids = {value_of(await pool.ending(number))["pid"] for number in numbers}

            assert len(pids) == 3

    asyncio.run(check())


def test_an_outcome_that_did_not_get_out_is_no_order_that_never_began(tmp_path):
    """It waits behind another one, which fills the pipe; then its child is killed. It ran: it is not unstarted."""
    path = tmp_path / "ran"

    async def check():
        async with a_pool("thread", 2) as pool:
            child = value_of(await pool.run("who"))["pid"]
            (kid,) = pool.pool.nursery.kids
            # Else its thread might be about to send what comes next, too, and the second one would have no slot.
            await await_until(lambda: not any(kid.page.numbers()), description="its slot to be let go")
            first = pool.put("make", 1_000_000)
            # From here on nothing is read: this loop stands still.
            full = frames.PIPE - mmap.PAGESIZE  # its head may have a page to itself
            wait_until(lambda: in_pipe(kid._out) > full, description="the first outcome to fill the pipe")
            second = pool.put("nap", 0, str(path))
            wait_until(path.exists, description="the second one to run")
            with pytest.raises(AssertionError, match="its slot to be let go"):
                wait_until(lambda: kid.slot_of(second) is None, timeout=0.2, description="its slot to be let go")
            os.kill(child, signal.SIGKILL)

            assert (await pool.ending(second)).kind == "child_died"
            assert (await pool.ending(first)).kind == "child_died"

    asyncio.run(check())


def in_pipe(fd):
    """How many bytes wait in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_closing_ends_survivors_too():
    async def check():
        async with a_pool("thread", 2) as pool:
            number = pool.put("nap", 3600, timeout_s=0.05, grace_s=0.05)
            child = (await pool.running(number)).child
            await pool.ending(number)

            await pool.pool.close(kill_after_s=5)

            assert not is_running(child)
            assert pool.pool.survivors() == []

    asyncio.run(check())
