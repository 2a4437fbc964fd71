"""What does not end by itself is ended: on time, whole, and with nobody else harmed ("Shown by 3", process slots).

Bounds are generous, because the machine may be busy with other tests; the figures themselves are in docs and reports.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from support.pools import a_pool, value_of
from support.processes import is_running
from support.waiting import await_until


@pytest.mark.parametrize("name", ["nap", "busy_loop", "regex", "stubborn"])
def test_a_task_that_does_not_end_is_asked_at_its_limit_and_killed_at_the_end_of_its_grace(name, tmp_path):
    async def check():
        async with a_pool("process", 2) as pool:
            args = {"nap": (3600,), "stubborn": (str(tmp_path / "pid"),)}.get(name, ())
            sibling = pool.put("nap", 3)
            calm = (await pool.running(sibling)).child
            stuck = pool.put(name, *args, timeout_s=1, grace_s=1)
            child = (await pool.running(stuck)).child
            after = pool.put("started_at")  # no slot is free: it waits for the one that the kill frees

            ending = await pool.ending(stuck)
            told_at = time.monotonic_ns()

            assert (ending.kind, ending.asked) == ("killed", "timeout")
            assert ending.asked_after_s == pytest.approx(1, abs=0.25)
            assert ending.took_s == pytest.approx(1, abs=0.25)
            assert not is_running(child)
            if name == "stubborn":
                assert not is_running(int((tmp_path / "pid").read_text()))
            if after in pool.heard.ended and pool.heard.ended[after].kind == "unstarted":
                after = pool.put("started_at")  # it had gone back to the worker, after half a second
            assert value_of(await pool.ending(after)) - told_at < 0.5e9
            assert value_of(await pool.ending(sibling)) == "rested"
            assert value_of(await pool.run("who"))["pid"] != child
            assert calm != child

    asyncio.run(check())


def test_the_next_task_of_a_slot_runs_soon_after_the_kill_time_and_again():
    async def check():
        async with a_pool("process", 1) as pool:
            gaps_ms = []
            for _ in range(25):
                stuck = pool.put("nap", 3600, timeout_s=0.03, grace_s=0.03)
                after = pool.put("started_at")
                ending = await pool.ending(stuck)
                started_s = value_of(await pool.ending(after)) / 1e9
                # Forced at the end of grace: took_s is from the ask to the end of the process.
                gaps_ms.append((started_s - pool.heard.ended_at[stuck]) * 1000)
                assert ending.kind == "killed"

            gaps_ms.sort()
            assert gaps_ms[len(gaps_ms) // 2] < 100, gaps_ms
            assert len(pool.heard.named("child.killed")) == 25

    asyncio.run(check())


def test_orders_behind_a_killed_task_all_run():
    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("echo", 0)
            stuck = pool.put("nap", 3600, timeout_s=0.05, grace_s=0.05)
            behind = [pool.put("echo", index) for index in range(200)]

            assert (await pool.ending(stuck)).kind == "killed"
            assert [value_of(await pool.ending(number)) for number in behind] == list(range(200))

    asyncio.run(check())


def test_a_stop_with_no_grace_kills_at_once_and_shortens_a_longer_one():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 3600, grace_s=60)
            await pool.running(number)
            pool.pool.ask(number, "drain")
            asked_at = time.monotonic()

            pool.pool.ask(number, "stop", 0)

            ending = await pool.ending(number, timeout=2)
            assert (ending.kind, ending.asked) == ("killed", "stop")
            assert time.monotonic() - asked_at < 1

    asyncio.run(check())


def test_a_task_that_ends_in_the_moment_of_its_kill_keeps_its_outcome_or_is_killed_but_never_both():
    async def check():
        async with a_pool("process", 2) as pool:
            kinds = []
            for step in range(60):
                # The nap ends within a few milliseconds around the end of grace, on either side.
                number = pool.put("nap", 0.040 + step % 10 * 0.001, timeout_s=0.02, grace_s=0.02)
                kinds.append((await pool.ending(number)).kind)
                assert (await pool.run("echo", step)).kind == "returned"

            assert set(kinds) <= {"returned", "killed"}
            assert len(pool.heard.named("child.killed")) >= kinds.count("killed")

    asyncio.run(check())


def test_what_a_dead_child_left_in_other_sessions_is_gone_before_its_end_is_told(tmp_path):
    async def check():
        async with a_pool("process", 1) as pool:
            path = tmp_path / "pid"
            number = pool.put("stubborn", str(path))
            child = (await pool.running(number)).child
            grandchild = int(await await_until(lambda: _text(path), description="the grandchild's pid"))

            Path(f"/proc/{child}/oom_score_adj").read_text()
            pool.pool.ask(number, "stop", 0)

            ending = await pool.ending(number)
            assert ending.kind == "killed"
            assert not is_running(grandchild)
            assert not is_running(child)

    asyncio.run(check())


def _text(path):
    return path.read_text() if path.exists() else ""
