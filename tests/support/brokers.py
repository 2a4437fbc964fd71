"""Brokers under test: on each back end, with a clock that the test moves, and every call sent twice.

broker = TwiceBroker(url, client=…)     # run() sends each call again and compares all keys before and after
seed(broker, "a", "b"); take(broker, "c1")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import hiredis
import pytest
import redis

from qworker.broker import Broker, StopAnswer, SubmitItem
from qworker.broker.calls import Call
from qworker.broker.connection import wire
from qworker.broker.hello import pack
from qworker.lifecycle import State
from qworker.model import Claimed, End, Line, Lose, Record, Window
from support.blobs import NOBODY, make_blob, make_value

T = TypeVar("T")

START_MS = 1_700_000_000_000
LEASE_MS = 15_000
QUEUE = "q"
WORKER = "host:1:aaaa"
# fakeredis as the oldest Redis that qworker takes knows none of the commands and options that came later.
FAKES = {"fakeredis": (7,), "fakeredis-6.2": (6, 2)}
ALL_NEEDS = ("default", "process", "thread", "async")


class TwiceBroker(Broker):
    """A broker whose every call is sent a second time, as after a lost answer; that must change no key.

    The test sees the first answer. `twice = False` turns the second sending off.
    """

    twice = True

    def run(self, call: Call[T]) -> T:
        answer = super().run(call)
        if self.twice and call.script is not None:
            resent = call.again() if call.again is not None else call
            before, reply, after = self._around(*wire(resent))
            self.second: Any = resent.parse(reply)
            assert after == before, f"sending {call.verb} twice changed {changed(before, after)}"
        return answer

    def _around(self, *command: Any) -> tuple[dict[bytes, Any], Any, dict[bytes, Any]]:
        """Do a command, and return all that the server holds before and after it."""
        if type(self.client) is not redis.Redis:
            return snapshot(self.client), self.client.execute_command(*command), snapshot(self.client)
        before, reply, after = self._together(_LOOK, command, _LOOK)
        found = _read(before)
        return found, reply, found if after == before else _read(after)

    def snapshot(self) -> dict[bytes, Any]:
        """Every key with its value."""
        return snapshot(self.client) if type(self.client) is not redis.Redis else _read(*self._together(_LOOK))

    def _together(self, *commands: tuple[Any, ...]) -> list[Any]:
        """Do commands in one round trip; raises the first error that is an answer."""
        link, replies = self._links.send(b"".join(map(pack, commands))), []
        for _ in commands:
            try:
                replies.append(link.reply())
            except hiredis.ReplyError as error:
                replies.append(error)
        self._links.give(link)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise reply
        return replies

    def reset(self) -> TwiceBroker:
        """Empty the server, and forget what was known of it; returns itself."""
        self.client.flushall()
        self.owner.opened.clear()
        self.twice = True
        return self

    def at(self, ms: int) -> None:
        """Set the server's clock, as scripts see it, to START_MS + ms."""
        self.owner.now_ms = START_MS + ms


def snapshot(client: redis.Redis) -> dict[bytes, Any]:
    """Every key with its value."""
    if type(client) is redis.Redis:
        return _read(client.execute_command(*_LOOK))
    if hasattr(client, "everything"):
        return client.everything()  # the model of a server
    return _look(client)  # fakeredis: there a script costs more


def _read(found: list[Any]) -> dict[bytes, Any]:
    return {key: _READ.get(kind, bytes)(value) for key, kind, value in found}


def _pairs(values: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(values[0::2], values[1::2], strict=True)


# All in one round trip: three snapshots are taken of each call of a model test.
_LOOK = ("EVAL", """\
local read = {
  string = { 'GET' }, hash = { 'HGETALL' }, set = { 'SMEMBERS' }, list = { 'LRANGE', 0, -1 },
  zset = { 'ZRANGE', 0, -1, 'WITHSCORES' },
}
local found = {}
for i, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local how = read[kind]
  found[i] = { key, kind, redis.call(how[1], key, unpack(how, 2)) }
end
return found
""", 0)  # fmt: skip
_READ: dict[bytes, Callable[[Any], Any]] = {
    b"hash": lambda values: dict(_pairs(values)),
    b"set": set,
    b"list": list,
    b"zset": lambda values: [(member, float(score)) for member, score in _pairs(values)],
}


def _look(client: redis.Redis) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    for key in list(client.scan_iter(count=1000)):
        kind = client.type(key)
        if kind == b"string":
            found[key] = client.get(key)
        elif kind == b"hash":
            found[key] = client.hgetall(key)
        elif kind == b"list":
            found[key] = client.lrange(key, 0, -1)
        elif kind == b"set":
            found[key] = client.smembers(key)
        else:
            found[key] = client.zrange(key, 0, -1, withscores=True)
    return found


def changed(before: dict[bytes, Any], after: dict[bytes, Any]) -> str:
    """The keys in which two snapshots differ, with both values."""
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return "; ".join(f"{key!r}: {before.get(key)!r} -> {after.get(key)!r}" for key in keys)


def item(local: str, *, line: Line | None = None, client: str = NOBODY, delay_ms: int = 0, deadline_ms: int = 0,
         content: bytes | None = None, size: int = 0) -> SubmitItem:  # fmt: skip
    """A task whose content is its id."""
    blob = make_blob(content or local.encode(), line=line, client=client, size=size)
    return SubmitItem(local, blob, delay_ms, deadline_ms)


def seed(broker: Broker, *ids: str, line: Line | None = None, given: bool = True, **options: Any) -> None:
    """Queue tasks on one line, in this order."""
    line = line or Line()
    broker.submit(QUEUE, line, [item(local, line=line, **options) for local in ids], given=given)


def take(
    broker: Broker,
    claim: str,
    room: int = 100,
    *,
    worker: str = WORKER,
    needs: tuple[Any, ...] = ALL_NEEDS,
    **options: Any,
) -> Window:
    """Claim under a short name, padded to 12 characters."""
    options.setdefault("lease_ms", LEASE_MS)
    return broker.claim(QUEUE, claim=name(claim), worker=worker, rooms=[(needs, room)], **options)


def next_fence(last: int, now_ms: int) -> int:
    """Return what a claim draws: larger than the last fence, no smaller than the time, a step of twelves and one."""
    least = max(last + 1, now_ms)
    return next(fence for fence in range(least, least + 12) if (fence - last) % 12 == 1)


def name(claim: str) -> str:
    """A claim id from a short name."""
    return claim.ljust(12, "x")


def end(local: str, claim: str, *, state: State = State.SUCCEEDED, client: str = NOBODY, text: bytes = b"done",
        ttl_ms: int = 60_000, hint: bytes = b"") -> End:  # fmt: skip
    """The settle of an ended task."""
    value = make_value(text, blob=make_blob(local.encode()), claim=name(claim))
    return End(local, name(claim), state, value, ttl_ms, client, hint)


def ids(window: Window) -> list[str]:
    """What a window holds, in its order."""
    return [task.id for task in window.tasks]


def only(window: Window) -> Claimed:
    """The one task of a window."""
    (task,) = window.tasks
    return task


def record(broker: Broker, local: str) -> Record | None:
    """A live task's record."""
    return broker.inspect(QUEUE, local).record


def state(broker: Broker, local: str) -> State | None:
    """A live task's state; None when it is not live."""
    return broker.inspect(QUEUE, local).state


def cancelled(local: str) -> bytes:
    """The outcome that a caller packs for a cancel."""
    return make_value(b"cancelled " + local.encode())


def stop(broker: Broker, *ids_: str, mode: str = "stop", grace_ms: int | None = None) -> tuple[StopAnswer, ...]:
    """Stop tasks."""
    return broker.stop(QUEUE, ids_, mode=mode, grace_ms=grace_ms, value_of=cancelled)


@contextmanager
def full(broker: Broker) -> Iterator[None]:
    """The server is at its memory limit: it refuses what may make it grow."""
    if broker.url == "redis://fake":
        pytest.skip("fakeredis has no limit")
    broker.client.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            broker.client.set("more", "x")
        yield
    finally:
        broker.client.config_set("maxmemory", "0")


def lose_twice(broker: Broker, *locals_: str) -> None:
    """Make suspects of queued tasks."""
    for local in locals_:
        for claim in (name(f"l1{local}"), name(f"l2{local}")):
            broker.claim_ids(QUEUE, [local], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
            broker.settle(QUEUE, [Lose(local, claim, False)])


def counters(broker: Broker) -> dict[str, int]:
    """The exact counters of the queue."""
    return dict(broker.stats(QUEUE).counters)
