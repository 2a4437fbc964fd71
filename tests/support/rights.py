"""The lives of the three roles, as the verbs of a broker, and the rights that docs/redis-rights.md gives them.

    rules()["producer"]            the words of its ACL line, after the name and the password
    live(role, broker, helper)     everything that the role ever asks of a server; raises at what it may not

What others must have done before (a claim for a renewal, a task for a look) the helper does, who may do everything.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import redis

from qworker.broker import Broker
from qworker.broker.aio import AsyncBroker
from qworker.broker.calls import command
from qworker.broker.values import Note, Stand, StartedTask
from qworker.errors import BrokerError
from qworker.lifecycle import State
from qworker.model import Again, Line, Lose, Park, Release
from qworker.views import WorkerRecord
from support.brokers import ALL_NEEDS, LEASE_MS, QUEUE, WORKER, cancelled, end, item, name, seed, take
from support.servers import Server

PAGE = Path(__file__).resolve().parents[2] / "docs" / "redis-rights.md"
NAMESPACE = "shop"
ROLES = ("producer", "worker", "viewer")
CLIENT = "abcdefghijkl"
_LINE = re.compile(r"^ACL SETUSER (\w+) on >\S+ (.+)$", re.MULTILINE)


def rules() -> dict[str, list[str]]:
    """The words of each role's line."""
    return {role: words.split() for role, words in _LINE.findall(PAGE.read_text())}


def grant(server: Server, role: str, *words: str) -> None:
    """Make a user of exactly these rights, on an empty server that has seen no denial."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        client.script_flush()
        client.execute_command("ACL", "SETUSER", role, "reset", "on", ">pw", "-@all", *words)
        client.acl_log_reset()


def url_of(server: Server, role: str) -> str:
    return f"unix://{role}:pw@{server.socket_path}"


def denied(server: Server) -> set[str]:
    """What somebody was denied."""
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        return {entry["object"] for entry in client.acl_log()}


def live(role: str, as_role: Broker, helper: Broker) -> None:
    """Do all that a role does."""
    _LIVES[role](as_role, helper)
    if role != "producer" and "INFO" in as_role.server_facts().withheld:
        raise BrokerError("the server's facts are not told, so nobody sees that it evicts, or is a replica")
    if as_role.name not in str(helper.client.client_list()):
        raise BrokerError("its connections have no name in CLIENT LIST")


def _producer(me: Broker, helper: Broker) -> None:
    with me.subscribe(CLIENT):
        pass
    _hand_over(me, helper)
    me.submit(QUEUE, Line(), [item("plain", client=CLIENT)], given=False)
    me.submit(QUEUE, Line(), [item("given")], given=True)
    me.submit(QUEUE, Line("thread"), [item("large", line=Line("thread"), size=5_000)], given=False)
    me.outcomes(QUEUE, ["never"])
    me.submit(QUEUE, Line(), [item("later", delay_ms=60_000), item("late", deadline_ms=1)], given=False)
    me.peek(QUEUE, ["plain", "never"])
    me.progress(QUEUE, ["plain"])
    for local in ("plain", "later"):
        me.inspect(QUEUE, local)
    me.workers()
    helper.beat(_record())
    me.workers()
    while me.expire(QUEUE, ["late"], value_of=cancelled)[0].code == "waiting":
        pass
    take(helper, "c1")
    me.inspect(QUEUE, "plain")
    me.stop(QUEUE, ["plain"], mode="stop", value_of=cancelled)
    helper.settle(QUEUE, [Lose("given", name("c1"), exact=False)])
    take(helper, "c2")
    helper.settle(QUEUE, [Lose("given", name("c2"), exact=False)])
    me.stop(QUEUE, ["later", "given"], mode="cancel", value_of=cancelled)
    me.open_group("g-1", lease_ms=60_000)
    me.open_group("g-2", path=["g-1"], lease_ms=60_000)
    me.join_group(["g-1"], [f"{QUEUE}:a"])
    me.beat_groups(["g-1"])
    me.show_group("g-1")
    me.stop_group("g-1")
    me.close_group("g-1", seen=-1)


def _hand_over(me: Broker, helper: Broker) -> None:
    """Submit to a worker that is idle, and hears."""
    with helper.client.pubsub() as heard:
        heard.subscribe(helper.keyspace.stops(WORKER))
        heard.get_message(timeout=5)
        take(helper, "c0", stand=Stand(name("s0"), WORKER, ALL_NEEDS, LEASE_MS))
        me.submit(QUEUE, Line(), [item("handed")], given=False)
    if helper.settle(QUEUE, [end("handed", "s0")]).codes != ("ok",):
        raise BrokerError("nothing is handed to an idle worker at once")


def _worker(me: Broker, helper: Broker) -> None:
    me.check_fit()
    me.beat(_record())
    me.workers()
    take(me, "c0")
    seed(helper, "lost")
    take(helper, "gone", lease_ms=1)
    seed(helper, "due", delay_ms=1)
    brought: set[str] = set()
    claims = (f"d{number}" for number in itertools.count())
    while not {"lost", "due"} <= brought:
        brought.update(task.id for task in take(me, next(claims)).tasks)
    seed(helper, *"abcdefg", client=CLIENT)
    seed(helper, "large", given=False, size=5_000)
    take(me, "c1")
    me.settle(QUEUE, [end("large", "c1", text=b"." * 5_000)])
    me.renew(
        QUEUE, claims=[name("c1")], lease_ms=LEASE_MS, started=[StartedTask(name("c1"), "a", 5)],
        notes=[Note(name("c1"), "a", CLIENT, b"cursor", b"progress")],
    )  # fmt: skip
    me.settle(QUEUE, [
        end("a", "c1", client=CLIENT), end("b", "c1", state=State.FAILED), Again("c", name("c1"), 0),
        Park("d", name("c1"), 1), Release("e", name("c1")), Lose("f", name("c1"), exact=False),
    ], worker=WORKER)  # fmt: skip
    me.settle(QUEUE, [end("a", "c1", client=CLIENT)])
    me.claim_ids(QUEUE, ["e", "f"], claim=name("c2"), worker=WORKER, lease_ms=LEASE_MS)
    me.settle(QUEUE, [Lose("e", name("c2"), exact=False), Lose("f", name("c2"), exact=False)])
    take(me, "c3", alone=True)
    helper.stop(QUEUE, ["g"], mode="stop", value_of=cancelled)
    me.renew(QUEUE, claims=[name("c1")], lease_ms=LEASE_MS)
    me.rescue_worker(QUEUE, WORKER)
    helper.open_group("g-1", lease_ms=600_000)
    me.beat_groups(["g-1"])
    me.read_groups(["g-1"])
    me.stop_group("g-1", gone=True)
    me.ring(QUEUE, "default")
    me.retire(WORKER)
    asyncio.run(_ears(me))


async def _ears(me: Broker) -> None:
    """What a worker hears of: doorbells, stops, and that its own connection for them still answers."""
    refused: list[str] = []
    async with AsyncBroker(me.url, NAMESPACE, on_refused=refused.append) as broker:
        await broker.wait_bell([QUEUE], ["default"], 0.01)
        heard = asyncio.Event()
        listening = asyncio.ensure_future(broker.listen_stops(WORKER, lambda _: None, heard.set))
        waits = asyncio.ensure_future(heard.wait())
        while not refused and not waits.done():
            await asyncio.sleep(0.001)
        listening.cancel()
        waits.cancel()
        await broker.run(command("ask whether it is there", "PING", parse=str))
    if refused:
        raise BrokerError(refused[0])


def _viewer(me: Broker, helper: Broker) -> None:
    seed(helper, *"ab", client=CLIENT)
    seed(helper, "later", delay_ms=60_000)
    take(helper, "c1", 1)
    helper.beat(_record())
    helper.open_group("g-1", lease_ms=600_000)
    helper.join_group(["g-1"], [f"{QUEUE}:a"])
    me.server_facts()
    me.queues()
    me.stats(QUEUE)
    me.workers()
    for local in ("a", "b", "later"):
        me.inspect(QUEUE, local)
    me.show_group("g-1")
    me.peek(QUEUE, ["a", "never"])
    me.progress(QUEUE, ["a"])
    with me.subscribe(CLIENT):
        pass


def _record() -> WorkerRecord:
    return WorkerRecord(WORKER, "h", 1, "b", "n", 1, (QUEUE,), "running", 1, {})


_LIVES: dict[str, Callable[[Broker, Broker], None]] = {"producer": _producer, "worker": _worker, "viewer": _viewer}
