"""The claims that an idle worker leaves: when it leaves one, and what fills it is taken in once, however it comes."""

from __future__ import annotations

import asyncio

import pytest

from qworker.errors import BrokerUnavailable
from qworker.worker import settler as settler_module
from qworker.worker.state import Phase
from support.roles import World, roles, settled, task, turn, window


async def left(w: World) -> str:
    """Start the fetcher, and return the claim that it leaves with its first call."""
    w.run(w.fetcher.run())
    call = await w.broker.called("claim")
    await turn()
    claim: str = call["stand"].claim
    return claim


def test_an_idle_worker_leaves_a_claim_with_all_that_a_submit_has_to_know() -> None:
    async def scenario() -> None:
        async with roles(process=2, thread=3) as w:
            w.run(w.fetcher.run())
            call = await w.broker.called("claim")

            assert call["stand"].claim != call["claim"]
            assert len(call["stand"].claim) == 12
            assert call["stand"][1:] == (w.state.id, ("default", "process", "thread"), 12_000)
            assert call["standing"] == []

    asyncio.run(scenario())


@pytest.mark.parametrize("given", [{"queues": ("high", "low")}, {"settings": {"burst": True}}])
def test_with_several_queues_or_in_a_burst_none_is_left(given) -> None:
    async def scenario() -> None:
        async with roles(**given) as w:
            w.run(w.fetcher.run())

            assert (await w.broker.called("claim"))["stand"] is None

    asyncio.run(scenario())


def test_a_worker_that_holds_something_leaves_none_and_ends_the_one_that_stands() -> None:
    async def scenario() -> None:
        async with roles(process=4) as w:
            claim = await left(w)
            w.accept(task("a"))
            w.fetcher._bell.rung = True
            w.state.wake.set()

            call = await w.broker.called("claim", 2)

            assert call["stand"] is None
            assert [stand.claim for stand in call["standing"]] == [claim]

    asyncio.run(scenario())


def test_what_is_pushed_runs_and_comes_only_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            claim = await left(w)

            for _ in range(2):
                w.fetcher.handed(window(claim, task("a")))

            assert w.pool.batches == [["a"]]
            assert list(w.state.ledger.claims) == [claim]
            assert len(w.broker.calls["claim"]) == 1, "nothing was asked for"

    asyncio.run(scenario())


def test_what_is_pushed_for_a_claim_of_another_life_is_left_alone() -> None:
    async def scenario() -> None:
        async with roles() as w:
            await left(w)

            w.fetcher.handed(window("neverleft123", task("a")))

            assert not w.state.ledger.tasks

    asyncio.run(scenario())


@pytest.mark.parametrize("pushed", ["never", "before the answer", "after the answer"])
def test_a_window_whose_push_was_lost_or_late_comes_with_the_next_claim_and_is_taken_in_once(pushed: str) -> None:
    async def scenario() -> None:
        async with roles() as w:
            claim = await left(w)
            filled = window(claim, task("a"))
            answer = w.broker.later("claim")
            w.fetcher._bell.rung = True
            w.state.wake.set()
            call = await w.broker.called("claim", 2)
            assert [stand.claim for stand in call["standing"]] == [claim]

            if pushed == "before the answer":
                w.fetcher.handed(filled)
            answer.set_result(filled)
            await turn()
            if pushed == "after the answer":
                w.fetcher.handed(filled)

            assert w.pool.batches == [["a"]]
            # That answer says nothing of the lines: they are asked about at once, and nothing is named any more.
            third = await w.broker.called("claim", 3)
            assert claim not in [stand.claim for stand in third["standing"]]

    asyncio.run(scenario())


def test_a_claim_that_got_no_answer_names_what_it_may_have_left_and_leaves_no_other() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", BrokerUnavailable("gone"))
            claim = await left(w)
            w.broker.script("claim", window(claim, task("a")))
            w.state.wake.set()  # instead of waiting for the pause

            call = await w.broker.called("claim", 2)
            await turn()

            assert call["stand"] is None
            assert [stand.claim for stand in call["standing"]] == [claim]
            assert w.pool.batches == [["a"]]

    asyncio.run(scenario())


def test_what_a_late_call_leaves_after_all_is_taken_in_when_it_is_filled() -> None:
    async def scenario() -> None:
        async with roles() as w:
            claim = await left(w)
            w.fetcher._bell.rung = True
            w.state.wake.set()
            await w.broker.called("claim", 2)
            await turn()  # it was named, and is gone by that answer

            w.fetcher.handed(window(claim, task("a")))

            assert w.pool.batches == [["a"]]

    asyncio.run(scenario())


def test_the_last_settle_leaves_one_and_no_other_does() -> None:
    async def scenario() -> None:
        async with roles(process=2) as w:
            w.run(w.settler.run())
            w.accept(task("a"), task("b"))
            first = w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            assert (await w.broker.called("settle"))["stand"] is None
            first.set_result(settled("ok"))
            w.pool.end(w.pool.number_of("b"), "returned", payload=b"\xc0")

            call = await w.broker.called("settle", 2)
            await w.settler.wait_empty()
            w.fetcher.handed(window(call["stand"].claim, task("c")))

            assert w.pool.batches == [["a", "b"], ["c"]]

    asyncio.run(scenario())


def test_a_settle_that_is_sent_again_leaves_none_but_what_it_may_have_left_is_asked_about(monkeypatch) -> None:
    monkeypatch.setattr(settler_module, "PAUSE_S", 0.0)

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            w.broker.script("settle", BrokerUnavailable("gone"))
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            first, second = w.broker.calls["settle"]
            assert second["stand"] is None
            w.run(w.fetcher.run())
            assert (await w.broker.called("claim"))["standing"] == [first["stand"]]

    asyncio.run(scenario())


def test_one_is_left_at_a_time_and_a_claim_does_not_name_one_that_is_being_left() -> None:
    """Else it may be left behind the claim that was to end it."""

    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.run(w.settler.run())
            answer = w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            first = (await w.broker.called("settle"))["stand"]

            w.run(w.fetcher.run())
            call = await w.broker.called("claim")
            assert (call["stand"], call["standing"]) == (None, [])
            assert w.standing.offer("default", ending=1) is None

            answer.set_result(settled("ok"))
            await w.settler.wait_empty()
            assert w.standing.asked() == [first]

    asyncio.run(scenario())


@pytest.mark.parametrize("phase", [Phase.QUIET, Phase.DRAINING])
def test_who_claims_no_more_ends_what_stands_and_takes_in_what_has_filled_it(phase: Phase) -> None:
    async def scenario() -> None:
        async with roles() as w:
            claim = await left(w)
            answer = w.broker.later("claim")
            w.state.phase = phase
            w.state.wake.set()

            call = await w.broker.called("claim", 2)
            assert call["rooms"] == ()
            assert not {"stand", "alone"} & set(call)
            assert [stand.claim for stand in call["standing"]] == [claim]
            assert not w.fetcher.idle.is_set(), "whoever drains waits for it"
            answer.set_result(window(claim, task("a")))
            await turn()

            assert w.fetcher.idle.is_set()
            # A drain gives it back, as what any claim brings that was under way; a quiet worker runs it.
            assert w.pool.batches == ([] if phase is Phase.DRAINING else [["a"]])
            assert w.settler.pending == (phase is Phase.DRAINING)
            assert not w.standing.any
            await w.fetcher.hush()
            await turn()
            assert len(w.broker.calls["claim"]) == 2

    asyncio.run(scenario())


def test_a_server_that_is_gone_does_not_hold_up_a_drain() -> None:
    async def scenario() -> None:
        async with roles() as w:
            await left(w)
            w.broker.script("claim", BrokerUnavailable("gone"))
            w.state.phase = Phase.DRAINING
            w.state.wake.set()
            await w.broker.called("claim", 2)
            await turn()

            assert w.fetcher.idle.is_set()

    asyncio.run(scenario())
