"""The fetcher on a cluster: a queue whose server is away holds up no other, and is not forgotten."""

from __future__ import annotations

import asyncio

import pytest

from qworker.errors import BrokerUnavailable
from qworker.model import Release
from qworker.worker import fetcher as fetcher_module
from qworker.worker.state import Phase
from support.roles import roles, task, turn, window

BURST = {"burst": True}
TWO = {"one": "a", "two": "b"}


def test_a_queue_whose_server_is_away_holds_up_no_other(monkeypatch) -> None:
    """Nor is it forgotten: its claim stays open, and what it brings at last is taken in."""
    monkeypatch.setattr(fetcher_module, "TURN_S", 0.01)

    async def scenario() -> None:
        async with roles(servers=TWO, process=4) as w:
            away = w.broker.later("claim")
            w.broker.script("claim", window("c2", task("b"), queue="two"))
            w.run(w.fetcher.run())
            await w.broker.called("wait_bell")
            assert w.pool.batches == [["b"]]
            assert not w.fetcher.idle.is_set()

            w.fetcher._bell.rung = True
            w.state.wake.set()
            await w.broker.called("claim", 3)
            await turn()
            assert [call["queue"] for call in w.broker.calls["claim"]] == ["one", "two", "two"], "it is asked once"

            away.set_result(window(w.broker.calls["claim"][0]["claim"], task("a"), queue="one"))
            again = await w.broker.called("claim", 4)
            assert w.pool.batches == [["b"], ["a"]]
            assert again["queue"] == "one", "and it may hold more"

    asyncio.run(scenario())


def test_a_claim_that_goes_on_by_itself_keeps_its_id_and_asks_for_what_there_is_room_for_by_then(monkeypatch) -> None:
    monkeypatch.setattr(fetcher_module, "TURN_S", 0.01)

    async def scenario() -> None:
        async with roles(servers=TWO, process=1, settings={"window": 1}) as w:
            away = w.broker.later("claim")
            w.broker.script("claim", window("c2", task("b"), queue="two"))
            w.run(w.fetcher.run())
            await w.broker.called("claim", 2)
            away.set_exception(BrokerUnavailable("gone"))

            again = await w.broker.called("claim", 3)

            first = w.broker.calls["claim"][0]
            assert (first["queue"], first["alone"], first["rooms"]) == ("one", True, [(("process", "default"), 1)])
            assert (again["queue"], again["alone"], again["rooms"]) == ("one", False, [])
            assert again["claim"] == first["claim"]

    asyncio.run(scenario())


@pytest.mark.parametrize("late", [True, False], ids=["the suspect is late", "the others are"])
def test_a_suspect_and_what_another_server_hands_out_are_never_here_together(monkeypatch, late: bool) -> None:
    """Both were asked for when nothing was held."""
    monkeypatch.setattr(fetcher_module, "TURN_S", 0.01)

    async def scenario() -> None:
        async with roles(servers=TWO, process=4) as w:
            away = w.broker.later("claim")
            w.broker.script("claim", window("c2", task("b"), queue="two", alone=not late))
            w.run(w.fetcher.run(), w.settler.run())
            await w.broker.called("claim", 2)
            await turn()

            away.set_result(window("c1", task("a"), queue="one", alone=late))

            assert await w.settles(1) == [Release("a", "c1")]
            assert w.pool.batches == [["b"]]
            assert w.state.alone is not late

    asyncio.run(scenario())


def test_a_burst_is_not_over_while_the_server_of_one_queue_is_away(monkeypatch) -> None:
    monkeypatch.setattr(fetcher_module, "TURN_S", 0.01)

    async def scenario() -> None:
        async with roles(servers=TWO, settings=BURST) as w:
            away = w.broker.later("claim")
            w.run(w.fetcher.run())
            first = await w.broker.called("claim")
            await w.broker.called("wait_bell")
            assert not w.fetcher.empty.is_set()

            away.set_result(window(first["claim"], queue="one"))

            async with asyncio.timeout(0.5):
                await w.fetcher.empty.wait()

    asyncio.run(scenario())


def test_a_quiet_worker_asks_no_more_of_several_servers_either() -> None:
    async def scenario() -> None:
        async with roles(servers=TWO) as w:
            away = w.broker.later("claim")
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            w.state.phase = Phase.QUIET

            away.set_exception(BrokerUnavailable("gone"))
            await w.fetcher.idle.wait()
            await turn()

            assert len(w.broker.calls["claim"]) == 1
            assert not w.fetcher._apart

    asyncio.run(scenario())


def test_a_worker_that_has_drained_waits_for_no_claim_that_goes_on_by_itself(monkeypatch) -> None:
    """What it may have got is put back when its lease lapses; nothing of it is taken in any more."""
    monkeypatch.setattr(fetcher_module, "TURN_S", 0.01)

    async def scenario() -> None:
        async with roles(servers=TWO) as w:
            away = w.broker.later("claim")
            w.run(w.fetcher.run())
            await w.broker.called("claim", 2)
            w.state.phase = Phase.DRAINING

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await w.fetcher.rest()
            await turn()

            assert away.cancelled()
            assert w.fetcher.idle.is_set()

    asyncio.run(scenario())
