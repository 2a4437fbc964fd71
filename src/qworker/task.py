"""`Task` and its copies with other options: what `@app.task` makes of a function.

    thumbnail("a.jpg")                    here, now
    thumbnail.submit("a.jpg")  ─┐
    thumbnail.options(…).submit ┼─► draft: bind, encode, pack ─► App ─► client or inline ─► Future
    submit_many([call(…), …])  ─┘          all refusals happen here, before anything is sent

The parameters and the result of the function are those of `submit` and of its future, for type checkers, too.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, overload

from . import codec, ids, mapping
from .binding import Binder
from .errors import BadCall, BadOption, NotEncodable, TaskTooLarge
from .model import Draft, PoolNeed
from .options import Duration, Options, SubmitOptions
from .place import Place, Submits, bounded, here

if TYPE_CHECKING:
    from typing import Unpack

    from .future import Future

__all__ = ["BoundTask", "Call", "CoroutineTask", "Sender", "Task", "call"]

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Sender(mapping.Submitter, Submits, Protocol):
    """What a task needs of its app."""

    async def asend(self, draft: Draft) -> Future[Any]: ...


class Call(NamedTuple, Generic[R_co]):
    """Arguments that wait to be submitted with others; made by `call` and `task.call`."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    task: BoundTask[..., Any] | None = None

    def draft(self, task: BoundTask[..., Any] | None = None, place: Place | None = None) -> Draft:
        """Check and encode the call, for its own task or for the given one; `place` as in `BoundTask.draft`.

        `t.options(delay=60).submit_many([t.call(…)])` means these options: it is the same task.
        """
        chosen = self.task or task
        if chosen is None:
            raise TypeError("call(…) does not say of which task; use task.call(…), or task.submit_many([…])")
        if task is not None and self.task is not None:
            if task.name != self.task.name:
                raise BadCall(
                    f"cannot submit a call of {self.task.name} through {task.name}.submit_many; "
                    "app.submit_many takes calls of any tasks"
                )
            chosen = task
        return chosen.draft(self.args, self.kwargs, place)


def call(*args: Any, **kwargs: Any) -> Call[Any]:
    """Return arguments for `task.submit_many`. `task.call(…)` does the same, and type checkers check it."""
    return Call(args, kwargs)


def call_of(one: Any) -> Call[Any]:
    """Return what `submit_many` was given, if it is a call.

    Raises:
        BadCall: it is anything else.
    """
    if isinstance(one, Call):
        return one
    raise BadCall(
        f"cannot submit {reprlib.repr(one)}: submit_many takes calls, as task.call(1, 2) makes them; nothing was queued"
    )


class BoundTask(Generic[P, R]):
    """A task by name, with options: what can be submitted. `name` is the task's, `settings` its options.

    `binder` has its function, and is None where only the name is known.
    """

    def __init__(self, sender: Sender, name: str, settings: Options, *, binder: Binder | None, is_async: bool) -> None:
        self.name = name
        self.settings = settings
        self.is_async = is_async
        self._sender = sender
        self.binder = binder
        self._line = settings.line(is_async=is_async)
        self._header = codec.pack_header(settings.header(name))
        self._placed: tuple[Place, bytes] | None = None  # the header in the place of the last draft that had one

    @property
    def need(self) -> PoolNeed:
        """The kind of pool that it has to run in; `default`: whichever a worker runs such tasks in."""
        return self._line.pool

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Queue one task and return its future, once the server has confirmed it.

        Raises:
            Refused: nothing was queued; the subclass and the text say why.
            SubmitUnknown: the answer was lost, so it may or may not have been queued.
            BrokerUnavailable: the server could not be reached; nothing was queued.
            NotReplicated: durable=True; it is queued, and not known to be on disk, or on a replica.
        """
        return self._sender.send([self.draft(args, kwargs)])[0]

    async def asubmit(self, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """`submit` without blocking the event loop. What is submitted at the same time shares a round trip."""
        return await self._sender.asend(self.draft(args, kwargs))

    def submit_many(self, calls: Iterable[Call[R]]) -> list[Future[R]]:
        """Queue many tasks, some hundred per round trip, and return their futures in order.

        All calls are checked and encoded before the first is sent. When it fails half-way, the error's `accepted`
        holds the futures of those that are queued.
        """
        drafts = [call_of(one).draft(self) for one in calls]
        if self.settings.id is not None and len(drafts) > 1:
            raise BadOption(f"id={self.settings.id!r} is the id of one task, but submit_many was given {len(drafts)}")
        return self._sender.send(drafts)

    @overload
    def map(
        self,
        items: Iterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["raise"] = "raise",
    ) -> Generator[R, None, None]: ...
    @overload
    def map(
        self,
        items: Iterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["return"],
    ) -> Generator[R | Exception, None, None]: ...

    def map(
        self,
        items: Iterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Generator[Any, None, None]:
        """Run the task once for each item, which is its one positional argument, and yield what it returns.

        Lazy on both sides: nothing is taken or submitted before the first value is asked for, and never more than
        `window` items are taken and not yet yielded, so that ten million inputs need the memory of a window. A tuple is
        one argument like any other; it is not unpacked. Items are submitted some hundred per round trip, and taken in
        the caller's thread.

        Leaving early (`break`, an exception, `close()`) stops what is under way: what is queued never starts, and what
        runs is asked to end and, after its grace, forced; nothing is waited for. That happens when the iterator is
        closed or dropped; where it is kept in a variable, close it: `with contextlib.closing(task.map(…)) as values`.

        Args:
            window: how many items may be taken and not yet yielded; at least a few times the slots of all workers.
            ordered: yield in the order of the items; False: as they end.
            item_timeout: how long an item may take from its submission to its end, queue time, runs and retries
                together; it is the item's deadline, so past it the task itself is stopped, and ends as expired.
            errors: "raise" raises the first error (of a task, or of an item that cannot be submitted) when its turn
                comes, and stops the rest; "return" yields the exception in the place of the value, and goes on.

        Values are kept on the server for ten minutes at most, because only this iterator knows of them. What the items
        themselves raise, and `BrokerUnavailable` and the like, is raised at once, whatever `errors` says.

        Raises:
            BadOption: an argument cannot be used, or the task has the option `id`.
        """
        flight = mapping.Flight(self._sender, self, window=window, item_timeout=item_timeout, errors=errors)
        return mapping.values(flight, items, ordered=ordered)

    @overload
    def amap(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["raise"] = "raise",
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def amap(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["return"],
    ) -> AsyncGenerator[R | Exception, None]: ...

    def amap(
        self,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        window: int = 500,
        ordered: bool = True,
        item_timeout: Duration | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> AsyncGenerator[Any, None]:
        """`map` without blocking the event loop: `async for value in task.amap(items)`. Items may come asynchronously.

        Between values, inputs are taken and submitted by an asyncio task of its own, which ends with the iterator. An
        iterator that is left early is closed by the event loop soon after; `contextlib.aclosing` makes that certain.
        """
        from . import amapping  # a child that runs no coroutine never loads asyncio

        flight = mapping.Flight(self._sender, self, window=window, item_timeout=item_timeout, errors=errors)
        return amapping.values(flight, items, ordered=ordered)

    def call(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """Return a call of this task with these options, to be submitted with others by `submit_many`."""
        return Call(args, kwargs, self)

    def options(self, **options: Unpack[SubmitOptions]) -> BoundTask[P, R]:
        """Return this task with other options; see `TaskOptions` and `SubmitOptions`."""
        return BoundTask(
            self._sender, self.name, self.settings.merged(options), binder=self.binder, is_async=self.is_async
        )

    def kept_for(self, most_ms: int) -> BoundTask[P, R]:
        """Return this task with outcomes that are kept for so long at most."""
        settings = replace(self.settings, result_ttl_ms=min(self.settings.result_ttl_ms, most_ms))
        return BoundTask(self._sender, self.name, settings, binder=self.binder, is_async=self.is_async)

    def draft(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], place: Place | None = None) -> Draft:
        """Check and encode one call. `place` is that of the group that it is submitted by, if one does.

        Raises:
            Refused: it does not bind, does not encode, is too large or too deep, or could never run in time.
        """
        if self.binder is not None:
            self.binder.check(args, kwargs)
        settings = self.settings
        delay_ms, deadline_ms = settings.moments()
        try:
            body = codec.pack_body(args, kwargs)
        except (NotEncodable, TaskTooLarge) as error:
            raise type(error)(f"cannot submit {self.name}: {error}; nothing was queued") from None
        header, core = self._header, b""
        groups: tuple[str, ...] = ()
        place = self._place_of(place)
        if place is not None:
            deadline_ms = bounded(delay_ms, deadline_ms, place, self.name)
            header, core, groups = self._header_in(place), header, place.groups
        return Draft(
            queue=settings.queue,
            local=settings.id or ids.new_local_id(),
            given=settings.id is not None,
            name=self.name,
            line=self._line,
            header=header,
            body=body,
            delay_ms=delay_ms,
            deadline_ms=deadline_ms,
            core=core,
            groups=groups,
            durable=settings.durable,
        )

    def _place_of(self, place: Place | None) -> Place | None:
        if not self.settings.detached:
            return here(self._sender) if place is None else place
        if place is not None:
            raise BadOption(
                f"cannot submit {self.name} into a group: its option detached=True keeps it out of all groups"
            )
        above = here(self._sender)
        return None if above is None else above.detached()

    def _header_in(self, place: Place) -> bytes:
        """Return the header of a task in that place; tasks are submitted there by the thousand."""
        placed = self._placed
        if placed is None or placed[0] != place:
            header = self.settings.header(self.name)
            placed = (place, codec.pack_header(replace(header, extra={**header.extra, **place.extra()})))
            self._placed = placed
        return placed[1]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"


class Task(BoundTask[P, R]):
    """A function that can be run here by calling it, or elsewhere by submitting it."""

    def __init__(self, sender: Sender, fn: Callable[P, Any], name: str, settings: Options) -> None:
        super().__init__(sender, name, settings, binder=Binder(fn, name), is_async=inspect.iscoroutinefunction(fn))
        self.fn = fn
        functools.update_wrapper(self, fn, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here, now."""
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]


class CoroutineTask(Task[P, R]):
    """A coroutine function as a task: calling it here returns the coroutine, its future has what that returns."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """Return the function's coroutine, to be awaited here."""
        return self.fn(*args, **kwargs)  # type: ignore[no-any-return]
