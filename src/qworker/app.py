"""`App`: the tasks of a project, and its one way to the server.

    App() ─► @app.task ─► Task ─► send ─┬─► broker.client.Client ─► the server     connected by the first use
                                        └─► inline.Inline                          App(inline=True)
    app.future(id) ─► Future

Workers and their children import apps, too, for `tasks` and `child_start_hooks`; they never connect through them, so
this module imports neither redis nor asyncio.
"""

from __future__ import annotations

import functools
import inspect
import os
import reprlib
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from . import durations, ids, stopping
from .address import Address
from .binding import Binder, check_name, name_of, place_of, refuse_homeless, same_source
from .errors import BadCall, ConfigError
from .future import Future
from .loops import entrance
from .model import Draft
from .options import Options, TaskOptions
from .task import BoundTask, Call, CoroutineTask, Task, call_of

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from .broker.client import Client
    from .group import Group
    from .group_server import GroupServer
    from .inline import Inline
    from .options import Duration
    from .views import StopReceipt

__all__ = ["App"]

_ARGUMENTS = ("url", "namespace", "inline", "connect_timeout")  # of App, besides the options of its tasks

P = ParamSpec("P")
R = TypeVar("R")
H = TypeVar("H", bound=Callable[[], object])


class TaskDecorator(Protocol):
    """What `app.task(…)` with options returns."""

    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> Task[P, R]: ...


class App:
    """The tasks of a project and the server that they go to.

    Args:
        url: the server, as `redis://host:6379/0`, `rediss://…` or `unix:///path`. Without it `QWORKER_URL`, else the
            `[tool.qworker]` table of pyproject.toml, else an embedded server of this project is used.
        namespace: keeps projects apart on one server; else `QWORKER_NAMESPACE`, else "default".
        inline: for tests of your own code: `submit` runs the task here and now, and returns a finished future. There is
            no server; arguments and values take the same way through encoding and decoding; retries happen at once,
            without their pauses; delays, timeouts and deadlines are not enforced.
        connect_timeout: how long a call may try to reach the server before it raises `BrokerUnavailable`.
        options: defaults for the tasks of this app; see `TaskOptions`.

    An app connects when it is first used, and again in a forked child. `close` or leaving its `with` block lets go of
    the connections; its tasks stay in the queue.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        inline: bool = False,
        connect_timeout: Duration = 5.0,
        **options: Unpack[TaskOptions],
    ) -> None:
        if url is not None and not isinstance(url, str):
            raise ConfigError(f"App({reprlib.repr(url)}): expected the server's URL as text, as redis://host:6379/0")
        self.tasks: dict[str, Task[..., Any]] = {}
        self.child_start_hooks: list[Callable[[], object]] = []
        self.settings = Options().merged(options, also=_ARGUMENTS)
        self.inline = inline
        self._address = Address(url, namespace)
        try:
            self._connect_timeout_s = durations.seconds(connect_timeout)
        except ConfigError as error:
            raise ConfigError(f"connect_timeout: {error}") from None
        self._lock = threading.RLock()  # a signal's handler may close the app that its thread is about to connect
        self._client: Client | None = None
        self._inline: Inline | None = None
        _apps.add(self)

    @property
    def url(self) -> str | None:
        """The server's address as it was given or set; None: the embedded server."""
        return self._address.url

    @property
    def namespace(self) -> str:
        """The namespace of this app's queues."""
        return self._address.namespace

    # Tasks

    @overload
    def task(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, fn: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, *, name: str | None = None, **options: Unpack[TaskOptions]) -> TaskDecorator: ...

    # mypy cannot see that **options takes whatever the third signature unpacks.
    def task(self, fn: Any = None, /, *, name: str | None = None, **options: Any) -> Any:  # type: ignore[misc]
        """Make a function a task: `@app.task`, or `@app.task(timeout=30, retries=3)`.

        Calling it runs it here, as before; `submit`, `submit_many`, `map` and `options` are those of `Task`.

        Args:
            name: its name, in place of `module.function`.
            options: how it is run; see `TaskOptions`. What is not given is the app's.

        Raises:
            ConfigError: the name is taken, or an option cannot be used.
        """
        if fn is None:
            # refused here, where the options stand
            settings = self.settings.merged(cast("TaskOptions", options), also=("name",))
            return lambda function: self._register(function, name, settings)
        return self._register(fn, name, self.settings.merged(cast("TaskOptions", options), also=("name",)))

    def on_child_start(self, hook: H) -> H:
        """Call this function in each child process before its first task."""
        self.child_start_hooks.append(hook)
        return hook

    def named(self, target: str | Callable[..., Any]) -> BoundTask[..., Any]:
        """Return a task by its name, by its function or as it is.

        A name that this process does not know is taken as it is: a worker that knows it will run it.
        """
        if isinstance(target, BoundTask):
            return target
        if isinstance(target, str):
            known = self.tasks.get(target)
            if known is not None:
                return known
            return BoundTask(self, check_name(target), self.settings, binder=None, is_async=False)
        if not callable(target):
            raise BadCall(
                f"cannot submit {reprlib.repr(target)}: expected a task, a function, or the name of a task; what it is "
                "called with follows it: submit(task, 1, 2), not submit(task(1, 2)); nothing was queued"
            )
        for task in self.tasks.values():
            if task.fn is target:
                return task
        name = name_of(target)
        return BoundTask(self, name, self.settings, binder=Binder(target, name), is_async=False)

    # Submitting

    @overload
    def submit(self, target: BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...
    @overload
    def submit(self, target: str, /, *args: Any, **kwargs: Any) -> Future[Any]: ...
    @overload
    def submit(
        self, target: Callable[P, Coroutine[Any, Any, R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[R]: ...
    @overload
    def submit(self, target: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]: ...

    def submit(self, target: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a task by its name, its function or itself; with options: `app.named(…).options(…).submit(…)`."""
        return self.named(target).submit(*args, **kwargs)

    def submit_many(self, calls: Iterable[Call[R]]) -> list[Future[R]]:
        """Queue calls of any tasks (`task.call(…)`), some hundred per round trip; see `Task.submit_many`."""
        return self.send([call_of(one).draft() for one in calls])

    def group(
        self,
        *,
        timeout: Duration | None = None,
        max_failures: int = 0,
        on_owner_loss: Literal["cancel", "detach"] = "cancel",
        name: str = "",
    ) -> Group:
        """Return a group of tasks that end together: `with app.group() as g: g.submit(task, …)`, or `async with`.

        The block ends when every task of its tree has ended, or is listed as a survivor. Once more than `max_failures`
        failed, the others are stopped wherever they are, and what failed is raised as one `ExceptionGroup`. Leaving the
        block by an exception stops them, too. Groups opened inside of it, and by its tasks, are parts of the tree.

        Args:
            timeout: bounds the queue time, runs and retries of all tasks of the tree together, in seconds. What has not
                ended by then is stopped as `TaskExpired`, which is among the errors of the block.
            max_failures: how many tasks may fail without being an error of the block.
            on_owner_loss: what becomes of it when this process dies: its tasks are stopped after about half a minute
                ("cancel"), or go on ("detach").
            name: what people call it.

        Raises:
            BadOption: one of these cannot be used.
        """
        from .group import Group

        return Group(self, timeout=timeout, max_failures=max_failures, on_owner_loss=on_owner_loss, name=name)

    def stop(
        self, *tasks: str | Future[Any], group: str | None = None, wait: Duration = 2.0, grace: Duration | None = None
    ) -> list[StopReceipt]:
        """End tasks wherever they are (by id or future), or all that is in a group (by its id), and return receipts.

        A group is stopped by one write, whatever it holds: nothing of it starts any more, what runs is asked to end,
        and nobody waits for that here. Its owner gets the receipts: `Group.receipts`.

        Raises:
            TaskNotFound: no group of that id is known.
        """
        for task in tasks:
            if not isinstance(task, (str, Future)):
                raise ConfigError(f"app.stop({reprlib.repr(task)}): expected ids of tasks, queue:local, or futures")
        return stopping.stop_all(self, tasks, group, wait, grace)

    def future(self, id: str, /) -> Future[Any]:  # noqa: A002 - the public word
        """Return a handle of a task that was submitted anywhere. Nothing is asked before the future is.

        Raises:
            ConfigError: it is not an id, `queue:local`.
        """
        if not isinstance(id, str):
            raise ConfigError(f"app.future({reprlib.repr(id)}): expected the id of a task as text, queue:local")
        ids.split_id(id)
        if self.inline:
            return self._runner().future(id)
        future = Future[Any](id, link=self)
        future.watch_when_awaited()
        return future

    # The way to the server

    def send(self, drafts: list[Draft]) -> list[Future[Any]]:
        """Send checked tasks; `Task` and `BoundTask` do."""
        if self.inline:
            return [self._runner().run(draft) for draft in drafts]
        for name in {draft.name for draft in drafts}:
            refuse_homeless(name)
        futures = [Future[Any](f"{draft.queue}:{draft.local}", name=draft.name, link=self) for draft in drafts]
        if futures:
            self.client().submit(drafts, futures)
        return futures

    async def asend(self, draft: Draft) -> Future[Any]:
        """Send one checked task without blocking the event loop."""
        if self.inline:
            return self._runner().run(draft)
        refuse_homeless(draft.name)
        import asyncio  # a child that runs no coroutine never loads it

        client = self.client() if self.connected else await asyncio.to_thread(self.client)
        future = Future[Any](f"{draft.queue}:{draft.local}", name=draft.name, link=self)
        if draft.durable:  # what waits for a disk must not hold up the thread that hears of results
            await asyncio.to_thread(client.submit, [draft], [future])
            return future
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[None] = loop.create_future()
        client.submit_soon(draft, future, functools.partial(entrance(loop).let_in, answered))
        await answered
        return future

    def groups(self) -> GroupServer:
        """Return what a `Group` asks about groups."""
        if self.inline:
            from .inline import InlineGroups

            return InlineGroups()
        return self.client().groups

    @property
    def connected(self) -> bool:
        """Whether this process has a client already, so that `client` does not block."""
        return self._client is not None and self._client.usable

    def client(self) -> Client:
        """Return the client of this process and app, connecting if need be.

        Raises:
            BrokerUnavailable: the server could not be reached within `connect_timeout`.
        """
        client = self._client
        if client is not None and client.usable:
            return client
        if self.inline:
            raise RuntimeError("App(inline=True) has no server")
        with self._lock:
            if self._client is None or not self._client.usable:
                made = self._connect()
                if self._client is None or not self._client.usable:
                    self._client = made
                else:
                    made.close()  # a signal's handler came in between, and connected, too
            return self._client

    def close(self) -> None:
        """Let go of the connections. Waiting calls raise; tasks stay where they are. The next use connects again.

        What was waiting in `concurrent.futures.wait` or `as_completed`, or had a done-callback, is not told any more.
        """
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "inline" if self.inline else self._address.given or "url from the settings"
        return f"<App {where}, {len(self.tasks)} tasks>"

    # Inside

    def leave_parent(self) -> None:
        """In a forked child: forget the parent's client; the next use connects anew, under an id of its own."""
        client, self._client = self._client, None
        self._lock = threading.RLock()
        if client is not None:
            client.leave_parent()

    def _register(self, fn: Any, name: str | None, settings: Options) -> Task[..., Any]:
        if isinstance(fn, Task):
            fn = fn.fn
        if isinstance(fn, type):
            raise ConfigError(
                f"@app.task on the class {fn.__qualname__}: expected a function; write one that makes and uses it"
            )
        if not callable(fn):
            raise ConfigError(f"@app.task on {fn!r}: expected a function; options are given by keyword")
        chosen = name_of(fn) if name is None else check_name(name)
        known = self.tasks.get(chosen)
        if known is not None and not same_source(known.fn, fn):
            raise ConfigError(
                f"two tasks are named {chosen!r}: {place_of(known.fn)} and {place_of(fn)}; "
                "give one of them another name: @app.task(name='…')"
            )
        kind = CoroutineTask if inspect.iscoroutinefunction(fn) else Task
        task: Task[..., Any] = kind(self, fn, chosen, settings)
        self.tasks[chosen] = task
        return task

    def _runner(self) -> Inline:
        if self._inline is None:
            from .inline import Inline

            self._inline = Inline(self.tasks)
        return self._inline

    def _connect(self) -> Client:
        from .broker.client import Client

        return Client(self._address.find, namespace=self.namespace, timeout_s=self._connect_timeout_s)

    @staticmethod
    def load_client() -> None:
        """Import what a client needs, and connect to nothing: for the process that children are forked from."""
        from .broker import client  # noqa: F401


_apps: weakref.WeakSet[App] = weakref.WeakSet()


def _renew_after_fork() -> None:
    # In the child: another thread may have held a lock when the fork happened, and the sockets are the parent's.
    for app in _apps:
        app.leave_parent()


os.register_at_fork(after_in_child=_renew_after_fork)
