"""Brokers under test: on each back end, with a clock that the test moves, and every call sent twice.

broker = TwiceBroker(url, client=…)     # run() sends each call again and compares all keys before and after
seed(broker, "a", "b"); take(broker, "c1")
"""

from __future__ import annotations

from typing import Any, TypeVar

import redis

from qworker.broker import Broker, StopAnswer, SubmitItem
from qworker.broker.calls import Call
from qworker.broker.connection import wire
from qworker.lifecycle import State
from qworker.model import Claimed, End, Line, Record, Window
from support.blobs import NOBODY, make_blob, make_value

T = TypeVar("T")

START_MS = 1_700_000_000_000
LEASE_MS = 15_000
QUEUE = "q"
WORKER = "host:1:aaaa"
ALL_NEEDS = ("default", "process", "thread", "async")


class TwiceBroker(Broker):
    """A broker whose every call is sent a second time, as after a lost answer; that must change no key.

    The test sees the first answer. `twice = False` turns the second sending off.
    """

    twice = True

    def run(self, call: Call[T]) -> T:
        answer = super().run(call)
        if self.twice and call.script is not None:
            before = snapshot(self.client)
            resent = call.again() if call.again is not None else call
            self.second: Any = resent.parse(self.client.execute_command(*wire(resent)))
            after = snapshot(self.client)
            assert after == before, f"sending {call.verb} twice changed {changed(before, after)}"
        return answer

    def at(self, ms: int) -> None:
        """Set the server's clock, as scripts see it, to START_MS + ms."""
        self.owner.now_ms = START_MS + ms


def snapshot(client: redis.Redis) -> dict[bytes, Any]:
    """Every key with its value."""
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


def counters(broker: Broker) -> dict[str, int]:
    """The exact counters of the queue."""
    return dict(broker.stats(QUEUE).counters)
