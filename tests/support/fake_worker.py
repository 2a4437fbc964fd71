"""A worker for the producer's tests: it claims with `Broker` and settles, and runs nothing unless it is told to.

worker = FakeWorker(url)                            # as if it served "default"; `beat` makes it visible
task = worker.claim_one()                           # claimed; task.args, task.kwargs, task.id
worker.succeed(task, 42); worker.fail(task, exc)    # outcomes are recorded and pushed as the real worker does
with worker.serving(fn): …                          # a thread that claims and answers with fn(*args, **kwargs)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qworker import codec
from qworker.broker import Broker
from qworker.broker.values import Note, StartedTask
from qworker.ids import new_token
from qworker.lifecycle import How, State
from qworker.model import End, Header, Outcome, Progress, Record, Told
from qworker.views import WorkerRecord
from support.waiting import wait_until


@dataclass(frozen=True)
class Held:
    """One task that the fake worker holds."""

    id: str  # full
    local: str
    claim: str
    blob: bytes
    record: Record
    header: Header
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)


class FakeWorker:
    """One claim at a time, or a thread that serves."""

    def __init__(self, url: str, *, queue: str = "default", namespace: str = "default", host: str = "box-2") -> None:
        self.broker = Broker(url, namespace, timeout_s=5.0, role="worker")
        self.queue = queue
        self.id = f"{host}:4711:{new_token()[:4]}"

    def claim(self, room: int = 1, *, lease_ms: int = 15_000) -> list[Held]:
        """Claim what is ready, at most `room` tasks."""
        needs = ("default", "process", "thread", "async")
        window = self.broker.claim(
            self.queue, claim=new_token(), worker=self.id, rooms=[(needs, room)], lease_ms=lease_ms
        )
        return [self._held(window.claim, task.id, task.blob, task.record) for task in window.tasks]

    def claim_one(self, *, lease_ms: int = 15_000) -> Held:
        """Claim one task, waiting for it."""
        return wait_until(lambda: self.claim(lease_ms=lease_ms), description="a task to claim")[0]

    def start(self, task: Held, *, ran_ms: int = 0, lease_ms: int = 15_000) -> None:
        """Mark a task as running, as a renewal does."""
        started = [StartedTask(task.claim, task.local, ran_ms)]
        self.broker.renew(self.queue, worker=self.id, claims=[task.claim], started=started, lease_ms=lease_ms)

    def tell(self, task: Held, progress: Progress) -> None:
        """Tell how far a task is, as a renewal does."""
        note = Note(task.claim, task.local, codec.client_of(task.blob), b"", codec.pack_told(Told(task.id, progress)))
        self.broker.renew(self.queue, worker=self.id, claims=[task.claim], notes=[note], lease_ms=15_000)

    def stops(self, task: Held) -> tuple[tuple[str, str, Any], ...]:
        """Return the stops that wait for a task, by a renewal."""
        return self.broker.renew(self.queue, worker=self.id, claims=[task.claim], lease_ms=15_000).stops

    def succeed(self, task: Held, value: Any = None, **more: Any) -> None:
        """Record a value."""
        self.end(task, State.SUCCEEDED, How.RETURNED, **_value(task, value), **more)

    def fail(self, task: Held, error: BaseException, **more: Any) -> None:
        """Record an exception."""
        self.end(task, State.FAILED, How.RAISED, **_error(error), **more)

    def end(self, task: Held, state: State, how: How, **fields: Any) -> None:
        """Record an outcome, and push it as the real worker does: itself, or its id when it is large."""
        self._settle([self._end(task, state, how, fields)])

    def _settle(self, ends: list[End]) -> None:
        assert set(self.broker.settle(self.queue, ends, worker=self.id).codes) == {"ok"}

    def _end(self, task: Held, state: State, how: How, fields: dict[str, Any]) -> End:
        outcome = Outcome(
            id=task.id,
            state=state,
            how=how,
            attempt=task.record.attempt,
            claim=task.claim,
            digest=codec.digest_of(task.blob),
            worker=self.id,
            ended_ms=int(time.time() * 1000),
            **fields,
        )
        value = codec.pack_outcome(outcome)
        hint = codec.pack_hint(task.id) if len(value) > codec.PUSH_MAX else b""
        ttl_ms = max(task.header.result_ttl_ms, 60_000)
        return End(task.local, task.claim, state, value, ttl_ms, codec.client_of(task.blob), hint)

    def settle_silently(self, task: Held, value: Any) -> None:
        """Record a value and push nothing, as if the push were lost."""
        packed = codec.pack_outcome(
            Outcome(
                id=task.id,
                state=State.SUCCEEDED,
                how=How.RETURNED,
                claim=task.claim,
                digest=codec.digest_of(task.blob),
                worker=self.id,
                value=codec.pack_value(value),
            )
        )
        end = End(task.local, task.claim, State.SUCCEEDED, packed, 60_000, codec.NOBODY)
        assert self.broker.settle(self.queue, [end], worker=self.id).codes == ("ok",)

    def beat(self, *, survivors: tuple[dict[str, Any], ...] = ()) -> None:
        """Tell of this worker, so that its queue counts as served."""
        self.broker.beat(
            WorkerRecord(
                id=self.id,
                host=self.id.partition(":")[0],
                pid=4711,
                boot_id="boot",
                pid_ns="ns",
                start_time=1,
                queues=(self.queue,),
                state="running",
                started_ms=1,
                slots={"process": 1},
                survivors=survivors,
            )
        )

    @contextlib.contextmanager
    def serving(self, fn: Callable[..., Any], *, room: int = 256) -> Iterator[None]:
        """Claim and answer in a thread until the block ends."""
        ending = threading.Event()
        trouble: list[BaseException] = []

        def serve() -> None:
            try:
                while not ending.is_set():
                    tasks = self.claim(room)
                    if tasks:
                        self._settle([self._answer(task, fn) for task in tasks])
                    else:
                        ending.wait(0.002)
            except BaseException as error:
                trouble.append(error)

        thread = threading.Thread(target=serve, name="fake-worker")
        thread.start()
        try:
            yield
        finally:
            ending.set()
            thread.join(10)
        if trouble:
            raise trouble[0]

    def close(self) -> None:
        self.broker.close()

    def _answer(self, task: Held, fn: Callable[..., Any]) -> End:
        try:
            value = fn(*task.args, **task.kwargs)
        except Exception as error:
            return self._end(task, State.FAILED, How.RAISED, _error(error))
        return self._end(task, State.SUCCEEDED, How.RETURNED, _value(task, value))

    def _held(self, claim: str, local: str, blob: bytes, record: Record) -> Held:
        args, kwargs = codec.unpack_body(codec.body_of(blob))
        header = codec.read_header(blob)
        return Held(f"{self.queue}:{local}", local, claim, blob, record, header, args, kwargs)


def _value(task: Held, value: Any) -> dict[str, Any]:
    kept = task.header.result_ttl_ms > 0
    return {"value": codec.pack_value(value) if kept else None, "tombstone": not kept}


def _error(error: BaseException) -> dict[str, Any]:
    return {"error": codec.pack_error(codec.describe_error(error))}
