"""Process slots, with real children and no Redis: what an order can come to, and that each comes to exactly one end."""

from __future__ import annotations

import asyncio
import decimal
import gc
import os
import signal
import time
import weakref

import pytest

from qworker import Progress, clock, codec
from support.pools import a_pool, error_of, make_order, value_of
from support.processes import is_running
from support.suspend import suspend
from support.waiting import await_until


def test_a_value_comes_back_with_its_run_time():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("echo", {"a": [1, (2, 3)]})

            assert value_of(ending) == {"a": [1, (2, 3)]}
            assert ending.ran_s is not None
            assert 0 <= ending.ran_s < 1
            assert ending.asked is None

    asyncio.run(check())


def test_a_child_leads_its_own_session_has_run_its_hooks_and_knows_no_redis():
    async def check():
        async with a_pool("process", 2) as pool:
            facts = value_of(await pool.run("who"))

            assert facts["sid"] == facts["pid"]
            assert facts["hooks"] == [facts["pid"]]
            assert facts["redis"] is False
            assert (facts["name"], facts["attempt"], facts["fence"]) == ("pool_tasks.who", 1, 7)
            assert len(pool.heard.named("child.started")) == 2

    asyncio.run(check())


@pytest.mark.parametrize(
    ("name", "args", "kind", "error"),
    [
        ("fail", ("no such luck",), "raised", "builtins.ValueError"),
        ("leave", (), "raised", "builtins.SystemExit"),
        ("again", (), "retry", "qworker.errors.Retry"),
        ("unsendable", (), "refused", "qworker.errors.ValueNotSent"),
        ("make", (2 * 1024 * 1024,), "refused", "qworker.errors.ValueNotSent"),
        ("echo", (1, 2, 3), "raised", "builtins.TypeError"),
    ],
)
def test_what_goes_wrong_in_a_task_is_told_and_its_child_lives_on(name, args, kind, error):
    async def check():
        async with a_pool("process", 1) as pool:
            before = value_of(await pool.run("who"))["pid"]

            ending = await pool.run(name, *args)

            assert ending.kind == kind
            assert error_of(ending).kind == error
            assert value_of(await pool.run("who"))["pid"] == before
            if kind == "retry":
                assert ending.delay_s == 1.5

    asyncio.run(check())


def test_a_value_that_cannot_be_sent_is_refused_with_the_task_and_the_path():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("unsendable")

            assert "pool_tasks.unsendable returned a value that cannot be sent" in error_of(ending).text
            assert "['deep'][1]" in error_of(ending).text

    asyncio.run(check())


@pytest.mark.parametrize(("raised", "retryable"), [("key", True), ("value", False)])
def test_retry_for_is_judged_by_the_class_and_its_bases(raised, retryable):
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("fail_choosy", raised, retry_for=("builtins.LookupError",))

            assert ending.kind == "raised"
            assert ending.retryable is retryable

    asyncio.run(check())


@pytest.mark.parametrize("blob", [b"", b"\0" * 40, os.urandom(200)], ids=["empty", "zeros", "random"])
def test_a_body_that_cannot_be_decoded_is_refused_and_hurts_nobody(blob):
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("echo", blob=blob)

            assert ending.kind == "refused"
            assert error_of(ending).kind == "qworker.errors.DecodeError"
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_an_unknown_task_is_refused_by_name():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("nobody")

            assert ending.kind == "refused"
            assert "no task is called 'pool_tasks.nobody' here" in error_of(ending).text

    asyncio.run(check())


def test_bodies_and_results_of_a_mebibyte_flow_beside_small_ones():
    async def check():
        async with a_pool("process", 2) as pool:
            large = codec.MAX_BODY - 1000
            numbers = [pool.put("size_of", b"y" * large) for _ in range(6)]
            numbers += [pool.put("make", large) for _ in range(6)]
            numbers += [pool.put("echo", 1) for _ in range(50)]

            values = [value_of(await pool.ending(number)) for number in numbers]

            assert values[:6] == [large] * 6
            assert [len(value) for value in values[6:12]] == [large] * 6
            assert values[12:] == [1] * 50

    asyncio.run(check())


def test_thousands_of_orders_end_exactly_once_and_use_both_children():
    async def check():
        async with a_pool("process", 2) as pool:
            orders = [make_order("echo", index) for index in range(5000)]
            pids = [pool.put("who") for _ in range(20)]

            pool.pool.put(orders)

            assert [await pool.value(order) for order in orders] == list(range(5000))
            assert len({value_of(await pool.ending(number))["pid"] for number in pids}) == 2
            assert pool.pool.free == 2
            assert pool.pool.unstarted == 0

    asyncio.run(check())


def test_what_a_task_prints_and_logs_carries_its_number():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("talk", 2, "hello")

            await pool.ending(number)

            lines = [(stream, text) for n, stream, text, _ in pool.heard.lines if n == number]
            assert lines == [
                ("stdout", "hello"),
                ("stdout", "hello"),
                ("stderr", "to stderr"),
                ("log", "logged 7"),
                ("log", "with fields"),
                ("stdout", "no newline"),
            ]
            fields = [fields for _, stream, _, fields in pool.heard.lines if stream == "log"]
            assert fields[0] == {"level": "info", "logger": "mine"}
            assert fields[1] == {"level": "info", "logger": "qworker.task", "size": 3}

    asyncio.run(check())


def test_a_helper_thread_of_a_one_slot_child_prints_for_its_task():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("helper_prints")

            await pool.ending(number)

            assert (number, "stdout", "from a helper", None) in pool.heard.lines

    asyncio.run(check())


def test_endless_output_is_cut_and_counted_and_does_not_hold_up_the_outcome():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("talk", 20_000, "x" * 1000)

            ending = await pool.ending(number, timeout=20)

            assert value_of(ending) == 20_000
            told = sum(len(text) for _, _, text, _ in pool.heard.lines)
            assert 100_000 < told < 2_000_000
            assert any("characters of output dropped" in text for _, _, text, _ in pool.heard.lines)

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_what_a_task_sets_in_its_context_is_not_its_successors_in_the_slot(kind):
    async def check():
        async with a_pool(kind, 1) as pool:
            child = value_of(await pool.run("who"))["pid"]

            found = [value_of(await pool.run("set_precision", digits)) for digits in (5, 6, 7)]

            assert found == [decimal.DefaultContext.prec] * 3
            assert value_of(await pool.run("who"))["pid"] == child

    asyncio.run(check())


def test_a_copy_that_a_task_forks_of_its_child_tells_nothing():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("fork_and_return")

            assert value_of(ending) > 0
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


def test_a_process_that_a_start_hook_forks_tells_nothing():
    """What it prints would be read as a part of a large outcome: a wrong value, and nobody would know."""

    async def check():
        async with a_pool("process", 1, target="forking_hook:app") as pool:
            for _ in range(10):
                assert value_of(await pool.run("forking_hook.make", 900_000)) == b"x" * 900_000

    asyncio.run(check())


def test_a_child_that_writes_nonsense_to_its_stream_is_ended_as_crashed():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("scribble")

            assert ending.kind == "child_died"
            assert "something in it wrote to qworker's stream" in ending.detail
            assert value_of(await pool.run("echo", 1)) == 1

    asyncio.run(check())


@pytest.mark.parametrize(
    ("name", "argument", "detail"),
    [
        ("die", int(signal.SIGKILL), "signal 9"),
        ("die", int(signal.SIGSEGV), "signal 11"),
        ("exit_now", 7, "exit status 7"),
        ("exit_now", 0, "exit status 0"),
        ("hang_up", 0.1, "exit status 1"),
    ],
)
def test_a_child_that_dies_blames_its_task_and_nobody_behind_it(name, argument, detail):
    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            deadly = pool.put(name, argument)
            behind = [pool.put("echo", index) for index in range(20)]

            ending = await pool.ending(deadly)

            assert (ending.kind, ending.exact, ending.detail) == ("child_died", True, detail)
            assert [value_of(await pool.ending(number)) for number in behind] == list(range(20))

    asyncio.run(check())


def test_term_and_int_to_a_child_change_nothing():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 0.2)
            child = (await pool.running(number)).child

            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGINT)

            assert value_of(await pool.ending(number)) == "rested"
            assert value_of(await pool.run("who"))["pid"] == child

    asyncio.run(check())


def test_recall_brings_back_all_that_has_not_started_and_nothing_else():
    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            first = pool.put("nap", 0.3)
            await pool.running(first)
            behind = [pool.put("noop") for _ in range(300)]

            recalled = pool.pool.recall()

            assert recalled == behind
            assert pool.pool.unstarted == 0
            assert pool.pool.holds(first)
            assert not any(pool.pool.holds(number) for number in behind)
            assert value_of(await pool.ending(first)) == "rested"
            assert set(pool.heard.ended) & set(behind) == set()

    asyncio.run(check())


def test_an_unstarted_order_that_is_asked_to_end_never_runs_and_its_neighbours_do():
    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            running = pool.put("nap", 0.2)
            await pool.running(running)
            numbers = [pool.put("noop") for _ in range(10)]

            known = pool.pool.ask(numbers[4], "stop")

            assert known
            assert (pool.heard.ended[numbers[4]].kind, pool.heard.ended[numbers[4]].asked) == ("unstarted", "stop")
            for number in numbers[:4] + numbers[5:]:
                assert (await pool.ending(number)).kind == "returned"
            assert pool.pool.ask(numbers[4], "stop") is False

    asyncio.run(check())


def test_a_task_that_notices_the_ask_ends_by_itself_within_its_grace():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("polite", 30)
            seen = await pool.running(number)
            await await_until(
                lambda: pool.pool.running()[0].progress == (1.0, 4.0, "first quarter"), description="its progress"
            )

            told = ("progressed", number, 0)  # by the patrol, which may look a moment later than we did
            await await_until(lambda: told in pool.heard.told, description="the word of its progress")
            assert pool.pool.progress(number, 0) == Progress(1.0, 4.0, "first quarter")
            # Slots are told by children, and children run user code: any number may come.
            assert [pool.pool.progress(number, slot) for slot in (1, 2**40, -1)] == [None] * 3

            pool.pool.ask(number, "stop")

            ending = await pool.ending(number)
            assert ending.kind == "interrupted"
            assert ending.asked == "stop"
            assert ending.took_s is not None
            assert ending.took_s < 1
            assert pool.pool.progress(number, 0) is None
            assert value_of(await pool.run("who"))["pid"] == seen.child

    asyncio.run(check())


def test_a_value_that_arrives_after_the_ask_is_still_the_tasks_value():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("slow_to_leave", 0.1, timeout_s=0.1)

            assert ending.kind == "returned"
            assert ending.asked == "timeout"
            assert ending.asked_after_s is not None
            assert 0.09 < ending.asked_after_s < 0.5

    asyncio.run(check())


def test_a_deadline_asks_what_runs_whatever_its_timeout_is():
    async def check():
        async with a_pool("process", 1) as pool:
            ending = await pool.run("polite", 30, timeout_s=60, deadline_s=0.2, handed=clock.now())

            assert (ending.kind, ending.asked) == ("interrupted", "deadline")

    asyncio.run(check())


def test_a_deadline_comes_while_the_host_sleeps_too_and_a_timeout_does_not(monkeypatch):
    async def check():
        async with a_pool("process", 2) as pool:
            limited = pool.put("polite", 30, deadline_s=600.0, handed=clock.now())
            other = pool.put("polite", 1, timeout_s=600)
            await pool.running(limited)
            await pool.running(other)
            waits = pool.put("nap", 0, deadline_s=600.0, handed=clock.now())

            suspend(monkeypatch)
            pool.pool.look_again()

            assert (await pool.ending(limited)).asked == "deadline"
            assert (await pool.ending(waits)).detail == "its deadline passed in line"
            assert value_of(await pool.ending(other)) == "done"

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_an_order_whose_deadline_passed_on_its_way_to_the_child_does_not_start(kind, tmp_path):
    async def check():
        async with a_pool(kind, 1) as pool:
            number = pool.put("nap", 0, str(tmp_path / "started"), deadline_s=1.0, handed=clock.now() - 1.0)

            ending = await pool.ending(number)

            assert (ending.kind, ending.ran_s) == ("unstarted", None)
            assert not (tmp_path / "started").exists()
            assert pool.pool.free == 1

    asyncio.run(check())


def test_an_order_whose_deadline_passes_in_line_comes_back_at_once():
    async def check():
        async with a_pool("process", 1) as pool:
            ahead = pool.put("nap", 0.4)
            await pool.running(ahead)
            late = pool.put("nap", 0, deadline_s=0.1, handed=clock.now())
            behind = pool.put("nap", 0)

            ending = await pool.ending(late)

            assert (ending.kind, ending.detail) == ("unstarted", "its deadline passed in line")
            assert ahead not in pool.heard.ended
            assert value_of(await pool.ending(behind)) == "rested"

    asyncio.run(check())


def test_nothing_starts_after_the_instant_that_the_page_holds():
    async def check():
        async with a_pool("process", 1, prompt=True) as pool:
            pool.pool.allow_until(clock.now_ns() - 1)
            number = pool.put("noop")

            ending = await pool.ending(number)

            assert (ending.kind, ending.detail) == ("unstarted", "stalled")
            pool.pool.allow_until(clock.now_ns() + 60 * 10**9)
            assert (await pool.run("noop")).kind == "returned"

    asyncio.run(check())


def test_after_a_suspend_of_the_host_nothing_goes_to_a_child_before_the_lease_is_known_to_hold(monkeypatch):
    async def check():
        async with a_pool("process", 1, prompt=True) as pool:
            pool.pool.allow_until(clock.now_ns() + 60 * 10**9)
            suspend(monkeypatch)  # this process alone sees it: the child would start what it was given
            number = pool.put("noop")

            ending = await pool.ending(number)

            assert (ending.kind, ending.detail) == ("unstarted", "stalled")

    asyncio.run(check())


def test_orders_behind_a_task_that_stalls_go_to_another_slot():
    async def check():
        async with a_pool("process", 2) as pool:
            for _ in range(4):
                await pool.run("wait_for_file", "/")  # learned as short
            long = pool.put("wait_for_file", "/no/such/file", timeout_s=60)
            short = [pool.put("wait_for_file", "/") for _ in range(100)]

            ends = [await pool.ending(number, timeout=3) for number in short]

            assert {ending.kind for ending in ends} == {"returned"}
            assert long not in pool.heard.ended

    asyncio.run(check())


def test_what_no_slot_takes_for_half_a_second_goes_back_to_the_worker():
    async def check():
        async with a_pool("process", 1, prompt=True) as pool:
            long = pool.put("nap", 30)
            await pool.running(long)
            before = time.monotonic()

            waiting = [pool.put("noop") for _ in range(3)]

            for number in waiting:
                ending = await pool.ending(number)
                assert (ending.kind, ending.detail) == ("unstarted", "stalled")
            assert 0.4 < time.monotonic() - before < 3

    asyncio.run(check())


def test_what_waits_for_three_quarters_of_a_second_goes_back_although_others_end():
    """Another worker may be free, and a second is promised."""

    async def check():
        async with a_pool("process", 1, prompt=True) as pool:
            begun = asyncio.get_running_loop().time()
            numbers = [pool.put("nap", 0.15) for _ in range(30)]

            endings = [await pool.ending(number) for number in numbers]

            back = [ending.number for ending in endings if ending.detail == "stalled"]
            assert {ending.kind for ending in endings if ending.number not in back} == {"returned"}
            assert len(back) > 15
            assert {pool.heard.ended_at[number] - begun > 0.7 for number in back} == {True}

    asyncio.run(check())


def test_an_idle_slot_takes_over_what_another_one_is_slower_with_than_was_learned():
    async def check():
        async with a_pool("process", 2) as pool:
            pool.pool.pace._expected["pool_tasks.nap"] = 0.000_02  # learned as short
            busy = pool.put("wait_for_file", "/no/such/file", timeout_s=0.15, grace_s=0)
            await pool.running(busy)
            # Each of them ends too soon for a stall; the first slot has them all until the second is free.
            orders = [make_order("nap", 0.01) for _ in range(150)]
            pool.pool.put(orders)

            await pool.ending(busy)

            children = pool.pool.nursery.serving
            await await_until(
                lambda: len(children()) == 2 and all(kid.entries for kid in children()),
                timeout=5,
                description="both children to have some of them",
            )

    asyncio.run(check())


def test_a_child_is_replaced_after_its_share_of_orders():
    async def check():
        async with a_pool("process", 1, max_tasks_per_child=3) as pool:
            numbers = [pool.put("who") for _ in range(9)]

            pids = [value_of(await pool.ending(number))["pid"] for number in numbers]

            assert pids[0] == pids[1] == pids[2]
            assert len(set(pids)) == 3

    asyncio.run(check())


def test_a_child_that_was_replaced_leaves_nothing_to_the_garbage_collector():
    """Its buffers would wait for it: a worker whose children are replaced often grew by megabytes between two looks."""

    async def check():
        async with a_pool("process", 1, max_tasks_per_child=1) as pool:
            await pool.run("noop")
            replaced = [weakref.ref(kid) for kid in pool.pool.nursery.kids]

            await pool.run("noop")

            await await_until(
                lambda: not any(ref() for ref in replaced), timeout=5, description="the first child to go"
            )

    gc.collect()
    gc.disable()
    try:
        asyncio.run(check())
    finally:
        gc.enable()


def test_a_suspect_runs_in_a_child_that_has_nobody_else():
    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            before = [pool.put("noop") for _ in range(50)]
            suspect = pool.put("die", int(signal.SIGKILL), alone=True)
            after = [pool.put("noop") for _ in range(50)]

            ending = await pool.ending(suspect)

            assert (ending.kind, ending.exact) == ("child_died", True)
            for number in before + after:
                assert (await pool.ending(number)).kind == "returned"

    asyncio.run(check())


def test_closing_gives_back_what_waits_lets_what_runs_finish_and_leaves_no_process():
    async def check():
        async with a_pool("process", 2) as pool:
            running = [pool.put("nap", 0.2) for _ in range(2)]
            children = [(await pool.running(number)).child for number in running]
            waiting = [pool.put("noop") for _ in range(3)]

            await pool.pool.close(kill_after_s=5)

            assert [pool.heard.ended[number].kind for number in waiting] == ["unstarted"] * 3
            assert [value_of(pool.heard.ended[number]) for number in running] == ["rested"] * 2
            assert not any(is_running(pid) for pid in children)

    asyncio.run(check())


def test_closing_kills_what_outlives_its_time(tmp_path):
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("stubborn", str(tmp_path / "pid"))
            child = (await pool.running(number)).child
            grandchild = int(await await_until(lambda: _text(tmp_path / "pid"), description="the grandchild"))

            await pool.pool.close(kill_after_s=0.05)

            assert pool.heard.ended[number].kind == "killed"
            assert not is_running(child)
            assert not is_running(grandchild)

    asyncio.run(check())


def test_forgetting_kills_at_once():
    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("nap", 30)
            await pool.running(number)
            waiting = pool.put("noop")

            pool.pool.forget([number, waiting])

            ending = await pool.ending(number, timeout=2)
            assert (ending.kind, ending.asked) == ("killed", "fenced")
            assert pool.heard.ended[waiting].asked == "fenced"

    asyncio.run(check())


def _text(path):
    return path.read_text() if path.exists() else ""
