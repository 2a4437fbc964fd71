"""The beacon: the worker's record, and the health file that must not depend on Redis."""

from __future__ import annotations

import asyncio
import signal

import pytest

from qworker.errors import BrokerUnavailable
from qworker.lifecycle import State
from qworker.model import Survivor
from qworker.worker import beacon as beacon_module
from qworker.worker.beacon import Beacon
from qworker.worker.neighbours import Neighbours
from qworker.worker.signals import Signals
from support.roles import World, roles, task


class Health:
    def __init__(self) -> None:
        self.turns = 0

    def turned(self) -> None:
        self.turns += 1


def beacon(w: World) -> tuple[Beacon, Health]:
    health = Health()
    return Beacon(w.state, w.broker, Neighbours(w.state, w.broker), health), health  # type: ignore[arg-type]


def test_the_health_file_goes_on_while_redis_does_not_answer(monkeypatch) -> None:
    """Else an outage of Redis would have every worker restarted by its liveness probe."""
    monkeypatch.setattr(beacon_module, "TICK_S", 0.0)

    async def scenario() -> None:
        async with roles() as w:
            w.broker.later("beat")
            told, health = beacon(w)
            w.run(told.run(), told.tick())
            await w.broker.called("beat")
            before = health.turns

            async with asyncio.timeout(2):
                while health.turns < before + 5:
                    await asyncio.sleep(0)

            assert len(w.broker.calls["beat"]) == 1

    asyncio.run(scenario())


def test_a_survivor_is_shown_at_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            told, _ = beacon(w)
            w.run(told.run())
            await w.broker.called("beat")
            w.pool.left.append(Survivor("default:a", "t", 7, 0, State.TIMED_OUT, 1.0, 2.0))

            told.changed()

            async with asyncio.timeout(0.5):
                call = await w.broker.called("beat", 2)
            assert call["record"].survivors[0]["id"] == "default:a"

    asyncio.run(scenario())


def test_a_worker_that_has_just_come_is_looked_at_at_once() -> None:
    """One that is killed in its first seconds is then rescued as quickly as any other."""

    async def scenario() -> None:
        async with roles() as w:
            told, _ = beacon(w)
            w.run(told.run())
            await w.broker.called("workers")

            told.greet()

            async with asyncio.timeout(0.5):
                await w.broker.called("workers", 2)

    asyncio.run(scenario())


def test_the_list_of_workers_is_written_more_seldom_than_the_record(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("beat", BrokerUnavailable("gone"))
            told, _ = beacon(w)

            for _ in range(3):
                await told.beat()
            monkeypatch.setattr(beacon_module, "LIST_S", 0.0)
            await told.beat()

            # The first was not answered, so the second says all of it again.
            assert [call["listed"] for call in w.broker.calls["beat"]] == [False, False, True, False]

    asyncio.run(scenario())


def test_the_record_shows_what_runs_longest_and_the_slots_of_every_pool() -> None:
    async def scenario() -> None:
        async with roles(process=2, thread=3) as w:
            w.accept(task("a"), task("b"))
            pool = w.pools["process"]
            pool.started = {pool.number_of("a"): 1.0, pool.number_of("b"): 9.0}
            told, _ = beacon(w)

            shown = told.record()

            assert [one["id"] for one in shown.running] == ["default:b", "default:a"]
            assert shown.slots == {"process": 2, "thread": 3}

    asyncio.run(scenario())


def test_a_hangup_that_is_ignored_on_the_workers_behalf_stays_ignored() -> None:
    """`nohup qworker start &` outlives its terminal."""

    async def scenario() -> None:
        async with roles() as w:
            Signals(w.state, dump=lambda: None, changed=lambda: None).install()

            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asyncio.run(scenario())
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_any_ending_signal_begins_the_drain(number) -> None:
    async def scenario() -> None:
        async with roles() as w:
            signals = Signals(w.state, dump=lambda: None, changed=lambda: None)
            signals.install()

            signal.raise_signal(number)

            async with asyncio.timeout(2):
                await signals.drain.wait()
            assert not signals.stop.is_set()
            assert signals.last is number

    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests themselves run under nohup
    try:
        asyncio.run(scenario())
    finally:
        signal.signal(signal.SIGHUP, before)
