"""The asyncio broker: the same verbs, side by side, and the waits that only a worker needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest

from qworker.broker import AsyncBroker, BellRing, Broker, StopHint
from qworker.broker.calls import command
from qworker.broker.values import Stand, WatchHint
from qworker.errors import BrokerUnavailable, SubmitUnknown
from qworker.model import Line, StopOrder, Window
from qworker.views import WorkerRecord
from support.brokers import LEASE_MS, QUEUE, WORKER, end, ids, item, name, seed, stop, take
from support.proxy import Proxy
from support.servers import Server
from support.waiting import await_until

MakeServer = Callable[..., Server]
ROOMS = [(("default", "process"), 10)]


async def round_of_work(broker: AsyncBroker) -> None:
    """One task through all verbs that a worker uses."""
    await broker.submit(QUEUE, Line(), [item("a"), item("b")], given=False)
    window = await broker.claim(QUEUE, claim=name("c1"), worker=WORKER, rooms=ROOMS, lease_ms=LEASE_MS)
    renewal = await broker.renew(QUEUE, claims=[name("c1")], lease_ms=LEASE_MS)
    reply = await broker.settle(QUEUE, [end("a", "c1"), end("b", "c1")], worker=WORKER)
    peeked = await broker.peek(QUEUE, ["a"])

    assert ids(window) == ["a", "b"]
    assert renewal.lost == ()
    assert reply.codes == ("ok", "ok")
    assert peeked[0].outcome == end("a", "c1").value


def test_the_verbs_work_on_a_real_server(server: Server) -> None:
    async def main() -> None:
        async with AsyncBroker(server.url, "t") as broker:
            await round_of_work(broker)
            assert (await broker.check_fit()).software == server.kind

    asyncio.run(main())


def test_the_verbs_work_on_fakeredis() -> None:
    async def main() -> None:
        client = fakeredis.FakeAsyncRedis(version=(7,))
        await round_of_work(AsyncBroker("redis://fake", "t", client=client))
        await client.aclose()

    asyncio.run(main())


def test_a_claim_that_hangs_holds_up_no_renewal(one_server: Server) -> None:
    proxy = Proxy(one_server.socket_path)

    async def main() -> None:
        async with AsyncBroker(proxy.url, "t", timeout_s=6) as broker:
            await broker.submit(QUEUE, Line(), [item("a")], given=False)
            await broker.claim(QUEUE, claim=name("c1"), worker=WORKER, rooms=ROOMS, lease_ms=LEASE_MS)
            # The server works on no blocking command of ours: a BLPOP stands for a call that takes long.
            slow = asyncio.create_task(broker.wait_bell(["other"], ["default"], 5))
            renewals = [broker.renew(QUEUE, claims=[name("c1")], lease_ms=LEASE_MS) for _ in range(5)]

            begun = time.monotonic()
            answers = await asyncio.gather(*renewals)

            assert time.monotonic() - begun < 2
            assert all(answer.lost == () for answer in answers)
            assert not slow.done()
            slow.cancel()

    asyncio.run(main())
    proxy.close()


def test_a_lost_answer_is_asked_for_again(one_server: Server) -> None:
    proxy = Proxy(one_server.socket_path)

    async def main() -> None:
        async with AsyncBroker(proxy.url, "t", timeout_s=3) as broker:
            await broker.submit(QUEUE, Line(), [item("x")], given=False)
            proxy.cut_answers(2, after=b"EVALSHA")

            answer = await broker.submit(QUEUE, Line(), [item("a")], given=False)

            assert answer.codes == ("same",)
            assert proxy.commands == 3

    asyncio.run(main())
    proxy.close()


def test_a_silent_server_is_given_up_at_the_deadline(one_server: Server) -> None:
    proxy = Proxy(one_server.socket_path)

    async def main() -> None:
        async with AsyncBroker(proxy.url, "t", timeout_s=0.9) as broker:
            await broker.submit(QUEUE, Line(), [item("x")], given=False)
            proxy.hold()
            begun = time.monotonic()
            with pytest.raises(SubmitUnknown):
                await broker.submit(QUEUE, Line(), [item("a")], given=False)
            with pytest.raises(BrokerUnavailable, match=r"cannot renew 1 claim\(s\) of queue 'q'"):
                await broker.renew(QUEUE, claims=[name("c1")], lease_ms=LEASE_MS)
            assert time.monotonic() - begun < 2.5
            proxy.release()
            assert (await broker.peek(QUEUE, ["x"]))[0].alive

    asyncio.run(main())
    proxy.close()


def test_a_cancelled_call_leaves_no_answer_behind_for_the_next(one_server: Server) -> None:
    proxy = Proxy(one_server.socket_path)

    async def main() -> None:
        async with AsyncBroker(proxy.url, "t", timeout_s=5) as broker:
            await broker.submit(QUEUE, Line(), [item("a")], given=False)
            proxy.hold()
            hanging = asyncio.create_task(broker.peek(QUEUE, ["nobody"]))
            await asyncio.sleep(0)
            await await_until(lambda: not hanging.done(), description="the call to be under way")
            hanging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await hanging
            proxy.release()

            assert [found.id for found in await broker.peek(QUEUE, ["a"])] == ["a"]

    asyncio.run(main())
    proxy.close()


def test_the_bell_wakes_one_waiter_with_queue_and_pool(server: Server) -> None:
    async def main() -> None:
        async with AsyncBroker(server.url, "t") as broker, AsyncBroker(server.url, "t") as other:
            waiting = asyncio.create_task(broker.wait_bell(["first", QUEUE], ["default", "thread"], 10))
            await await_until(lambda: blocked_clients(other), description="a blocked client")
            await other.submit(QUEUE, Line("thread"), [item("a", line=Line("thread"))], given=False)

            assert await waiting == BellRing(QUEUE, "thread")
            assert await broker.wait_bell([QUEUE], ["default", "thread"], 0.01) is None

    asyncio.run(main())


async def blocked_clients(broker: AsyncBroker) -> bool:
    return "blocked_clients:1\r" in await say(broker, "INFO", "clients")


async def say(broker: AsyncBroker, *words: str | bytes) -> Any:
    """Send a plain command; text comes back as text."""
    reply = await broker.run(command("say something", *words, parse=lambda reply: reply))
    return reply.decode() if isinstance(reply, bytes) else reply


def test_a_bell_on_a_broken_connection_is_a_wake_after_a_short_pause(tmp_path: object) -> None:
    async def main() -> None:
        async with AsyncBroker(f"unix://{tmp_path}/none", "t") as broker:
            begun = time.monotonic()
            assert await broker.wait_bell([QUEUE], ["default"], 30) is None
            assert 0.04 < time.monotonic() - begun < 5

    asyncio.run(main())


def test_stops_are_heard_also_after_the_connection_broke(server: Server) -> None:
    async def main(sync: Broker) -> None:
        heard: list[StopHint | WatchHint] = []
        async with AsyncBroker(server.url, "t", instance="me") as broker:
            listener = asyncio.create_task(broker.listen_stops(WORKER, heard.append))
            await await_until(lambda: listening(broker), description="a listener")

            stop(sync, "a", grace_ms=5)
            await await_until(lambda: heard, description="the first stop")
            await say(broker, "CLIENT", "KILL", "TYPE", "pubsub")
            await say(broker, "PUBLISH", broker.keyspace.stops(WORKER), b"what is this")
            # A hint that is pushed before the listener is back is missed: that is what hints are. So push until it is.
            await await_until(lambda: stop(sync, "b") and len(heard) > 1, description="a stop after the break")

            assert sync.watch(QUEUE, "a", WORKER) == 1
            await await_until(lambda: heard[-1] == WatchHint(QUEUE, "a"), description="word of a watcher")

            listener.cancel()
        assert heard[:2] == [
            StopHint(QUEUE, name("c1"), "a", StopOrder(5)),
            StopHint(QUEUE, name("c1"), "b", StopOrder(None)),
        ]

    with Broker(server.url, "t") as sync:
        seed(sync, "a", "b")
        take(sync, "c1")
        asyncio.run(main(sync))


async def fill_a_claim(broker: AsyncBroker, local: str) -> None:
    """Leave a claim standing as a worker that listens, and submit a task."""
    await await_until(lambda: listening(broker), description="a listener")
    stand = Stand(name(f"of-{local}"), WORKER, ("default", "process"), LEASE_MS)
    window = await broker.claim(
        QUEUE, claim=name(f"c-{local}"), worker=WORKER, rooms=ROOMS, lease_ms=LEASE_MS, stand=stand
    )
    assert window.tasks == ()
    await broker.submit(QUEUE, Line(), [item(local)], given=False)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_window_of_a_claim_that_a_submit_has_filled_is_heard(server: Server, adapted: bool) -> None:
    """By our own connections, and by those of redis-py, which a URL with options has."""

    async def main() -> None:
        heard: list[Window] = []
        url = server.url + ("?health_check_interval=0" if adapted else "")
        async with AsyncBroker(url, "t", instance="me") as broker:
            listener = asyncio.create_task(broker.listen_stops(WORKER, lambda _: None, on_window=heard.append))
            await fill_a_claim(broker, "a")
            await await_until(lambda: heard, description="a window")
            await say(broker, "PUBLISH", broker.keyspace.stops(WORKER), b"window but not one of ours")
            await fill_a_claim(broker, "b")
            await await_until(lambda: len(heard) > 1, description="the next window")
            listener.cancel()
        assert [(window.claim, ids(window)) for window in heard] == [(name("of-a"), ["a"]), (name("of-b"), ["b"])]

    asyncio.run(main())


@pytest.mark.parametrize("adapted", [False, True])
def test_what_fails_on_a_window_fails_who_listens_and_is_no_broken_connection(server: Server, adapted: bool) -> None:
    def fail(window: Window) -> None:
        raise LookupError(window.claim)

    async def main() -> None:
        url = server.url + ("?health_check_interval=0" if adapted else "")
        async with AsyncBroker(url, "t", instance="me") as broker:
            listener = asyncio.create_task(broker.listen_stops(WORKER, lambda _: None, on_window=fail))
            await fill_a_claim(broker, "a")
            with pytest.raises(LookupError, match=name("of-a")):
                await asyncio.wait_for(listener, 10)

    asyncio.run(main())


def test_a_worker_that_comes_is_announced_once_to_those_that_listen(server: Server) -> None:
    async def main(sync: Broker) -> None:
        comings: list[None] = []
        async with AsyncBroker(server.url, "t", instance="me") as broker:
            listener = asyncio.create_task(broker.listen_stops(WORKER, lambda hint: None, lambda: comings.append(None)))
            # Who came before it listened was not heard: it is told to look.
            await await_until(lambda: comings, description="a listener")
            comings.clear()

            sync.beat(worker_record("box:7:aaaa"))
            sync.beat(worker_record("box:7:aaaa"))
            sync.beat(worker_record("box:8:bbbb"))
            # The third is told after the second: when it was heard, a second word on the first would have been, too.
            await await_until(lambda: len(comings) >= 2, description="word of two workers")
            await broker.server_facts()
            assert len(comings) == 2

            comings.clear()
            await say(broker, "CLIENT", "KILL", "TYPE", "pubsub")
            await await_until(lambda: comings, description="a listener again, and so a look")

            listener.cancel()

    with Broker(server.url, "t") as sync:
        asyncio.run(main(sync))


def worker_record(worker: str) -> WorkerRecord:
    return WorkerRecord(worker, "box", 7, "boot", "ns", 1, (QUEUE,), "running", 1, {})


async def listening(broker: AsyncBroker) -> bool:
    channel = broker.keyspace.stops(WORKER)
    return (await say(broker, "PUBSUB", "NUMSUB", channel)) == [channel.encode(), 1]


def test_connections_of_each_role_carry_it_in_their_names(url: str) -> None:
    async def main() -> None:
        async with AsyncBroker(url, "t", instance="box:1:abcd") as broker:
            await broker.wait_bell([QUEUE], ["default"], 0.01)
            clients = await say(broker, "CLIENT", "LIST")
            assert " name=qw:worker:box:1:abcd " in clients
            assert " name=qw:bell:box:1:abcd " in clients

    asyncio.run(main())
