"""`current.guard` in real slots: whatever a task is blocked in, it wakes when the task is asked to end."""

from __future__ import annotations

import asyncio
import time

import pytest

from support.pools import a_pool, error_of, value_of
from support.processes import is_running
from support.waiting import await_until

TARGET = "intask_tasks:app"


def lines(path):
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def started(pool, name, path, **options):
    number = pool.put(f"intask_tasks.{name}", str(path), **options)
    await await_until(lambda: lines(path), description="the task is in its block")
    return number


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_who_is_blocked_in_recv_wakes_within_50_ms(kind, tmp_path):
    async def check():
        async with a_pool(kind, 2, target=TARGET) as pool:
            took_ms = []
            for step in range(5):  # the best of five: the machine may be busy
                path = tmp_path / str(step)
                number = await started(pool, "receive", path)
                asked_at = time.monotonic()
                pool.pool.ask(number, "stop")
                ending = await pool.ending(number)

                # It read the end of the stream, which is no end: leaving the block says so.
                assert (ending.kind, ending.asked) == ("interrupted", "stop")
                took_ms.append((float(lines(path)[1].removeprefix("woke ")) - asked_at) * 1000)
            assert min(took_ms) < 50, took_ms

    asyncio.run(check())


def test_a_guard_without_a_block_lasts_as_long_as_the_task(tmp_path):
    async def check():
        async with a_pool("thread", 1, target=TARGET) as pool:
            number = await started(pool, "receive_to_the_end", tmp_path / "notes")

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("raised", "stop")
            assert error_of(ending).kind == "builtins.ConnectionError"

    asyncio.run(check())


def test_a_process_is_ended_with_its_whole_group(tmp_path):
    async def check():
        async with a_pool("thread", 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "wait_for_a_family", path)
            family = [int(pid) for pid in lines(path)[0].split()]

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("interrupted", "stop")
            await await_until(lambda: not any(map(is_running, family)), description="the family is gone")

    asyncio.run(check())


def test_a_long_query_is_interrupted(tmp_path):
    async def check():
        async with a_pool("thread", 1, target=TARGET) as pool:
            number = await started(pool, "query", tmp_path / "notes", timeout_s=0.3)

            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("raised", "timeout")
            assert error_of(ending).text == "interrupted"

    asyncio.run(check())


def test_closers_that_fail_are_logged_and_the_others_run(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            number = await started(pool, "guarded_badly", tmp_path / "notes")

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert ending.kind == "interrupted"
            said = [text for owner, stream, text, _ in pool.heard.lines if (owner, stream) == (number, "log")]
            assert "current.guard: closing a function failed: OSError: no such luck" in said
            assert any("SystemExit" in text for text in said)
            assert pool.heard.named("child.died") == []

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "async"])
def test_in_a_coroutine_its_loop_closes_what_it_guards(kind, tmp_path):
    async def check():
        async with a_pool(kind, 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "guarded_coroutine", path)

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert ending.asked == "stop"
            assert error_of(ending).kind == "asyncio.exceptions.CancelledError"
            assert lines(path) == ["in", "closed in True"]

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
@pytest.mark.parametrize("name", ["guard_and_leave", "guard_and_leave_coroutine"])
def test_the_end_of_a_task_ends_its_guards(kind, name):
    async def check():
        async with a_pool(kind, 1, target=TARGET) as pool:
            assert value_of(await pool.run(f"intask_tasks.{name}")) == 1

            assert value_of(await pool.run("intask_tasks.count_guards")) == 0

    asyncio.run(check())


def test_a_loop_does_not_stand_still_while_a_process_is_ended(tmp_path):
    async def check():
        async with a_pool("async", 2, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "wait_for_a_stubborn_process", path)

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("thrown", "stop")
            await await_until(lambda: not is_running(int(lines(path)[0])), description="the process is gone")
            assert pool.heard.named("child.wedged") == []

    asyncio.run(check())
