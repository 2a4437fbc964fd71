"""Who is served first, with what, how many at once, and when a wait is refused: the lender on a broker that is told."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from qworker.model import Record
from qworker.worker import lender
from qworker.worker.state import Phase
from support.roles import World, roles, settled, task, window
from support.waiting import await_until


def scenario(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


def begin(w: World, local: str, *awaited: str, depth: int = 0) -> int:
    """A task of the pool runs, and waits."""
    w.accept(task(local, extra={"d": depth} if depth else {}), claim=f"of-{local}")
    number = w.pool.number_of(local)
    w.pool.started[number] = 1.0
    w.collector.waiting(number, [f"default:{one}" for one in awaited], False)
    return number


async def lent(w: World, *expected: str) -> None:
    await await_until(lambda: w.pool.lent == list(expected), description=f"{expected} to be lent, not {w.pool.lent}")


async def a_round(w: World) -> None:
    """Have the lender look once more; it has when it lets go of the word."""
    w.state.lend.set()
    await await_until(lambda: not w.state.lend.is_set(), description="a round of the lender")


@scenario
async def test_what_waits_in_the_pools_own_line_is_taken_out_of_it() -> None:
    async with roles(process=1) as w:
        w.accept(task("part"))
        w.run(w.lender.run())
        begin(w, "whole", "part")

        await lent(w, "part")
        assert not w.broker.calls["claim_ids"]
        assert w.held("part").lent
        assert w.state.ledger.in_pool["process"] == 1
        assert w.state.ledger.lent["process"] == 1


@scenario
async def test_what_is_queued_is_claimed_by_id_and_takes_no_room() -> None:
    async with roles(process=1) as w:
        w.broker.script("claim_ids", window("c2", task("part")))
        w.run(w.lender.run())
        begin(w, "whole", "part", "other")

        await lent(w, "part")
        call = w.broker.calls["claim_ids"][0]
        assert (call["ids"], call["most"], call["needs"]) == (["part", "other"], 1, ("process", "default"))
        assert w.state.ledger.in_pool["process"] == 1


@scenario
async def test_a_pool_runs_as_many_lent_tasks_as_tasks_of_it_wait() -> None:
    async with roles(process=2) as w:
        w.broker.script("claim_ids", window("c2", task("a"), task("b")))
        w.run(w.lender.run(), w.settler.run())
        begin(w, "one", "a", "c")
        begin(w, "two", "b", "d")
        await lent(w, "a", "b")
        assert w.broker.calls["claim_ids"][0]["most"] == 2

        w.broker.script("claim_ids", window("c3", task("c")))
        w.pool.end(w.pool.number_of("a"), "returned")

        await lent(w, "a", "b", "c")
        assert w.broker.calls["claim_ids"][-1]["most"] == 1


@scenario
async def test_the_deepest_is_served_first_and_the_newest_among_equals() -> None:
    async with roles(process=3) as w:
        begin(w, "deep", "of-deep", depth=3)
        begin(w, "old", "of-old", depth=1)
        begin(w, "new", "of-new", depth=1)
        w.run(w.lender.run())

        call = await w.broker.called("claim_ids")
        assert call["ids"] == ["of-deep", "of-new", "of-old"]


@scenario
async def test_a_free_slot_is_better_than_a_lent_one() -> None:
    async with roles(process=2) as w:
        w.pool.free = 1
        w.broker.script("claim_ids", window("c2", task("part")))
        w.run(w.lender.run())
        begin(w, "whole", "part")

        await await_until(lambda: ["part"] in w.pool.batches, description="it in the pool's line")
        assert not w.pool.lent
        assert w.state.ledger.lent["process"] == 0


@scenario
async def test_who_has_heard_of_all_ends_waits_no_more_and_lends_nothing() -> None:
    async with roles(process=1) as w:
        w.broker.script("claim_ids", window("c2", task("part")))
        w.run(w.lender.run(), w.settler.run())
        begin(w, "whole", "part")
        await lent(w, "part")

        w.pool.end(w.pool.number_of("part"), "returned")
        await await_until(lambda: not w.state.ledger.lent["process"], description="its settle")

        assert w.collector.waits.count("process") == 0


@scenario
async def test_a_name_that_nobody_here_knows_is_put_aside_once() -> None:
    async with roles(process=1) as w:
        w.broker.script("claim_ids", window("c2", task("strange", name="unknown")))
        w.run(w.lender.run(), w.settler.run())
        begin(w, "whole", "strange")
        await w.broker.called("settle")

        w.collector.waiting(w.pool.number_of("whole"), [], True)
        await a_round(w)

        assert len(w.broker.calls["claim_ids"]) == 1


@scenario
async def test_a_suspect_that_is_awaited_has_its_start_recorded() -> None:
    async with roles(process=1) as w:
        w.broker.script("claim_ids", window("c2", task("bad", record=Record(losses=2, deliveries=1))))
        w.run(w.lender.run())
        begin(w, "whole", "bad")

        await lent(w, "bad")
        assert [mark[1] for mark in w.broker.calls["renew"][0]["started"]] == ["bad"]


@scenario
async def test_the_newest_waiter_is_refused_when_nothing_can_move(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    async with roles(process=2, settings={"max_lent": 0}) as w:
        w.pool.stuck = True
        begin(w, "one", "a")
        newest = begin(w, "two", "b")
        w.run(w.lender.run())

        await await_until(lambda: w.pool.refused, description="a refusal")
        assert w.pool.refused == [newest]
        assert w.told("pool.exhausted")[0]["task"] == "default:two"


@scenario
async def test_nobody_is_refused_while_what_is_awaited_is_somewhere_else(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    async with roles(process=1, settings={"max_lent": 0}) as w:
        w.pool.stuck = True
        for _ in range(3):
            w.broker.script("claim_ids", window("c2", elsewhere=1))
        w.run(w.lender.run())
        begin(w, "one", "a")

        await w.broker.called("claim_ids", 3)
        assert not w.pool.refused


@scenario
async def test_queues_that_nobody_claims_from_are_seen_to(monkeypatch: Any) -> None:
    """What is due there, or was a dead worker's, would never come into its line."""
    monkeypatch.setattr(lender, "FIRST_PAUSE_S", 0.01)
    async with roles(process=1) as w:
        w.run(w.lender.run())
        begin(w, "one", "a")

        call = await w.broker.called("claim")
        assert (call["queue"], call["rooms"]) == ("default", ())
        await w.broker.called("claim_ids", 2)  # and then it is asked for anew


@scenario
async def test_no_claim_is_sent_while_the_worker_drains() -> None:
    async with roles(process=1) as w:
        begin(w, "one", "a")
        w.state.phase = Phase.DRAINING
        w.run(w.lender.run())
        await a_round(w)

        assert not w.broker.calls["claim_ids"]


@scenario
async def test_a_waiter_that_died_is_forgotten() -> None:
    async with roles(process=1) as w:
        number = begin(w, "one", "a")
        w.broker.script("settle", settled("ok"))

        w.pool.end(number, "child_died")

        assert len(w.collector.waits) == 0
        assert w.collector.waits.count("process") == 0


@scenario
async def test_the_newest_of_those_that_wait_for_each_other_is_refused_and_next_time_another(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    async with roles(process=4) as w:
        w.broker.script("claim_ids", window("c9"))
        first = begin(w, "one", "two")
        second = begin(w, "two", "three")
        third = begin(w, "three", "one")
        begin(w, "beside", "three", "elsewhere")
        w.run(w.lender.run())

        await await_until(lambda: w.pool.cycles, description="a refusal")
        assert w.pool.cycles == [third]
        assert w.told("wait.cycle")[0]["tasks"] == 3

        # It had a time limit, which is its own affair, and waits again.
        w.collector.waiting(third, ["default:one"], False)
        await await_until(lambda: len(w.pool.cycles) > 1, description="the next refusal")
        assert w.pool.cycles == [third, second]
        assert first not in w.pool.cycles


@scenario
async def test_a_chain_with_a_free_end_is_no_cycle(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    async with roles(process=3) as w:
        begin(w, "one", "two")
        begin(w, "two", "one", "leaf")
        begin(w, "three", "one", "two")

        assert w.collector.waits.knot() == []
        w.collector.waits.settled("default:leaf", ended=True)
        assert {waiter.held.full_id for waiter in w.collector.waits.knot()} == {
            "default:one", "default:two", "default:three",
        }  # fmt: skip
