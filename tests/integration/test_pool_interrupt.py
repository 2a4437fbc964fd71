"""`interrupt=True`: what is raised where, in real process slots; and whom a signal must not hit."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from qworker.pool import linux
from support.pools import a_pool, error_of, value_of
from support.waiting import await_until

TARGET = "intask_tasks:app"


def lines(path):
    return path.read_text().split("\n")[:-1] if path.exists() else []


async def started(pool, name, path, *args, **options):
    number = pool.put(f"intask_tasks.{name}", str(path), *args, interrupt=True, **options)
    await await_until(lambda: lines(path), description="the task runs")
    return number


@pytest.mark.parametrize("name", ["spin", "sleep", "print_for_ever"])
def test_code_that_never_looks_is_interrupted_at_once_and_its_child_lives_on(name, tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            number = await started(pool, name, tmp_path / "notes")
            child = (await pool.running(number)).child
            asked_at = time.monotonic()

            pool.pool.ask(number, "stop")
            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("thrown", "stop")
            assert error_of(ending).kind == "qworker.errors.TaskInterrupt"
            assert time.monotonic() - asked_at < 3  # long before the end of its grace
            again = await started(pool, "sleep", tmp_path / "again")
            assert (await pool.running(again)).child == child

    asyncio.run(check())


def test_it_comes_at_the_limit_as_well(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            number = await started(pool, "spin", tmp_path / "notes", timeout_s=0.2)

            ending = await pool.ending(number)

            assert (ending.kind, ending.asked) == ("thrown", "timeout")

    asyncio.run(check())


def test_cleanup_runs_to_its_end_and_is_not_interrupted_once_more(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "nested", path)
            child = (await pool.running(number)).child

            pool.pool.ask(number, "stop")
            for _ in range(5):
                await asyncio.sleep(0.02)
                os.kill(child, linux.INTERRUPT_SIGNAL)

            assert (await pool.ending(number)).kind == "thrown"
            assert lines(path) == ["in", "inner", "outer"]

    asyncio.run(check())


def test_a_shield_puts_it_off(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "shielded_spin", path, 0.4)

            pool.pool.ask(number, "stop")

            assert (await pool.ending(number)).kind in ("interrupted", "thrown")
            assert lines(path) == ["in", "done"]

    asyncio.run(check())


def test_a_finalizer_which_would_lose_it_is_let_end_first(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = await started(pool, "in_finalizer", path)

            pool.pool.ask(number, "stop")

            assert (await pool.ending(number)).kind == "thrown"
            assert lines(path) == ["in", "finalized"]

    asyncio.run(check())


def test_the_child_keeps_nothing_of_what_an_interrupted_task_held(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            number = await started(pool, "shrug_with_a_burden", tmp_path / "notes")
            child = (await pool.running(number)).child

            pool.pool.ask(number, "stop")

            assert (await pool.ending(number)).kind == "returned"
            assert value_of(await pool.run("intask_tasks.burdens")) == 0
            assert pool.pool.nursery.kids[0].pid == child

    asyncio.run(check())


def test_a_signal_without_an_ask_or_for_another_attempt_does_nothing(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            first = await started(pool, "spin", tmp_path / "first")
            child = (await pool.running(first)).child
            pool.pool.ask(first, "stop")
            assert (await pool.ending(first)).kind == "thrown"

            gate = tmp_path / "gate"
            second = pool.put("intask_tasks.wait_for_file", str(gate), interrupt=True)
            assert (await pool.running(second)).child == child
            for _ in range(20):
                os.kill(child, linux.INTERRUPT_SIGNAL)
                await asyncio.sleep(0.002)
            gate.touch()

            assert value_of(await pool.ending(second)) == "found"

    asyncio.run(check())


def test_who_did_not_ask_for_it_is_not_interrupted(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            path = tmp_path / "notes"
            number = pool.put("intask_tasks.spin", str(path), grace_s=0.1)
            await await_until(lambda: lines(path), description="the task runs")

            pool.pool.ask(number, "stop")

            assert (await pool.ending(number)).kind == "killed"

    asyncio.run(check())


def test_asked_in_any_moment_from_its_put_to_its_end_it_ends_once_and_the_slot_stays_sound(tmp_path):
    async def check():
        async with a_pool("process", 1, target=TARGET) as pool:
            kinds = set()
            for step in range(60):
                number = pool.put("intask_tasks.noop", interrupt=True)
                await asyncio.sleep(step % 12 * 0.0003)
                pool.pool.ask(number, "stop")
                kinds.add((await pool.ending(number)).kind)

            assert kinds <= {"unstarted", "returned", "thrown", "interrupted"}
            assert pool.heard.named("child.died") == []

    asyncio.run(check())
