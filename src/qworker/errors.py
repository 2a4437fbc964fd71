"""Every error that qworker raises, drawn as a tree; each message is made here and nowhere else.

QWorkerError
├── ConfigError (ValueError)          a setting, flag, name or option that cannot be used
│   └── AppImportError                the app that a worker was told to run cannot be imported
├── Refused                           at submit: nothing happened, nothing is queued
│   ├── BadCall (TypeError)           the arguments do not bind to the task's signature
│   ├── BadOption (ConfigError)       an option, queue name or id that cannot be used
│   ├── NotEncodable (TypeError)      a value that msgpack and our extensions cannot carry
│   ├── TaskTooLarge (ValueError)     larger than 1 MiB, or nested deeper than 100
│   ├── Conflict                      the id is taken by a task with other content
│   ├── GroupStopped                  the group was stopped, has ended, or its time is up
│   └── ServerFull                    the server is at its memory limit
├── SubmitUnknown                     it may have been queued: submit again with the same ids is safe
├── NotReplicated                     durable=True: it is queued, and not known to be on disk, or on a replica
├── BrokerError
│   ├── BrokerUnavailable (ConnectionError)
│   └── ServerUnfit                   eviction policy, version or schema that would lose or misread tasks
├── DecodeError (ValueError)          bytes that are not what qworker writes
├── TaskError                         how a task ended, raised by Future.result()
│   ├── TaskFailed                    it raised something that cannot be rebuilt here
│   │   └── ValueNotSent (TypeError)  it ran, and what it returned cannot be sent
│   ├── TaskTimedOut                  out of its own time (never a TimeoutError: that is the waiter's)
│   ├── TaskCancelled (concurrent.futures.CancelledError)
│   ├── TaskCrashed                   its process died too often, or it could not be delivered
│   ├── TaskExpired                   its deadline passed
│   ├── ResultExpired                 it ended, but its value is no longer (or never was) kept
│   └── TaskNotFound                  no task of that id is known
├── PoolExhausted (RuntimeError)      a task waits for tasks for which its worker has no place left
├── WaitCycle (RuntimeError)          a task waits for itself, or for a task that waits for it
├── CursorLost (LookupError)          `current.iterate` does not find the item at which it is to go on
└── WaitTimeout (TimeoutError)        the waiter's time is up; the task is left alone
Retry (Exception)                     raised by a task that wants to be run again later
TaskInterrupt (BaseException)         raised in a task by current.check(), so that `except Exception` cannot eat it
"""

from __future__ import annotations

import concurrent.futures
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .views import StopReceipt

__all__ = [
    "AppImportError",
    "BadCall",
    "BadOption",
    "BrokerError",
    "BrokerUnavailable",
    "ConfigError",
    "Conflict",
    "CursorLost",
    "DecodeError",
    "GroupStopped",
    "NotEncodable",
    "NotReplicated",
    "PoolExhausted",
    "QWorkerError",
    "Refused",
    "ResultExpired",
    "Retry",
    "ServerFull",
    "ServerUnfit",
    "SubmitUnknown",
    "TaskCancelled",
    "TaskCrashed",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskInterrupt",
    "TaskNotFound",
    "TaskTimedOut",
    "TaskTooLarge",
    "ValueNotSent",
    "WaitCycle",
    "WaitTimeout",
]


class QWorkerError(Exception):
    """The base of every error of qworker."""


class ConfigError(QWorkerError, ValueError):
    """A setting, flag, option, name or id that cannot be used; the message names it as the user wrote it."""


class AppImportError(ConfigError):
    """The app that a worker was told to run cannot be imported."""


class Refused(QWorkerError):
    """A submit that was refused: nothing happened and nothing is queued.

    One that `result()` raises is the task's own: the task ran, and a submit of its own was refused.
    `accepted` holds the futures of tasks that an earlier chunk of the same `submit_many` had queued.
    """

    accepted: tuple[Any, ...] = ()


class BadCall(Refused, TypeError):
    """The arguments do not bind to the signature of the task."""


class BadOption(Refused, ConfigError):
    """An option, queue name or id of a task that cannot be used; the message names it as the user wrote it."""


class NotEncodable(Refused, TypeError):
    """A value that cannot be carried as msgpack."""


class TaskTooLarge(Refused, ValueError):
    """A body above the size or depth limit."""


class Conflict(Refused):
    """The given id belongs to a task with other content."""


class GroupStopped(Refused):
    """The group takes no more tasks: it was stopped, its block was left, or its time is up. `group` is its id."""

    def __init__(self, message: str = "", *, group: str = "") -> None:
        super().__init__(message)
        self.group = group


class ServerFull(Refused):
    """The server is at its memory limit and refused the task whole."""


class SubmitUnknown(QWorkerError):
    """The tasks may or may not have been queued, because the answer was lost.

    `ids` are the ids that were sent; submitting again with them is safe. `accepted` holds the futures of the tasks
    that are known to be queued.
    """

    def __init__(self, message: str, *, ids: tuple[str, ...] = (), accepted: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.ids = ids
        self.accepted = accepted


class NotReplicated(QWorkerError):
    """Tasks with durable=True are queued, but the server did not have them on its disk, or on a replica, in time.

    They run, unless the server loses them. `ids` are theirs, `accepted` holds the futures of all tasks of the submit;
    `future` is the one of a single task. Submitting them again with the same ids waits once more.
    """

    def __init__(self, message: str, *, ids: tuple[str, ...] = (), accepted: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.ids = ids
        self.accepted = accepted

    @property
    def future(self) -> Any:
        """The future of the task that was submitted; of several, the first."""
        return self.accepted[0]


class BrokerError(QWorkerError):
    """Redis or Valkey answered with an error, or not at all."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """The server could not be reached in the given time."""


class ServerUnfit(BrokerError):
    """The server would lose or misread tasks: its eviction policy, version or the schema of its data."""


class DecodeError(QWorkerError, ValueError):
    """Bytes that are not what qworker writes."""


class TaskError(QWorkerError):
    """How a task ended, raised by `Future.result()`. `id` is the task's."""

    def __init__(self, message: str = "", *, id: str | None = None) -> None:  # noqa: A002 - the public word
        super().__init__(message)
        self.id = id


class TaskFailed(TaskError):
    """The task raised an exception that cannot be rebuilt here; `kind` is its class as `module.Name`."""

    def __init__(self, message: str = "", *, id: str | None = None, kind: str = "") -> None:  # noqa: A002
        super().__init__(message, id=id)
        self.kind = kind


class ValueNotSent(TaskFailed, TypeError):
    """The task ran to its end, and returned a value that cannot be sent: not encodable, too large, or nested too deep.

    Not a `Refused`, which says that nothing happened: what the task did is done, and to submit it again does it again.
    """


class TaskTimedOut(TaskError):
    """The task ran out of its own time. Not a `TimeoutError`: that is what a waiter gets (`WaitTimeout`)."""


class TaskCancelled(TaskError, concurrent.futures.CancelledError):
    """The task was cancelled before it started, or stopped while it ran."""


class TaskCrashed(TaskError):
    """The process that ran the task died, `max_crashes` times; or the task could not be delivered."""


class TaskExpired(TaskError):
    """The task's deadline passed before it had ended."""


class ResultExpired(TaskError):
    """The task ended, but its value is no longer kept (`result_ttl`), or never was (`result_ttl=0`)."""


class TaskNotFound(TaskError):
    """No task of that id is known: it never existed, or it ended longer than `result_ttl` ago."""


class PoolExhausted(QWorkerError, RuntimeError):
    """A task waits for tasks that its worker would have to run, and all of the places that it may lend wait, too."""


class WaitCycle(QWorkerError, RuntimeError):
    """A task waits for itself, or for tasks that wait for nothing but each other and it: none of them could end."""


class CursorLost(QWorkerError, LookupError):
    """`current.iterate` went through all items and did not find the one after which it is to go on."""


class WaitTimeout(QWorkerError, TimeoutError):
    """The waiter's time is up; the task is left alone. Raised for nothing else.

    `state` is the task's state as Redis has it, `worker` the worker that holds it, `ran_for` its run time in seconds.
    After `result(timeout, then="stop")` the task is not left alone: `receipt` is the `StopReceipt` of its stop, None if
    the stop could not be asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        state: str | None = None,
        worker: str | None = None,
        ran_for: float | None = None,
        receipt: StopReceipt | None = None,
    ) -> None:
        super().__init__(message)
        self.state = state
        self.worker = worker
        self.ran_for = ran_for
        self.receipt = receipt


class Retry(Exception):
    """Raised by a task to be run again after `delay` (seconds or timedelta); uses one of its `retries`.

    Without a delay the task's own backoff decides.
    """

    def __init__(self, *args: object, delay: float | timedelta | None = None) -> None:
        super().__init__(*args)
        self.delay = delay.total_seconds() if isinstance(delay, timedelta) else delay

    def __str__(self) -> str:
        return super().__str__() or "asked for a retry"


class TaskInterrupt(BaseException):
    """Raised inside a task by `current.check()` and `current.sleep()` once the task has been asked to end.

    `reason` is one of `timeout`, `stop`, `deadline`, `drain`, `fenced`. A `BaseException`, so that a task's own
    `except Exception` cannot swallow it.
    """

    def __init__(self, reason: str = "stop") -> None:
        super().__init__(reason)
        self.reason = reason
