"""The settler: every verdict is written until it is answered, and nothing holds up anything else."""

from __future__ import annotations

import asyncio

import pytest

from qworker import codec
from qworker.errors import BrokerError, BrokerUnavailable, ServerFull
from qworker.lifecycle import How, State
from qworker.model import Ending, StopOrder
from qworker.worker import settler as settler_module
from qworker.worker.blame import RELEASE
from support.roles import roles, settled, task

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def no_pauses(monkeypatch) -> None:
    monkeypatch.setattr(settler_module, "PAUSE_S", 0.0)


def test_what_ends_while_a_settle_is_under_way_is_settled_together_by_the_next() -> None:
    async def scenario() -> None:
        async with roles(process=4) as w:
            w.run(w.settler.run())
            w.accept(*(task(local) for local in "abc"))
            first = w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.broker.called("settle")
            w.pool.end(w.pool.number_of("b"), "returned", payload=b"\xc0")
            w.pool.end(w.pool.number_of("c"), "returned", payload=b"\xc0")

            first.set_result(settled("ok"))

            call = await w.broker.called("settle", 2)
            assert [item.id for item in call["items"]] == ["b", "c"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [BrokerUnavailable("gone"), BrokerError("NOPERM"), ServerFull("full")])
def test_an_unanswered_settle_is_sent_again_the_same_and_says_so(error) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            w.broker.script("settle", error)

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            first, second = w.broker.calls["settle"]
            assert second["items"] == first["items"]
            assert (first["resend"], second["resend"]) == (False, True)
            assert w.answers == [False, True]
            assert not w.state.ledger.tasks

    asyncio.run(scenario())


def test_what_is_under_way_counts_as_pending() -> None:
    """A drain that gives up says how many tasks it could not record."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"), task("b"))
            w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.broker.called("settle")
            w.pool.end(w.pool.number_of("b"), "returned", payload=b"\xc0")

            assert w.settler.pending == 2

    asyncio.run(scenario())


def test_a_busy_queue_does_not_hold_up_the_outcomes_of_another() -> None:
    async def scenario() -> None:
        async with roles(queues=("busy", "calm"), process=4) as w:
            w.run(w.settler.run())
            w.accept(task("a"), queue="busy")
            w.accept(task("b"), claim="c2", queue="calm")
            w.broker.later("settle")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.broker.called("settle")

            w.pool.end(w.pool.number_of("b"), "returned", payload=b"\xc0")

            call = await w.broker.called("settle", 2)
            assert (call["queue"], [item.id for item in call["items"]]) == ("calm", ["b"])

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("ending", "how"),
    [
        (Ending(0, "unstarted", detail="stalled"), How.NEVER_STARTED),
        (Ending(0, "killed", asked="drain"), How.KILLED),
        (Ending(0, "interrupted", asked="drain"), How.NOTICED),
        (Ending(0, "child_died", exact=True), How.HOST_DIED),
    ],
)
def test_a_way_back_that_meets_a_stop_is_settled_as_cancelled_in_the_way_it_ended(ending, how) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            w.broker.script("settle", settled("stopped"))

            w.collector.endings([ending._replace(number=w.pool.number_of("a"))])
            await w.settler.wait_empty()

            (end,) = w.broker.calls["settle"][1]["items"]
            outcome = codec.unpack_outcome(end.value)
            assert (outcome.state, outcome.how) == (State.CANCELLED, how)
            assert not w.state.ledger.tasks

    asyncio.run(scenario())


def test_a_refused_outcome_is_let_go_and_said() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            w.broker.script("settle", settled("lost"))

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            assert [fields["task"] for fields in w.told("outcome.refused")] == ["default:a"]
            assert not w.told("task.ended")
            assert not w.state.ledger.claims

    asyncio.run(scenario())


def test_an_id_that_waits_under_two_claims_is_settled_in_two_calls() -> None:
    """After an outage: the old claim's outcome is refused, the new one's is recorded."""

    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"), claim="old")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            w.accept(task("a"), claim="new")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")

            w.run(w.settler.run())
            await w.settler.wait_empty()

            claims = [[item.claim for item in call["items"]] for call in w.broker.calls["settle"]]
            assert claims == [["old"], ["new"]]

    asyncio.run(scenario())


def test_large_outcomes_are_split_over_several_calls(monkeypatch) -> None:
    monkeypatch.setattr(settler_module, "MOST_BYTES", 1000)

    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(*(task(local) for local in "abc"))
            for local in "abc":
                w.pool.end(w.pool.number_of(local), "returned", payload=codec.pack_value("x" * 900))

            w.run(w.settler.run())
            await w.settler.wait_empty()

            assert [len(call["items"]) for call in w.broker.calls["settle"]] == [2, 1]

    asyncio.run(scenario())


def test_stops_that_a_settle_brings_reach_the_tasks() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"), task("b"))
            w.broker.script("settle", settled("ok", stops=[("c1", "b", StopOrder(0))]))

            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            assert w.pool.asked == [(w.pool.number_of("b"), "stop", 0.0)]

    asyncio.run(scenario())


def test_a_failure_that_is_no_answer_ends_the_settler() -> None:
    """A bug must end the worker loudly, not leave it running without recording anything."""

    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.broker.script("settle", RuntimeError("a bug"))
            w.settler.put(w.held("a"), RELEASE)

            with pytest.raises(ExceptionGroup) as caught:
                await w.settler.run()

            assert isinstance(caught.value.exceptions[0], RuntimeError)

    asyncio.run(scenario())
