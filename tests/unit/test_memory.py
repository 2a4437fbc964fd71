"""What a worker says of a server that is full, or that may delete what is queued: each minute, while it is so."""

from __future__ import annotations

import asyncio

import pytest

from qworker.broker.values import ServerMemory
from qworker.errors import BrokerError, BrokerUnavailable
from qworker.worker.memory import watch
from support.roles import World, roles

FULL = ServerMemory(101, 100, "noeviction")
FINE = ServerMemory(100, 100, "volatile-ttl")
EVICTS = ServerMemory(7, 0, "allkeys-lru")


def watched(*answers: object) -> World:
    """Let a watch have these answers, one after the other, and end it at the one that forbids more."""

    async def scenario() -> World:
        async with roles() as w:
            w.broker.script("memory", *answers, BrokerError("NOPERM"))
            await asyncio.wait_for(watch(w.broker, w.state.emit, every_s=0), 5)  # type: ignore[arg-type]
            assert len(w.broker.calls["memory"]) == len(answers) + 1
            return w

    return asyncio.run(scenario())


def test_a_full_server_is_said_at_each_look_for_as_long_as_it_is_full() -> None:
    told = watched(FINE, FULL, FULL, BrokerUnavailable("gone"), FINE, FULL).told("redis.full")

    assert [(event["used"], event["limit"]) for event in told] == [(101, 100)] * 3


def test_a_server_that_may_delete_tasks_is_said_at_each_look_whether_it_is_full_or_not() -> None:
    world = watched(EVICTS, EVICTS._replace(used=8, limit=7))

    assert [event["policy"] for event in world.told("redis.evicts")] == ["allkeys-lru"] * 2
    assert not world.told("redis.full")


@pytest.mark.parametrize("memory", [FINE, ServerMemory(5, 0, "noeviction"), ServerMemory(0, 0, "")])
def test_nothing_is_said_of_a_server_that_has_room(memory: ServerMemory) -> None:
    world = watched(memory)

    assert not world.told("redis.full")
    assert not world.told("redis.evicts")
