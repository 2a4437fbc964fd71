"""Who is served first, with what, how many at once, and when a wait is refused: the lender on a broker that is told."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from qworker.errors import BrokerUnavailable
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
    w.collector.waiting(number, [one if ":" in one else f"default:{one}" for one in awaited], False)
    return number


async def lent(w: World, *expected: str) -> None:
    await await_until(lambda: w.pool.lent == list(expected), description=f"{expected} to be lent, not {w.pool.lent}")


class PerQueue:
    """Answers claims by queue: a list of replies each, the last of which stays."""

    def __init__(self, w: World, verb: str, **replies: list[Any]) -> None:
        self._replies = replies
        self._answer, self._verb = w.broker._answer, verb
        setattr(w.broker, verb, self)

    async def __call__(self, queue: str, *ids: Any, **arguments: Any) -> Any:
        replies = self._replies.get(queue, [])
        reply = replies[0] if replies else window(arguments["claim"], queue=queue)
        del replies[: len(replies) > 1]
        if ids:
            arguments["ids"] = list(ids[0])
        return await self._answer(self._verb, reply, queue=queue, **arguments)


GONE = BrokerUnavailable("gone")


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


@scenario
async def test_a_queue_that_does_not_answer_holds_up_nobody_who_waits_for_another() -> None:
    async with roles(process=2) as w:
        PerQueue(w, "claim_ids", other=[GONE], default=[window("c2", task("part"))])
        begin(w, "deep", "other:a", depth=3)
        begin(w, "flat", "part")
        w.run(w.lender.run())

        await lent(w, "part")
        assert w.broker.calls["claim_ids"][0]["queue"] == "other"
        assert w.answers[:2] == [False, True]


@scenario
async def test_a_claim_that_was_not_answered_is_sent_again_under_its_id_and_the_next_one_has_another() -> None:
    async with roles(process=1) as w:
        w.broker.script("claim_ids", GONE, window("c2", task("part")))
        w.run(w.lender.run(), w.settler.run())
        number = begin(w, "whole", "part")

        await lent(w, "part")
        w.pool.end(w.pool.number_of("part"), "returned")
        w.collector.waiting(number, ["default:more"], False)
        await w.broker.called("claim_ids", 3)

        first, again, other = (call["claim"] for call in w.broker.calls["claim_ids"][:3])
        assert first == again != other


@scenario
async def test_a_claim_that_was_not_answered_is_let_go_of_when_nobody_waits_for_what_it_was_for() -> None:
    """If it was granted, what it took would else come to be in the place of what is awaited now."""
    async with roles(process=1) as w:
        PerQueue(w, "claim_ids", default=[GONE, window("c2", task("other"))])
        w.run(w.lender.run())
        number = begin(w, "whole", "part")
        await w.broker.called("claim_ids")

        w.collector.resumed(number)
        w.collector.waiting(number, ["default:other"], False)

        await lent(w, "other")
        first, second = w.broker.calls["claim_ids"]
        assert (first["ids"], second["ids"]) == (["part"], ["other"])
        assert first["claim"] != second["claim"]


@scenario
async def test_who_waits_again_and_again_for_a_moment_finds_the_claim_that_was_not_answered() -> None:
    async with roles(process=1) as w:
        PerQueue(w, "claim_ids", default=[GONE, window("c2", task("part"))])
        w.run(w.lender.run())
        number = begin(w, "whole", "part")
        await w.broker.called("claim_ids")
        w.collector.resumed(number)
        await a_round(w)
        w.collector.waiting(number, ["default:part"], False)

        await lent(w, "part")
        first, second = w.broker.calls["claim_ids"]
        assert first["claim"] == second["claim"]


@scenario
async def test_what_a_late_answer_brings_and_nobody_awaits_any_more_is_lent_no_place() -> None:
    """It waits in the line of its pool, as anything; what is still awaited is taken out of that."""
    async with roles(process=2) as w:
        late = w.broker.later("claim_ids")
        w.run(w.lender.run())
        begin(w, "one", "a", depth=1)
        begin(w, "two", "b")
        await w.broker.called("claim_ids")

        w.collector.resumed(w.pool.number_of("one"))
        late.set_result(window("c2", task("a"), task("b")))

        await lent(w, "b")
        assert w.pool.batches[-1] == ["a", "b"]
        assert not w.held("a").lent
        assert w.state.ledger.lent["process"] == 1


@scenario
async def test_each_queue_is_seen_to_also_when_another_one_does_not_answer(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(lender, "SEE_TO_S", 0.0)
    async with roles(process=1) as w:
        PerQueue(w, "claim", one=[GONE], two=[GONE], three=[GONE])
        w.run(w.lender.run())
        begin(w, "whole", "one:a", "two:b", "three:c")

        await w.broker.called("claim", 3)
        assert {call["queue"] for call in w.broker.calls["claim"][:3]} == {"one", "two", "three"}


@scenario
async def test_queues_are_seen_to_also_while_much_else_moves(monkeypatch: Any) -> None:
    """Each task that comes or ends here is an event: a busy worker never came to look at what no event tells of."""
    monkeypatch.setattr(lender, "LONGEST_PAUSE_S", 0.05)
    async with roles(process=1) as w:

        async def busy() -> None:
            while True:
                w.state.lend.set()
                await asyncio.sleep(0)

        w.run(w.lender.run(), busy())
        begin(w, "one", "a")

        await w.broker.called("claim")
        await w.broker.called("claim_ids", 2)  # and then it is asked for anew


@scenario
async def test_nobody_is_refused_while_a_queue_of_what_is_awaited_does_not_answer(monkeypatch: Any) -> None:
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    monkeypatch.setattr(lender, "_PAUSE_S", (0.0, 0.0))
    async with roles(process=1, settings={"max_lent": 0}) as w:
        w.pool.stuck = True
        PerQueue(w, "claim_ids", default=[GONE])
        w.run(w.lender.run())
        begin(w, "one", "a")

        for _ in range(5):
            await a_round(w)

        assert len(w.broker.calls["claim_ids"]) >= 3
        assert not w.pool.refused


@scenario
async def test_a_queue_that_does_not_answer_is_left_alone_for_a_while(monkeypatch: Any) -> None:
    """Each call to it may take seconds, in which nobody else is served."""
    monkeypatch.setattr(lender, "PATIENCE_S", 0.0)
    monkeypatch.setattr(lender, "_PAUSE_S", (60.0, 60.0))
    async with roles(process=1, settings={"max_lent": 0}) as w:
        w.pool.stuck = True
        PerQueue(w, "claim_ids", default=[GONE])
        w.run(w.lender.run())
        begin(w, "one", "a")
        await w.broker.called("claim_ids")

        for _ in range(5):
            await a_round(w)

        assert len(w.broker.calls["claim_ids"]) == 1
        assert not w.pool.refused


@scenario
async def test_what_did_not_answer_once_is_not_kept_for_ever() -> None:
    async with roles(process=1) as w:
        PerQueue(w, "claim_ids", default=[GONE])
        number = begin(w, "one", "a")
        w.run(w.lender.run())
        await await_until(lambda: w.answers == [False], description="the end of the call")
        w.lender._sent = {key: sent._replace(lapses=0.0) for key, sent in w.lender._sent.items()}
        w.lender._silent = {queue: silence._replace(until=0.0) for queue, silence in w.lender._silent.items()}

        w.collector.resumed(number)
        w.state.lend.set()

        await await_until(lambda: not w.lender._sent and not w.lender._silent, description="both to be forgotten")
