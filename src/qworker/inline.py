"""`App(inline=True)`: tasks that run here and now, for unit tests of code that submits.

    draft ─► decode the body ─► the function, with a working `current` ─► encode, decode ─► a finished Future

Arguments, values and exceptions take the same way through bytes as they do between processes, so what would not
survive the journey does not survive it here. Retries happen at once. Nothing is timed: no delay, timeout or deadline.
"""

from __future__ import annotations

import inspect
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import codec, context
from .errors import ConfigError, Conflict, NotEncodable, Retry, TaskInterrupt, TaskTooLarge, ValueNotSent
from .future import Future
from .lifecycle import How, State
from .model import Draft, ErrorInfo, Header, Outcome
from .views import Closed, GroupView

if TYPE_CHECKING:
    from .task import Task

__all__ = ["Inline", "InlineGroups"]


class Inline:
    """Runs the tasks of one app in the thread that submits them."""

    def __init__(self, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._tasks = tasks
        self._fence = 0
        self._known: weakref.WeakValueDictionary[str, Future[Any]] = weakref.WeakValueDictionary()
        self._given: dict[str, tuple[bytes, Future[Any]]] = {}  # those keep their id taken

    def run(self, draft: Draft) -> Future[Any]:
        """Run a task and return its finished future.

        Raises:
            Conflict: its id was given before, with other content.
            ConfigError: no task of that name is registered.
        """
        full = f"{draft.queue}:{draft.local}"
        content = (draft.core or draft.header) + draft.body
        if draft.given and full in self._given:
            before, future = self._given[full]
            if before != content:
                raise Conflict(f"cannot submit task {full}: the id is taken by a task with other content")
            return future
        task = self._tasks.get(draft.name)
        if task is None:
            raise ConfigError(f"App(inline=True) cannot run {draft.name!r}: it has no task of that name")
        future = Future[Any](full, name=draft.name)
        self._known[full] = future
        if draft.given:
            self._given[full] = (content, future)
        future.settle(self._outcome(full, draft, task))
        return future

    def future(self, full: str) -> Future[Any]:
        """Return the future of a task that ran here, or one that says that there was none."""
        future = self._known.get(full)
        if future is None:
            future = Future[Any](full)
            future.give_up(submitted_here=False)
        return future

    def _outcome(self, full: str, draft: Draft, task: Task[..., Any]) -> Outcome:
        blob = codec.pack_envelope(
            header=draft.header, body=draft.body, line=draft.line, client=codec.NOBODY, sent_ms=0
        )
        header = codec.read_header(blob)
        attempt = 0
        slot = _Slot()
        while True:
            attempt += 1
            self._fence += 1
            run = context.Run(
                full, draft.name, 1, attempt, self._fence, header.retries, slot,
                groups=header.groups, depth=header.depth, cursor=slot.cursor,
            )  # fmt: skip
            began = time.monotonic()
            value, error, wants_retry = _attempt(task, draft.body, run)
            if error is not None and attempt <= header.retries and (wants_retry or _retryable(error, header)):
                continue
            return Outcome(
                id=full,
                state=State.SUCCEEDED if error is None else State.FAILED,
                how=How.RETURNED if error is None else How.RAISED,
                attempt=attempt,
                worker="inline",
                ended_ms=int(time.time() * 1000),
                ran_s=time.monotonic() - began,
                value=None if header.result_ttl_ms == 0 else value,
                error=None if error is None or header.result_ttl_ms == 0 else codec.pack_error(error),
                tombstone=header.result_ttl_ms == 0,
            )


class _Slot(context.Nowhere):
    """The slot of one inline task: it keeps the cursor of `current.iterate` for the next attempt."""

    def __init__(self) -> None:
        self.cursor: bytes | None = None

    def save(self, cursor: bytes) -> None:
        self.cursor = cursor


def _attempt(task: Task[..., Any], body: bytes, run: context.Run) -> tuple[bytes | None, ErrorInfo | None, bool]:
    """Run the code once: its packed value, or its error and whether it asked for another attempt."""
    token = context.enter(run)
    try:
        args, kwargs = codec.unpack_body(body)
        value = task.fn(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = _run_coroutine(value)
        try:
            return codec.pack_value(value), None, False
        except (NotEncodable, TaskTooLarge) as error:
            raise ValueNotSent(f"{run.name} returned a value that cannot be sent: {error}") from None
    except Retry as error:
        return None, codec.describe_error(error), True
    except (Exception, TaskInterrupt) as error:
        return None, codec.describe_error(error), False
    finally:
        context.leave(token)


def _run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end: on a loop here, or on another thread's when this thread is inside of one."""
    import asyncio
    import contextvars
    import threading

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    ended: list[tuple[Any, BaseException | None]] = []

    def work() -> None:
        try:
            ended.append((asyncio.run(coroutine), None))
        except BaseException as error:
            ended.append((None, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="qworker-inline")
    thread.start()
    thread.join()
    value, error = ended[0]
    if error is not None:
        raise error
    return value


def _retryable(error: ErrorInfo, header: Header) -> bool:
    return header.retry_for is None or not {error.kind, *error.bases}.isdisjoint(header.retry_for)


class InlineGroups:
    """The groups of an inline app: every task of theirs has ended before the next one is submitted."""

    def open(self, *_: Any, **__: Any) -> None:
        """Nothing is to be opened."""

    def stop(self, *_: Any, **__: Any) -> str:
        """Nothing runs."""
        return "stopped"

    def close(self, *_: Any, **__: Any) -> Closed:
        """Nothing is left."""
        return Closed("open")

    def show(self, group: str) -> GroupView:
        """Nothing is known."""
        return GroupView(group, "")

    def sweep(self, *_: Any, **__: Any) -> None:
        """Nothing waits."""

    def look(self, *_: Any) -> list[tuple[str, bool]]:
        """Nothing lives."""
        return []
