"""What USR2 shows: the stacks of each child as one event, whole, whatever the others write meanwhile."""

from __future__ import annotations

import asyncio
import re

import pytest

from qworker.pool import dumps
from support.pools import a_pool
from support.waiting import await_until

LEGIBLE = re.compile(
    r'(Current thread|Thread) 0x[0-9a-f]+ .*\(most recent call first\):|  File ".*", line \d+ in \S+|  \.\.\.|'
)


async def said(pool, text, times=1):
    """Wait until tasks have printed it so often."""
    await await_until(lambda: [line[2] for line in pool.heard.lines].count(text) >= times, description=text)


async def dumped(pool, count):
    """Ask for all stacks, and wait for those of so many children."""
    pool.pool.dump_stacks()
    return await await_until(
        lambda: len(found := pool.heard.named("child.stacks")) >= count and found, description=f"{count} dumps"
    )


async def seen(pool, function):
    """Ask for the stacks of the one child until its task has come to that function."""
    while True:
        dump = (await dumped(pool, len(pool.heard.named("child.stacks")) + 1))[-1]
        if f" in {function}\n" in dump.get("stacks", ""):
            return dump


def is_legible(stacks):
    return all(LEGIBLE.fullmatch(line) for line in stacks.split("\n"))


def test_the_dumps_of_children_that_write_at_once_do_not_mix():
    async def check():
        async with a_pool("process", 4) as pool:
            numbers = [pool.put("dive", 60) for _ in range(4)]
            await said(pool, "at the bottom", times=4)
            tasks = {(await pool.running(number)).child: f"default:task-{number}" for number in numbers}

            found = await dumped(pool, 4)

            assert {dump["child"]: dump["running"] for dump in found} == {
                child: f"{task} (pool_tasks.dive) in slot 0" for child, task in tasks.items()
            }
            for dump in found:
                assert is_legible(dump["stacks"])
                assert dump["stacks"].count(" in _dive\n") == 60
                assert dump["stacks"].endswith(" in _run_module_as_main\n"), "it is whole"
                assert (dump["pool"], dump["level"]) == ("process", "info")

    asyncio.run(check())


def test_a_dump_that_is_larger_than_a_pipe_comes_whole():
    async def check():
        async with a_pool("thread", 40) as pool:
            for _ in range(40):
                pool.put("dive", 80)
            await said(pool, "at the bottom", times=40)

            [dump] = await dumped(pool, 1)

            assert len(dump["stacks"]) > 64 * 1024
            assert is_legible(dump["stacks"])
            assert {slot for slot in range(40) if f" in slot_{slot}\n" in dump["stacks"]} == set(range(40))
            assert dump["stacks"].endswith(" in _run_module_as_main\n")
            assert dump["running"].count("pool_tasks.dive") == 40

    asyncio.run(check())


@pytest.mark.parametrize("kind", ["process", "thread"])
def test_a_child_that_holds_the_gil_in_c_is_seen_and_so_is_one_with_nothing_to_run(kind):
    async def check():
        async with a_pool(kind, 1) as pool:
            assert [dump["running"] for dump in await dumped(pool, 1)] == ["nothing"]
            number = pool.put("regex")

            dump = await seen(pool, "match")

            assert " in regex\n" in dump["stacks"]
            assert dump["running"] == f"default:task-{number} (pool_tasks.regex) in slot 0"

    asyncio.run(check())


def test_a_survivor_is_named():
    async def check():
        async with a_pool("thread", 1) as pool:
            left = await pool.run("nap", 3600, timeout_s=0.1, grace_s=0)
            assert left.kind == "left_running"

            dump = await seen(pool, "nap")

            assert dump["running"] == f"default:task-{left.number} (pool_tasks.nap) in slot 0, a survivor"

    asyncio.run(check())


def test_a_task_that_took_the_signal_for_itself_is_not_killed_by_it(monkeypatch):
    monkeypatch.setattr(dumps, "_PATIENCE_S", 0.05)

    async def check():
        async with a_pool("process", 1) as pool:
            number = pool.put("shrug_off_signals")
            await said(pool, "shrugged")

            [dump] = await dumped(pool, 1)

            assert "stacks" not in dump
            assert "it has written nothing" in dump["note"]
            assert (await pool.running(number)).number == number
            assert not pool.heard.named("child.died")

    asyncio.run(check())


class FakeProcess:
    """A child that cannot be signalled at first, as before its birth; then it is slow to write."""

    def __init__(self, dump, refuses):
        self.end = dump.detach()
        self.refuses = refuses
        self.looks = 0
        self.dumping = False
        dump.process = self

    def dump(self):
        if self.refuses:
            self.refuses -= 1
            return False
        self.dumping = True
        return True

    def is_dumping(self):
        if self.dumping:
            self.looks += 1
            dumps.os.write(self.end, b"word ")
            self.dumping = self.looks < 20  # with longer silences than any that would be taken for the end
        return self.dumping


def test_a_child_that_cannot_be_signalled_yet_is_asked_again_and_a_pause_in_its_words_is_not_their_end(monkeypatch):
    monkeypatch.setattr(dumps, "_LOOK_S", 0.001)

    async def check():
        dump = dumps.Dump()
        process = FakeProcess(dump, refuses=3)
        told = []

        dump.ask(told.append)
        dump.ask(told.append)  # while it writes: the operator is impatient

        await await_until(lambda: told, description="the dump")
        assert told == ["word " * 20]
        dumps.os.close(process.end)
        dump.close()
        assert len(told) == 1

    asyncio.run(check())


def test_what_a_child_wrote_before_its_end_is_told_and_its_end_ends_the_wait():
    async def check():
        dump = dumps.Dump()
        process = FakeProcess(dump, refuses=0)
        told = []
        dump.ask(told.append)
        await await_until(lambda: process.looks, description="it writes")

        dumps.os.close(process.end)
        process.is_dumping = lambda: True
        dump.close()

        assert len(told) == 1
        assert told[0].startswith("word ")

    asyncio.run(check())
