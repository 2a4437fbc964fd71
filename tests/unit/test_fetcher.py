"""The fetcher: when it claims, for which pools, what it waits for, and when a burst is over."""

from __future__ import annotations

import asyncio
import time

import pytest

from qworker.broker.values import BellRing
from qworker.errors import BrokerError, BrokerUnavailable, ServerFull, ServerUnfit
from qworker.model import Ending
from qworker.worker import fetcher as fetcher_module
from qworker.worker.state import Phase
from support.roles import NOW_MS, roles, settled, task, turn, window

BURST = {"burst": True}


def test_queues_are_claimed_in_their_order_until_the_room_is_full() -> None:
    async def scenario() -> None:
        async with roles(queues=("high", "low"), process=2) as w:
            w.broker.script("claim", window("c1", *(task(local) for local in "abc"), queue="high"))
            w.broker.script("claim", window("c2", task("d"), queue="low"))
            w.run(w.fetcher.run())

            await w.broker.called("claim", 2)
            await turn()

            calls = w.broker.calls["claim"]
            assert [(call["queue"], call["rooms"][0][1]) for call in calls] == [("high", 4), ("low", 1)]
            assert w.pool.batches == [["a", "b", "c"], ["d"]]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [BrokerUnavailable("gone"), BrokerError("ERR"), ServerFull("full")])
def test_an_unanswered_claim_is_sent_again_with_the_same_id(error) -> None:
    """A reply that was lost then costs nothing: the same window comes again."""

    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", error)
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()
            w.state.wake.set()  # instead of waiting for the pause

            second = await w.broker.called("claim", 2)
            await turn()

            assert second["claim"] == w.broker.calls["claim"][0]["claim"]
            assert w.answers[:2] == [False, True]

    asyncio.run(scenario())


def test_a_server_with_data_of_another_schema_ends_the_fetcher() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", ServerUnfit("schema 9"))

            with pytest.raises(ServerUnfit, match="schema 9"):
                await w.fetcher.run()

    asyncio.run(scenario())


def test_a_quiet_worker_asks_no_more_even_for_a_claim_that_got_no_answer() -> None:
    async def scenario() -> None:
        async with roles() as w:
            answer = w.broker.later("claim")
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            w.state.phase = Phase.QUIET
            answer.set_exception(BrokerUnavailable("gone"))
            w.state.wake.set()
            await turn()

            first, *others = w.broker.calls["claim"]
            # But for what the first may have left standing: that is asked about, once.
            assert [(call["rooms"], call["standing"]) for call in others] == [((), [first["stand"]])]
            w.state.phase = Phase.RUNNING
            w.state.wake.set()
            again = await w.broker.called("claim", 3)
            assert again["claim"] != first["claim"]

    asyncio.run(scenario())


def test_a_claim_under_way_is_known_to_whoever_drains() -> None:
    async def scenario() -> None:
        async with roles() as w:
            answer = w.broker.later("claim")
            w.run(w.fetcher.run())
            call = await w.broker.called("claim")
            assert not w.fetcher.idle.is_set()

            answer.set_result(window(call["claim"]))
            await w.fetcher.idle.wait()

    asyncio.run(scenario())


def test_an_idle_worker_claims_again_when_the_bell_rings() -> None:
    async def scenario() -> None:
        async with roles() as w:
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            assert len(w.broker.calls["claim"]) == 1

            ring.set_result(BellRing("default", "default"))

            await w.broker.called("claim", 2)
            await turn()
            assert len(w.broker.calls["claim"]) == 2, "one ring, one claim"

    asyncio.run(scenario())


def test_an_idle_worker_of_a_short_lease_asks_often_enough_to_notice_an_outage() -> None:
    async def scenario() -> None:
        async with roles(settings={"lease_s": 1.0}) as w:
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            began = time.monotonic()
            await w.broker.called("claim", 3)
            assert time.monotonic() - began < 0.9, "two looks, each after a fifth of the lease; a second each otherwise"

    asyncio.run(scenario())


def test_a_bell_that_rings_while_a_claim_is_under_way_is_not_lost() -> None:
    """The task came after the claim had looked: without another claim it would wait for a second."""

    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", window("c0", next_due_ms=NOW_MS + 5))
            second = w.broker.later("claim")
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            call = await w.broker.called("claim", 2)  # for what is due; the bell is still listened to

            ring.set_result(BellRing("default", "default"))
            await turn()
            second.set_result(window(call["claim"]))

            async with asyncio.timeout(0.5):
                await w.broker.called("claim", 3)

    asyncio.run(scenario())


def test_one_ring_takes_no_second_one_from_the_other_workers() -> None:
    async def scenario() -> None:
        async with roles() as w:
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            w.broker.later("claim")

            ring.set_result(BellRing("default", "default"))
            await w.broker.called("claim", 2)
            await turn()

            assert len(w.broker.calls["wait_bell"]) == 1

    asyncio.run(scenario())


def test_only_bells_of_pools_with_room_are_listened_to() -> None:
    """A full worker that takes the ring leaves the task to wait, though another worker may be idle."""

    async def scenario() -> None:
        async with roles(process=2, thread=1) as w:
            w.broker.script("claim", window("c1", task("a", need="thread"), task("b", need="thread")))
            w.run(w.fetcher.run())

            call = await w.broker.called("wait_bell")

            assert set(call["pools"]) == {"process", "default"}

    asyncio.run(scenario())


def test_room_that_opens_in_another_pool_is_listened_for_at_once() -> None:
    """The call that waits for the other bells cannot be changed, and its end may be a second away."""

    async def scenario() -> None:
        async with roles(process=1, thread=1, settings={"window": 1}) as w:
            w.broker.script("claim", window("c1", task("a")))
            w.run(w.fetcher.run(), w.settler.run())
            first = await w.broker.called("wait_bell")
            assert first["pools"] == ("thread",)

            w.pools["process"].end(w.pools["process"].number_of("a"), "returned", payload=b"\xc0")

            async with asyncio.timeout(0.5):
                second = await w.broker.called("wait_bell", 2)
            assert second["pools"] == ("default", "process")
            assert second["timeout_s"] < first["timeout_s"], "then one call listens to all again"

    asyncio.run(scenario())


def test_a_ring_for_a_pool_that_filled_up_meanwhile_goes_on_to_another_worker() -> None:
    async def scenario() -> None:
        async with roles(process=1, settings={"window": 1}) as w:
            w.broker.script("claim", window("c0", next_due_ms=NOW_MS + 5), window("c1", task("a")))
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("claim", 2)  # for what is due; the bell is still listened to
            await turn()
            assert w.fetcher._rooms() == {}

            ring.set_result(BellRing("default", "default"))

            assert await w.broker.called("ring") == {"queue": "default", "pool": "default"}
            await turn()
            assert len(w.broker.calls["claim"]) == 2

    asyncio.run(scenario())


def test_a_worker_that_hushes_listens_to_no_bell_any_more() -> None:
    """What it gives back in its drain rings for the others."""

    async def scenario() -> None:
        async with roles() as w:
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            w.state.phase = Phase.DRAINING

            await w.fetcher.hush()

            assert ring.cancelled()

    asyncio.run(scenario())


def test_a_listener_that_fails_ends_the_fetcher() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("wait_bell", RuntimeError("a bug"))

            with pytest.raises(RuntimeError, match="a bug"):
                await w.fetcher.run()

    asyncio.run(scenario())


def test_room_that_opens_after_a_full_window_is_filled_without_a_bell() -> None:
    async def scenario() -> None:
        async with roles(process=1, settings={"window": 1}) as w:
            w.broker.script("claim", window("c1", task("a")))
            w.run(w.fetcher.run(), w.settler.run())
            await w.broker.called("claim")
            await turn()

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")

            async with asyncio.timeout(0.5):
                await w.broker.called("claim", 2)
            assert not w.broker.calls["wait_bell"]

    asyncio.run(scenario())


def test_a_due_task_is_claimed_without_a_bell() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", window("c0", next_due_ms=NOW_MS + 10))
            w.run(w.fetcher.run())

            async with asyncio.timeout(0.6):  # well before the poll of an idle worker
                await w.broker.called("claim", 2)

    asyncio.run(scenario())


def test_nothing_is_claimed_on_top_of_claims_that_cannot_be_renewed() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.state.lease.until = 0.0
            w.run(w.fetcher.run())
            await turn()

            assert not w.broker.calls["claim"]

    asyncio.run(scenario())


def test_no_slot_stays_free_however_many_claims_are_open(monkeypatch) -> None:
    """Tasks that come one by one are held by a claim each; of one pool so many that another got nothing any more."""
    monkeypatch.setattr(fetcher_module, "MOST_CLAIMS", 2)

    async def scenario() -> None:
        async with roles(**{"async": 4, "process": 1}) as w:
            for n in range(3):
                w.accept(task(f"a{n}", need="async"), claim=f"c{n}")
            assert set(w.fetcher._rooms()) == {"async", "process"}
            assert w.fetcher._has_room("process")

            w.accept(task("a3", need="async"), claim="c3")
            assert set(w.fetcher._rooms()) == {"process"}, "its slots are filled: nothing more is claimed ahead"
            assert not w.fetcher._has_room("async")

            w.accept(task("p"), claim="c4")
            assert w.fetcher._rooms() == {}

    asyncio.run(scenario())


def test_a_claim_that_stopped_at_a_limit_goes_on_in_the_same_queue_at_once() -> None:
    """What it took out of the way were the entries of others; what is behind them comes before the next queue."""

    async def scenario() -> None:
        async with roles(queues=("one", "two")) as w:
            w.broker.script("claim", window("c1", task("a"), queue="one", next_due_ms=NOW_MS))
            w.run(w.fetcher.run())

            async with asyncio.timeout(0.5):
                await w.broker.called("claim", 3)

            assert [call["queue"] for call in w.broker.calls["claim"]] == ["one", "one", "two"]

    asyncio.run(scenario())


# Suspects.


def test_a_suspect_stays_alone_until_it_is_settled_and_then_the_lines_are_looked_at_at_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", window("c0"), window("c1", task("s"), alone=True, suspects=0))
            ring = w.broker.later("wait_bell")
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            ring.set_result(BellRing("default", "default"))
            call = await w.broker.called("claim", 2)
            assert call["alone"] is True
            await turn()
            assert len(w.broker.calls["claim"]) == 2

            w.run(w.settler.run())
            w.pool.end(w.pool.number_of("s"), "returned", payload=b"\xc0")

            async with asyncio.timeout(0.5):  # no bell rings for what was there before
                await w.broker.called("claim", 3)

    asyncio.run(scenario())


def test_a_busy_worker_makes_room_for_suspects_that_nobody_takes(monkeypatch) -> None:
    """Also when they wait in one queue of several: the others' replies say nothing of them."""
    monkeypatch.setattr(fetcher_module, "PATIENCE_S", -1.0)

    async def scenario() -> None:
        async with roles(queues=("one", "two"), process=4) as w:
            w.accept(task("a"), queue="one")
            w.broker.script("claim", window("c1", queue="one", suspects=1), window("c2", queue="two"))
            w.run(w.fetcher.run())
            await w.broker.called("claim", 2)
            await turn()

            assert w.fetcher._rooms() == {}, "it claims nothing more until it is idle"

    asyncio.run(scenario())


def test_who_makes_room_claims_nothing_before_all_that_it_holds_is_settled() -> None:
    """What came then would be beside no suspect, but in its place."""

    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(task("a"))
            w.fetcher._no_claims_until = time.monotonic() + 100
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            assert w.fetcher._rooms() == {}

            w.run(w.settler.run())
            await w.settler.wait_empty()
            assert w.fetcher._rooms()

    asyncio.run(scenario())


def test_a_worker_that_made_room_for_suspects_it_cannot_run_goes_back_to_work(monkeypatch) -> None:
    """They need a pool that is not here: an idle claim that brings none says so."""
    monkeypatch.setattr(fetcher_module, "PATIENCE_S", -1.0)

    async def scenario() -> None:
        async with roles(process=2) as w:
            w.fetcher._no_claims_until = asyncio.get_running_loop().time() + 100
            w.broker.script("claim", window("c1", task("a"), suspects=3))
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()

            assert w.state.ledger.tasks
            assert w.fetcher._rooms(), "it claims beside what it holds"

    asyncio.run(scenario())


def test_who_has_made_room_and_is_done_with_it_soon_makes_room_for_the_next_suspect_soon(monkeypatch) -> None:
    """What it costs the others is bounded by its share of the time, not by a minute in between."""
    monkeypatch.setattr(fetcher_module, "PATIENCE_S", -1.0)

    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(task("a"))
            w.broker.script("claim", window("c1", suspects=1), window("c2"))
            w.run(w.fetcher.run(), w.settler.run())
            await w.broker.called("claim")
            await turn()
            now = asyncio.get_running_loop().time()
            assert w.fetcher._cool_until > now + 60, "what never becomes idle does not try again and again"

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            call = await w.broker.called("claim", 2)
            await turn()

            assert call["alone"] is True
            took_s = asyncio.get_running_loop().time() - now
            assert w.fetcher._cool_until < now + 8 * took_s + 0.1

    asyncio.run(scenario())


# Bursts.


def test_a_burst_is_over_when_a_round_over_everything_brings_nothing_and_nothing_is_held() -> None:
    async def scenario() -> None:
        async with roles(settings=BURST) as w:
            w.broker.script("claim", window("c1", task("a")))
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()
            assert not w.fetcher.empty.is_set()

            w.run(w.settler.run())
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")

            async with asyncio.timeout(0.5):
                await w.fetcher.empty.wait()

    asyncio.run(scenario())


def test_a_burst_is_not_over_when_a_claim_has_not_seen_the_end_of_the_lines() -> None:
    """A thousand entries of cancelled tasks were in front of a ready one, and the worker left it there."""

    async def scenario() -> None:
        async with roles(settings=BURST) as w:
            w.broker.script("claim", window("c1", next_due_ms=NOW_MS))
            second = w.broker.later("claim")
            w.run(w.fetcher.run())
            call = await w.broker.called("claim", 2)
            assert not w.fetcher.empty.is_set()

            second.set_result(window(call["claim"]))
            await turn()
            assert w.fetcher.empty.is_set()

    asyncio.run(scenario())


def test_a_burst_is_not_over_while_an_outcome_is_not_recorded() -> None:
    async def scenario() -> None:
        async with roles(settings=BURST) as w:
            w.run(w.fetcher.run(), w.settler.run())
            w.accept(task("a"))
            answer = w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.broker.called("claim")
            await turn()
            assert not w.fetcher.empty.is_set()

            answer.set_result(settled("ok"))
            await turn()
            w.state.wake.set()
            async with asyncio.timeout(3):
                await w.fetcher.empty.wait()

    asyncio.run(scenario())


def test_a_round_for_one_pool_of_two_does_not_end_a_burst() -> None:
    """The other one's lines were not looked at: they may hold work, though what it held has just ended."""

    async def scenario() -> None:
        async with roles(process=1, thread=1, settings=BURST) as w:
            w.accept(task("a"), task("b"))  # the process pool is full
            answer = w.broker.later("claim")
            w.run(w.fetcher.run(), w.settler.run())
            call = await w.broker.called("claim")
            assert [needs for needs, _ in call["rooms"]] == [("thread",)]

            for local in "ab":
                w.pools["process"].end(w.pools["process"].number_of(local), "returned", payload=b"\xc0")
            await w.settles(2)
            await turn()
            assert not w.state.ledger.tasks
            w.broker.later("claim")  # the next round does not get its answer
            answer.set_result(window(call["claim"]))
            await turn()

            assert not w.fetcher.empty.is_set()

    asyncio.run(scenario())


def test_a_burst_waits_for_the_retries_of_what_it_ran() -> None:
    async def scenario() -> None:
        async with roles(settings=BURST) as w:
            w.run(w.settler.run())
            w.accept(task("a", retries=1, backoff_ms=60_000, jitter=False))
            w.collector.endings([Ending(w.pool.number_of("a"), "raised")])
            await w.settler.wait_empty()
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()

            assert not w.state.ledger.tasks
            assert not w.fetcher.empty.is_set()

    asyncio.run(scenario())


# What replies tell.


def test_a_queue_whose_data_was_lost_is_told_of() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("claim", window("c1", epoch="one"), window("c2", epoch="two"))
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()
            w.fetcher._left["process"] = True
            w.state.wake.set()
            await w.broker.called("claim", 2)
            await turn()

            assert [fields["queue"] for fields in w.told("redis.state_lost")] == ["default"]

    asyncio.run(scenario())
