"""Async slots: many coroutines on one loop; asyncio's cancellation asks them, and the ladder ends what ignores it."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qworker import clock
from qworker.config import Slots
from qworker.pool import frames, patrol
from support.pools import a_pool, error_of, make_order, value_of
from support.processes import is_running
from support.waiting import await_until


@asynccontextmanager
async def loops(slots, children=1, **options):
    """An async pool with the tasks of `apps/async_tasks.py`; each `put` and `run` names one of them."""
    async with a_pool("async", Slots(slots, children), target="async_tasks:app", **options) as pool:
        put = pool.put
        pool.put = lambda name, *args, **given: put(f"async_tasks.{name}", *args, **given)
        yield pool


async def all_running(pool, numbers):
    """Wait until pages show all these orders to run; returns them by number."""

    def look():
        shown = {task.number: task for task in pool.pool.running()}
        return shown if set(numbers) <= shown.keys() else None

    return await await_until(look, timeout=20, description=f"{len(numbers)} orders run")


async def said(pool, text):
    """Wait until a task has printed it: a page shows that it runs before its first line does."""
    await await_until(lambda: any(line[2] == text for line in pool.heard.lines), description=text)


def test_all_coroutines_of_a_child_sleep_at_once():
    async def check():
        async with loops(200) as pool:
            begun = time.monotonic()
            numbers = [pool.put("nap", 1.0) for _ in range(200)]

            shown = await all_running(pool, numbers)
            pids = {value_of(await pool.ending(number)) for number in numbers}

            assert time.monotonic() - begun < 4
            assert len(pids) == 1
            assert {task.slot for task in shown.values()} == set(range(200))
            assert pool.pool.free == pool.pool.capacity == 200

    asyncio.run(check())


def test_the_slots_are_shared_evenly_among_the_children():
    async def check():
        async with loops(9, children=2) as pool:
            numbers = [pool.put("wait_for_ever") for _ in range(9)]

            shown = await all_running(pool, numbers)

            children = [task.child for task in shown.values()]
            assert sorted(children.count(child) for child in set(children)) == [4, 5]

    asyncio.run(check())


@pytest.mark.parametrize("trial", range(2))
def test_thousands_of_short_coroutines_end_exactly_once(trial):
    async def check():
        async with loops(50, children=2) as pool:
            numbers = [pool.put("echo", index) for index in range(3000)]

            assert [value_of(await pool.ending(number)) for number in numbers] == list(range(3000))

    asyncio.run(check())


def test_current_is_each_tasks_own_in_its_helper_tasks_and_threads_too():
    async def check():
        async with loops(20) as pool:
            numbers = [pool.put("who", 0.05) for _ in range(20)]

            for number in numbers:
                assert value_of(await pool.ending(number)) == [f"default:task-{number}"] * 4
                assert (number, "stdout", "told", None) in pool.heard.lines

    asyncio.run(check())


def test_an_asked_coroutine_is_cancelled_at_once_with_the_reason_and_its_siblings_are_not():
    async def check():
        async with loops(3) as pool:
            sibling, asked = pool.put("wait_for_ever"), pool.put("wait_for_ever")
            await all_running(pool, [sibling, asked])

            pool.pool.ask(asked, "stop")

            ending = await pool.ending(asked)
            assert (ending.kind, ending.asked, error_of(ending).text) == ("thrown", "stop", "stop")
            assert ending.took_s < 0.5
            assert [task.number for task in pool.pool.running()] == [sibling]
            assert pool.pool.free == 2

    asyncio.run(check())


def test_a_timeout_asks_and_a_value_that_still_comes_is_the_tasks_value():
    async def check():
        async with loops(2) as pool:
            ending = await pool.run("takes_its_time", 0.05, timeout_s=0.1)

            assert (value_of(ending), ending.asked) == ("timeout", "timeout")

    asyncio.run(check())


def test_what_the_tasks_own_check_raises_counts_as_noticed():
    async def check():
        async with loops(2) as pool:
            for _ in range(20):
                number = pool.put("polls")
                await pool.running(number)
                # Only the flag in the page: the word to the loop stays away, as if it were on its way.
                (kid,) = pool.pool.nursery.kids
                kid.page.raise_flag(kid.slot_of(number), number, "stop")
                ending = await pool.ending(number)
                if ending.kind != "thrown":  # as it is when the task has not begun, or the loop looked first
                    break

            assert (ending.kind, error_of(ending).text) == ("interrupted", "stop")

    asyncio.run(check())


def test_the_cancellation_waits_for_a_shield(tmp_path):
    async def check():
        async with loops(2) as pool:
            number = pool.put("shielded", 0.3)
            slot = (await pool.running(number)).slot
            (kid,) = pool.pool.nursery.kids
            await await_until(lambda: kid.page.shielded_until(slot, number), description="it is under its shield")

            pool.pool.ask(number, "stop", 0.0)

            ending = await pool.ending(number)
            assert (ending.kind, error_of(ending).text) == ("thrown", "stop")
            assert any(line[2] == "the shield is left" for line in pool.heard.lines)

    asyncio.run(check())


def test_a_stop_without_grace_is_told_as_the_end_that_the_cancellation_brings(monkeypatch):
    monkeypatch.setattr(patrol, "_THROWN_S", 10.0)  # a busy machine needs more than the usual moment

    async def check():
        async with loops(2) as pool:
            number = pool.put("wait_for_ever")
            await pool.running(number)

            pool.pool.ask(number, "stop", 0.0)

            assert (await pool.ending(number)).kind == "thrown"
            assert not pool.heard.named("survivor.appeared")

    asyncio.run(check())


def test_a_word_about_an_attempt_that_is_gone_or_was_not_asked_hits_nobody():
    async def check():
        async with loops(2) as pool:
            number = pool.put("nap", 0.2)
            await pool.running(number)
            (kid,) = pool.pool.nursery.kids

            for other in (number, 0, 2**40):
                kid._post(frames.pack_frame(frames.FLAG, other))

            assert (await pool.ending(number)).kind == "returned"
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_one_that_was_asked_before_it_began_is_not_cancelled_in_its_shield():
    async def check():
        async with loops(1) as pool:
            order = make_order("async_tasks.begins_with_a_shield")
            (kid,) = pool.pool.nursery.kids
            kid.page.raise_flag(0, order.number, "stop")

            pool.pool.put([order])

            assert (await pool.ending(order.number)).kind == "thrown"
            assert not pool.heard.lines, "its code did not begin"

    asyncio.run(check())


def test_a_word_that_comes_once_more_does_not_cancel_the_cleanup():
    async def check():
        async with loops(2) as pool:
            number = pool.put("takes_its_time", 0.2)
            await said(pool, "began")
            (kid,) = pool.pool.nursery.kids
            pool.pool.ask(number, "stop")

            # As for one that began with its flag raised: it had its cancellation at once, and then the word of it.
            while number not in pool.heard.ended:
                kid._post(frames.pack_frame(frames.FLAG, number))
                await asyncio.sleep(0.02)

            assert value_of(pool.heard.ended[number]) == "stop"

    asyncio.run(check())


def test_asks_that_race_with_starts_end_each_order_exactly_once():
    async def check():
        async with loops(40, children=2) as pool:
            for _ in range(15):
                numbers = [pool.put("wait_for_ever") for _ in range(40)]
                await asyncio.sleep(0)
                for number in numbers:
                    pool.pool.ask(number, "stop")
                    if number % 8 == 0:
                        await asyncio.sleep(0.0005)
                kinds = {(await pool.ending(number)).kind for number in numbers}

                assert kinds <= {"unstarted", "thrown"}
            assert pool.pool.free == 40
            assert not pool.heard.named("child.died")

    asyncio.run(check())


def test_a_coroutine_that_swallows_its_cancellation_is_a_survivor_and_its_slot_is_replaced(tmp_path):
    async def check():
        async with loops(2) as pool:
            gate = tmp_path / "gate"
            stuck = pool.put("deaf", str(gate), timeout_s=0.1, grace_s=0.2)

            ending = await pool.ending(stuck)

            assert (ending.kind, ending.asked) == ("left_running", "timeout")
            (survivor,) = pool.pool.survivors()
            assert pool.pool.free == 2
            numbers = [pool.put("wait_for_ever") for _ in range(2)]
            shown = await all_running(pool, numbers)
            assert {task.child for task in shown.values()} == {survivor.child}
            assert survivor.slot not in {task.slot for task in shown.values()}

            gate.touch()

            await await_until(lambda: not pool.pool.survivors(), description="the survivor is gone")
            assert len(pool.heard.ended) == 1

    asyncio.run(check())


def test_at_the_most_survivors_the_child_is_recycled_and_healthy_siblings_finish(tmp_path):
    async def check():
        async with loops(3, max_survivors=2) as pool:
            sibling = pool.put("nap", 1.5)
            old = (await pool.running(sibling)).child
            stuck = [pool.put("deaf", str(tmp_path / "never"), timeout_s=0.1, grace_s=0.1) for _ in range(2)]
            for number in stuck:
                assert (await pool.ending(number)).kind == "left_running"

            assert value_of(await pool.run("nap", 0)) != old
            assert value_of(await pool.ending(sibling)) == old
            await await_until(lambda: not is_running(old), description="the old child is gone")
            await await_until(lambda: not pool.pool.survivors(), description="and its survivors")

    asyncio.run(check())


def test_a_child_whose_loop_is_blocked_is_replaced_within_a_second_and_killed_when_the_grace_ends():
    async def check():
        async with loops(3, prompt=True) as pool:
            sibling = pool.put("wait_for_ever")
            await pool.running(sibling)
            begun = time.monotonic()
            culprit = pool.put("block", 3600, timeout_s=1.5, grace_s=0.3)
            wedged = (await pool.running(culprit)).child

            fresh = value_of(await pool.run("nap", 0))

            assert fresh != wedged
            assert time.monotonic() - begun < 1.5
            assert pool.heard.named("child.wedged")[0]["child"] == wedged
            ending = await pool.ending(culprit)
            assert (ending.kind, ending.asked) == ("killed", "timeout")
            assert (await pool.ending(sibling)).kind == "host_died"  # nobody's fault: it goes back uncharged

    asyncio.run(check())


def test_a_plain_function_runs_in_a_thread_and_the_loop_goes_on(tmp_path):
    async def check():
        async with loops(4) as pool:
            slow = [pool.put("plain", 0.6) for _ in range(2)]
            await all_running(pool, slow)

            assert value_of(await pool.run("nap", 0.05))
            assert not pool.heard.ended.keys() & set(slow)

            for number in slow:
                assert value_of(await pool.ending(number)).startswith("qworker-slot")
            stuck = await pool.run("plain_deaf", str(tmp_path / "gate"), timeout_s=0.1, grace_s=0.1)
            assert stuck.kind == "left_running"
            (tmp_path / "gate").touch()
            await await_until(lambda: not pool.pool.survivors(), description="the survivor is gone")
            assert pool.pool.free == 4

    asyncio.run(check())


def test_what_a_task_started_and_did_not_await_has_ended_before_its_outcome_is_told(tmp_path):
    async def check():
        async with loops(2) as pool:
            path = tmp_path / "helper"

            assert (await pool.run("leave_helper", str(path))).kind == "returned"

            assert path.read_text() == "its task has ended"

    asyncio.run(check())


def test_what_has_a_context_of_its_own_outlives_the_task_that_started_it(tmp_path):
    async def check():
        async with loops(2) as pool:
            path = tmp_path / "daemon"
            assert (await pool.run("leave_daemon", str(path))).kind == "returned"

            await await_until(path.exists, description="the daemon's word")

    asyncio.run(check())


def test_a_task_whose_thread_runs_on_is_not_told_to_have_ended(tmp_path):
    async def check():
        async with loops(2) as pool:
            gate = tmp_path / "gate"
            number = pool.put("call_in_thread", str(gate))
            await said(pool, "began")

            pool.pool.ask(number, "stop", 0.2)

            assert (await pool.ending(number)).kind == "left_running"
            gate.touch()
            await await_until(lambda: not pool.pool.survivors(), description="the survivor is gone")

    asyncio.run(check())


def test_an_exit_in_a_helper_task_and_a_stopped_loop_harm_no_sibling():
    async def check():
        async with loops(3) as pool:
            sibling = pool.put("nap", 0.5)
            child = (await pool.running(sibling)).child

            assert error_of(await pool.run("exit_in_helper")).kind == "builtins.SystemExit"
            assert value_of(await pool.run("stop_loop")) == "stopped"

            assert value_of(await pool.ending(sibling)) == child

    asyncio.run(check())


def test_a_task_that_cancels_all_that_it_finds_costs_no_order_its_outcome():
    async def check():
        async with loops(20) as pool:
            numbers = []
            for _ in range(20):
                pool.put("cancels_everything", 20)
                numbers += [pool.put("nap", 0) for _ in range(10)]

            endings = [await pool.ending(number) for number in numbers]

            # Cancelled in the middle or never: that one runs another time.
            assert {ending.kind for ending in endings} <= {"returned", "raised"}
            assert not pool.pool.entries.keys() & set(numbers)
            assert pool.pool.capacity == 20

    asyncio.run(check())


def test_an_awaitable_that_fails_when_it_is_looked_at_or_cancelled_costs_its_own_task_only():
    async def check():
        async with loops(2) as pool:
            sibling = pool.put("wait_for_ever")
            await pool.running(sibling)

            ending = await pool.run("strange", timeout_s=0.1, grace_s=0.2)

            assert ending.kind == "left_running", "its cancellation went astray"
            assert not pool.heard.named("child.died")
            pool.pool.ask(sibling, "stop")
            assert (await pool.ending(sibling)).kind == "thrown"

    asyncio.run(check())


def test_a_closer_that_hangs_does_not_stop_the_loop_of_the_task_that_ends(tmp_path):
    async def check():
        async with loops(2) as pool:
            number = pool.put("guards_in_a_thread", str(tmp_path / "closing"))
            await await_until(lambda: (tmp_path / "closing.guarded").exists(), description="the guard")

            pool.pool.ask(number, "stop")

            assert (await pool.ending(number)).took_s < 1.2
            assert not pool.heard.named("child.wedged")

    asyncio.run(check())


def test_a_copy_that_a_coroutine_forks_does_not_go_on_with_its_siblings():
    async def check():
        async with loops(3) as pool:
            sibling = pool.put("nap", 0.5)
            await pool.running(sibling)

            assert value_of(await pool.run("fork_and_wait")) == 0

            assert (await pool.ending(sibling)).kind == "returned"
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_reads_that_fail_and_leave_no_reason_as_after_a_look_from_outside_cost_no_order():
    async def check():
        async with loops(4) as pool:
            value_of(await pool.run("stumble"))
            numbers = [pool.put("echo", index) for index in range(3000)]

            assert [value_of(await pool.ending(number)) for number in numbers] == list(range(3000))
            assert not pool.heard.named("child.died")
            assert value_of(await pool.run("stumbled")) > 10

    asyncio.run(check())


def test_nothing_starts_after_the_instant_that_the_page_holds():
    async def check():
        async with loops(2) as pool:
            assert value_of(await pool.run("echo", 1)) == 1
            pool.pool.allow_until(clock.now_ns() - 1)
            number = pool.put("echo", 2)
            (kid,) = pool.pool.nursery.kids
            kid.give([pool.pool.line.clear()[0]], time.monotonic())
            await asyncio.sleep(0.1)
            assert number not in pool.heard.ended

            pool.pool.allow_until(clock.now_ns() + 10**12)

            assert value_of(await pool.ending(number)) == 2

    asyncio.run(check())


def test_a_suspect_gets_a_child_of_its_own():
    async def check():
        async with loops(2) as pool:
            ordinary = value_of(await pool.run("nap", 0))

            assert value_of(await pool.run("nap", 0, alone=True)) != ordinary

    asyncio.run(check())


def test_two_thousand_sleeping_tasks_cost_a_few_kilobytes_each():
    async def check():
        async with loops(2000) as pool:
            child = value_of(await pool.run("nap", 0))
            before = _rss_kib(child)

            numbers = [pool.put("wait_for_ever") for _ in range(2000)]
            await all_running(pool, numbers)

            assert (_rss_kib(child) - before) / 2000 < 8

    asyncio.run(check())


def _rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
