"""The groups of what a worker holds: nothing starts before they are read, and no answer undoes a stop."""

from __future__ import annotations

import asyncio

import pytest

from qworker import codec
from qworker.errors import BrokerUnavailable
from qworker.lifecycle import How, State
from qworker.model import End
from qworker.worker import groups
from support.roles import World, roles, task


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "EVERY_S", 0.02)
    monkeypatch.setattr(groups, "LATE_S", 0.01)


def grouped(local: str, *path: str, **options):
    return task(local, extra={"g": [*path]}, **options)


async def outcomes(w: World, count: int) -> list[tuple[State, How]]:
    found = []
    for settle in await w.settles(count):
        assert isinstance(settle, End), settle
        outcome = codec.unpack_outcome(settle.value)
        found.append((outcome.state, outcome.how))
    return found


async def put(w: World, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(w.pool.batches) < count:
            await asyncio.sleep(0.001)


def test_nothing_of_a_window_starts_before_its_groups_are_read() -> None:
    async def scenario() -> None:
        async with roles() as w:
            answer = w.broker.later("read_groups")
            w.accept(grouped("a", "g-1", "g-2"), task("b"))
            assert (await w.broker.called("read_groups"))["groups"] == ["g-1", "g-2"]
            assert w.pool.batches == []

            answer.set_result((("open", None), ("open", None)))
            await put(w)
            assert w.pool.batches == [["a", "b"]]

            w.accept(grouped("c", "g-2"), claim="c2")
            assert w.pool.batches == [["a", "b"], ["c"]]  # it was read a moment ago
            assert len(w.broker.calls["read_groups"]) == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("state", ["stopped", "closed"])
def test_what_belongs_to_a_group_that_has_ended_never_starts(state: str) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.broker.script("read_groups", ((state, None),))
            w.accept(grouped("a", "g-1"), task("b"))

            assert await outcomes(w, 1) == [(State.CANCELLED, How.NEVER_STARTED)]
            await put(w)
            assert w.pool.batches == [["b"]]

    asyncio.run(scenario())


def test_a_window_waits_until_it_is_known_whether_an_owner_is_gone_and_redis_answers() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("read_groups", BrokerUnavailable("away"), (("late", None),), (("detached", None),))
            w.accept(grouped("a", "g-1"))
            await put(w)

            assert len(w.broker.calls["read_groups"]) == 3

    asyncio.run(scenario())


def test_a_push_stops_what_runs_with_the_groups_own_grace_and_only_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(grouped("a", "g-1", "g-2"), task("b"))
            await put(w)
            w.dispatcher.groups.heard("g-1", 250)
            w.dispatcher.groups.heard("g-1", 250)

            assert w.pool.asked == [(w.held("a").number, "stop", 0.25)]
            w.dispatcher.groups.heard("g-1", 0)
            assert w.pool.asked[1:] == [(w.held("a").number, "stop", 0.0)]

    asyncio.run(scenario())


def test_an_answer_from_before_the_stop_does_not_undo_it() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            answer = w.broker.later("read_groups")
            w.accept(grouped("a", "g-1"))
            await w.broker.called("read_groups")
            w.dispatcher.groups.heard("g-1", None)
            answer.set_result((("open", None),))

            assert await outcomes(w, 1) == [(State.CANCELLED, How.NEVER_STARTED)]

    asyncio.run(scenario())


def test_a_push_that_overtakes_the_claim_is_remembered() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.dispatcher.groups.heard("g-1", None)
            w.accept(grouped("a", "g-1"))

            assert await outcomes(w, 1) == [(State.CANCELLED, How.NEVER_STARTED)]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kind", "how"), [("unstarted", How.NEVER_STARTED), ("raised", How.NOTICED), ("child_died", How.HOST_DIED)]
)
def test_a_way_back_into_a_stopped_group_is_its_end(kind: str, how: How) -> None:
    """No flag on the task would refuse the way back: this worker knows, and the next one would have to bury it."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(grouped("a", "g-1", retries=5))
            await put(w)
            w.dispatcher.groups.heard("g-1", None)
            w.pool.end(w.held("a").number, kind)

            assert await outcomes(w, 1) == [(State.CANCELLED, how)]

    asyncio.run(scenario())


def test_groups_are_read_again_and_those_that_tasks_opened_are_renewed() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(grouped("a", "g-1"))
            await put(w)
            w.collector.group(w.held("a").number, "g-own", True)
            w.broker.script("read_groups", BrokerUnavailable("away"), (("stopped", 7),))
            w.run(w.dispatcher.groups.run())

            assert (await w.broker.called("beat_groups"))["groups"] == ["g-own"]
            await w.broker.called("read_groups", 4)
            assert w.pool.asked == [(w.held("a").number, "stop", 0.007)]

    asyncio.run(scenario())


def test_a_task_that_ends_in_any_way_leaves_no_group_open() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run(), w.dispatcher.groups.run())
            w.accept(task("a"), task("b"), task("c"))
            for local, group in (("a", "g-a"), ("b", "g-b"), ("c", "g-c")):
                w.collector.group(w.held(local).number, group, True)
            w.collector.group(w.held("c").number, "g-c", False)
            w.broker.script("stop_group", BrokerUnavailable("away"))
            w.pool.end(w.held("c").number, "returned")
            w.pool.end(w.held("a").number, "killed")
            w.state.fence([w.held("b")])

            calls = [await w.broker.called("stop_group", n) for n in (1, 2, 3)]
            assert {call["group"] for call in calls} == {"g-a", "g-b"}
            assert all(call["gone"] for call in calls)

    asyncio.run(scenario())
