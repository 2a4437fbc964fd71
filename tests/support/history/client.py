"""The client's half of a history: it submits, stops and waits, and writes down each answer when it had it.

    client = Recorder(app); futures = client.submit(batch); client.stop(future, "cancel")
    client.submitted, client.stopped, client.ended ─► History

Any thread may use it: what it keeps it only appends to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from qworker import App, Future, codec
from qworker.broker.keys import PERMANENT, QueueKeys
from qworker.errors import BrokerError, DecodeError, QWorkerError, Refused, ServerFull, SubmitUnknown
from qworker.lifecycle import State
from qworker.model import Outcome

from .executions import now
from .records import Answer, Ended, Quiet, Stopped, Submitted


@dataclass(frozen=True)
class Batch:
    """Tasks of one kind that are submitted in one call. With `ids` they are given, else drawn by the submit."""

    kind: str
    task: str
    args: tuple[Any, ...]
    count: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    pool: str = "process"
    ids: tuple[str, ...] = ()
    stop: str = ""  # "cancel" or "stop": what the client does with them once they are submitted
    queue: str = "default"


class Recorder:
    """Does what a client does, and writes it down."""

    def __init__(self, app: App, tasks: Any) -> None:
        self._app, self._tasks = app, tasks
        self.submitted: list[Submitted] = []
        self.stopped: list[Stopped] = []
        self.ended: list[Ended] = []
        self.futures: dict[str, Future[Any]] = {}
        self.full = False  # the server was, and refused some of the last batch
        self._moved = threading.Condition()
        self._done = 0

    def submit(self, batch: Batch) -> list[Future[Any]]:
        """Submit a batch, and return the futures of those that are known to be queued."""
        asked, self.full = now(), False
        task = getattr(self._tasks, batch.task).options(queue=batch.queue, **batch.options)
        calls = [task.options(id=id_).call(*batch.args) for id_ in batch.ids]
        calls = calls or [task.call(*batch.args)] * batch.count
        futures: list[Future[Any]] = []
        unknown: tuple[str, ...] = ()
        refused = False
        try:
            futures = list(self._app.submit_many(calls))
        except SubmitUnknown as error:
            futures, unknown = list(error.accepted), error.ids
        except (Refused, BrokerError) as error:
            futures, refused = list(getattr(error, "accepted", ())), True
            self.full = isinstance(error, ServerFull)
        for future in futures:
            self._note(batch, future.id, asked, "accepted")
            self.futures[future.id] = future
            future.add_done_callback(self._told)
        for id_ in unknown:
            self._note(batch, id_, asked, "unknown")
        if refused:
            for id_ in batch.ids:
                if f"{batch.queue}:{id_}" not in self.futures:
                    self._note(batch, f"{batch.queue}:{id_}", asked, "refused")
        if unknown and batch.ids:
            # Their ids are known, so sending them again is safe, whatever became of the first time.
            left = tuple(id_.partition(":")[2] for id_ in unknown)
            futures += self.submit(dataclasses.replace(batch, ids=left))
        return futures

    def adopt(self, id_: str) -> None:
        """Wait for a task that somebody else has submitted."""
        future = self.futures[id_] = self._app.future(id_)
        future.add_done_callback(self._told)

    def stop(self, future: Future[Any], verb: str) -> bool:
        """Cancel or stop a task, and note what was answered. False if nobody answered."""
        answered = True
        asked = now()
        try:
            if verb == "cancel":
                answer = "cancelled" if future.cancel() else "not cancelled"
            else:
                receipt = future.stop(wait=0)
                never = receipt and (receipt.outcome, receipt.how) == (State.CANCELLED, "never_started")
                # `cancelled` is the word for what never runs; what ran, and was stopped at once, has that outcome, too.
                answer = "cancelled" if never else f"{receipt.outcome or receipt.state}, {receipt.how or 'not yet'}"
        except QWorkerError as error:
            answer, answered = type(error).__name__, False
        self.stopped.append(Stopped(future.id, "cancel" if verb == "cancel" else "stop", asked, now(), answer))
        return answered

    def wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until a condition holds; it is looked at whenever a task has ended."""
        with self._moved:
            return self._moved.wait_for(condition, timeout_s)

    def look_again(self) -> None:
        """Have all who wait look at their condition."""
        with self._moved:
            self._moved.notify_all()

    @property
    def pending(self) -> int:
        """How many tasks are known to be queued and not known to have ended."""
        return len(self.futures) - self._done

    @property
    def done(self) -> int:
        """How many tasks are known to have ended."""
        return self._done

    def _note(self, batch: Batch, id_: str, asked: float, answer: Answer) -> None:
        options = batch.options
        once = options.get("delivery") == "at_most_once"
        self.submitted.append(
            Submitted(
                id_, asked, now(), answer, retries=options.get("retries", 0), timeout_s=options.get("timeout"),
                pool=batch.pool, kind=batch.kind, deadline_s=options.get("deadline"),
                max_crashes=1 if once else options.get("max_crashes", 3), once=once,
            )
        )  # fmt: skip

    def _told(self, future: Any) -> None:
        # Without an outcome it was given up, as lost: the rule that each accepted task has one finds it.
        if future.outcome is not None:
            self.ended.append(ended_of(future.outcome, now()))
        with self._moved:
            self._done += 1
            self._moved.notify_all()


def ended_of(outcome: Outcome, at: float, *, source: str = "future") -> Ended:
    """An outcome as a history has it. What the tasks of history_tasks.py return or raise names its fence."""
    value = None
    if outcome.value is not None:
        try:
            value = str(codec.unpack_value(outcome.value))
        except DecodeError as error:
            value = str(error)  # which no code has made: rule C2 finds it
    elif outcome.state is State.FAILED and outcome.error is not None:
        value = codec.unpack_error(outcome.error).text
    fence = None
    with contextlib.suppress(ValueError, IndexError):
        fence = int((value or "").split(".")[1])
    return Ended(
        outcome.id, outcome.state.value, outcome.how.value, outcome.attempt, at, fence, value, outcome.worker,
        source,  # type: ignore[arg-type]
        outcome.still_running or outcome.adrift,
    )  # fmt: skip


def look(url: str, servers: Sequence[str], queues: Sequence[str]) -> tuple[Quiet, list[Ended]]:
    """What the server holds: every outcome that it keeps, what is still live, its counters, and keys that are left.

    `servers` are those behind the URL: those of a cluster, or the one.
    """
    from qworker.broker import Broker

    live: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    with Broker(url, "default") as broker:
        for queue in queues:
            stats = broker.stats(queue)
            counters.update(stats.counters)
            live.update(queued=stats.ready, scheduled=stats.scheduled, claimed=stats.claimed, suspect=stats.suspects)
    ended: list[Ended] = []
    others: list[str] = []
    for server in servers:
        with redis.Redis.from_url(server) as client:
            for queue in queues:
                _look_at(client, QueueKeys("default", queue).prefix, ended, others)
    kept = frozenset(end.id for end in ended)
    return Quiet(dict(live), dict(counters), kept, tuple(others)), ended


def _look_at(client: redis.Redis, prefix: str, ended: list[Ended], others: list[str]) -> None:
    for key in sorted(client.scan_iter(prefix + "*", count=1000)):
        name = key.decode().removeprefix(prefix)
        if name.startswith("result:"):
            packed = client.get(key)
            if packed is not None:
                ended.append(ended_of(codec.unpack_outcome(packed), now(), source="server"))
        elif not any(_matches(name, pattern) for pattern in PERMANENT):
            others.append(name)


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split(":"), pattern.split(":")
    return len(parts) == len(wanted) and all(w in ("*", p) for p, w in zip(parts, wanted, strict=True))
