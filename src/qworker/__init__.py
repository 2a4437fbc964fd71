"""qworker: a distributed task queue on Redis or Valkey that never says a task has stopped when it has not.

The way of the data, in ten lines:

    @app.task                    app.py, task.py      a function becomes a task; calling it still runs it here
    task.submit(…)               options, binding     checked and encoded (codec); refused before anything is sent
      └► Client ─► submit.lua    broker/              one atomic write to Redis or Valkey; a Future is handed out
           └► claim.lua          worker/              a worker takes a window of tasks, under a lease
                └► slot          pool/                a child runs the code; `current` (current_task.py) is its ear
                └► ladder        pool/                out of time or told to stop: flag, then grace, then force
           ◄─ settle.lua         worker/, broker/     one outcome per run, recorded under the claim or not at all
      ◄─ push, or peek           broker/client.py     the inbox of the client: a hint; what it loses is asked for
    fut.result()                 future.py, verdict   decodes the value here, or raises what the task raised

Names are resolved on first use: importing qworker imports neither redis nor asyncio, and a task's process that needs
`current` alone pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App
    from .current_task import current
    from .errors import (
        AppImportError,
        BadCall,
        BadOption,
        BrokerError,
        BrokerUnavailable,
        ConfigError,
        Conflict,
        CursorLost,
        DecodeError,
        GroupStopped,
        NotEncodable,
        NotReplicated,
        PoolExhausted,
        QWorkerError,
        Refused,
        ResultExpired,
        Retry,
        ServerFull,
        ServerUnfit,
        SubmitUnknown,
        TaskCancelled,
        TaskCrashed,
        TaskError,
        TaskExpired,
        TaskFailed,
        TaskInterrupt,
        TaskNotFound,
        TaskTimedOut,
        TaskTooLarge,
        ValueNotSent,
        WaitCycle,
        WaitTimeout,
    )
    from .executor import Executor
    from .future import Future
    from .group import Group
    from .lifecycle import How, State
    from .model import Outcome, Progress
    from .options import SubmitOptions, TaskOptions
    from .status import Status
    from .task import BoundTask, Call, Task, call
    from .views import StopReceipt

__version__ = "0.1.0"

__all__ = [
    "App",
    "AppImportError",
    "BadCall",
    "BadOption",
    "BoundTask",
    "BrokerError",
    "BrokerUnavailable",
    "Call",
    "ConfigError",
    "Conflict",
    "CursorLost",
    "DecodeError",
    "Executor",
    "Future",
    "Group",
    "GroupStopped",
    "How",
    "NotEncodable",
    "NotReplicated",
    "Outcome",
    "PoolExhausted",
    "Progress",
    "QWorkerError",
    "Refused",
    "ResultExpired",
    "Retry",
    "ServerFull",
    "ServerUnfit",
    "State",
    "Status",
    "StopReceipt",
    "SubmitOptions",
    "SubmitUnknown",
    "Task",
    "TaskCancelled",
    "TaskCrashed",
    "TaskError",
    "TaskExpired",
    "TaskFailed",
    "TaskInterrupt",
    "TaskNotFound",
    "TaskOptions",
    "TaskTimedOut",
    "TaskTooLarge",
    "ValueNotSent",
    "WaitCycle",
    "WaitTimeout",
    "__version__",
    "call",
    "current",
]

_HOME = {
    "App": "app",
    "BoundTask": "task",
    "Call": "task",
    "Executor": "executor",
    "Future": "future",
    "Group": "group",
    "How": "lifecycle",
    "Outcome": "model",
    "Progress": "model",
    "State": "lifecycle",
    "Status": "status",
    "StopReceipt": "views",
    "SubmitOptions": "options",
    "Task": "task",
    "TaskOptions": "options",
    "call": "task",
    "current": "current_task",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
    globals()[name] = value  # from now on without this function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
