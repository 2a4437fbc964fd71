"""Outcomes for tests that need one and no server, and a channel that answers what it is told to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qworker import codec
from qworker.broker.values import StopAnswer
from qworker.errors import BrokerUnavailable
from qworker.future import Future
from qworker.lifecycle import How, State
from qworker.model import Outcome
from qworker.views import Inspection, WorkerRecord

ID = "default:t1"


def succeeded(value: Any = None, **more: Any) -> Outcome:
    return Outcome(ID, State.SUCCEEDED, How.RETURNED, value=codec.pack_value(value), **more)


def failed(error: BaseException, **more: Any) -> Outcome:
    return Outcome(ID, State.FAILED, How.RAISED, error=codec.pack_error(codec.describe_error(error)), **more)


def ended(state: State, how: How = How.NEVER_STARTED, **more: Any) -> Outcome:
    return Outcome(ID, state, how, **more)


@dataclass
class FakeChannel:
    """A client without a server: futures that are watched stay as they are until the test settles them."""

    closed: bool = False
    watched: list[Future[Any]] = field(default_factory=list)
    kept: list[Future[Any]] = field(default_factory=list)
    inspection: Inspection | None = None
    answers: list[StopAnswer] = field(default_factory=list)
    asked: list[tuple[bool, int | None]] = field(default_factory=list)
    record: WorkerRecord | None = None

    connected = True

    def client(self) -> FakeChannel:
        return self

    def watch(self, future: Future[Any]) -> None:
        self.watched.append(future)

    def hear(self, future: Future[Any], timeout_s: float | None) -> None:
        pass

    def keep(self, future: Future[Any]) -> None:
        self.kept.append(future)

    def follow(self, future: Future[Any]) -> None:
        self.kept.append(future)

    def inspect(self, id: str, *, timeout_s: float | None = None) -> Inspection:  # noqa: A002
        if self.inspection is None:
            raise BrokerUnavailable("the server is gone")
        return self.inspection

    def stop(self, id: str, *, cancel_only: bool, grace_ms: int | None) -> StopAnswer:  # noqa: A002
        self.asked.append((cancel_only, grace_ms))
        return self.answers.pop(0)

    def worker(self, worker: str) -> WorkerRecord | None:
        return self.record
