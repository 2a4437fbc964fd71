"""`Executor`: the interface of `concurrent.futures`, whole, on qworker's workers.

    submit, map ─► a function's name and its arguments ─► App ─► the server ─► a worker with --allow, or a private one
                                                            └► Future, which is a concurrent.futures.Future
    shutdown, the end of the with block, the interpreter's exit ─► wait for what was submitted ─► end the private worker

What it promises is what the standard library documents of `Executor` in Python 3.11 to 3.14; the standard library's own
tests run against it (`make test-stdlib`).
"""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from . import allowed
from .app import App
from .binding import Binder, refuse_homeless
from .config import EVERYTHING
from .errors import BadCall, ConfigError
from .future import Future
from .model import Draft, PoolKind
from .options import Options
from .outstanding import Outstanding, cancel_all
from .own_worker import OwnWorker
from .task import BoundTask

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Unpack

    from .options import TaskOptions

__all__ = ["Executor"]

P = ParamSpec("P")
R = TypeVar("R")

NAMESPACE = "executor"  # of private servers
_BATCH = 256  # calls of `map` that are encoded before they are sent


class Executor(concurrent.futures.Executor):
    """Runs functions on qworker's workers, behind the interface of `concurrent.futures.Executor`.

    `Executor(workers=4)` is the one-line replacement for `ProcessPoolExecutor(4)`: it starts a worker of its own, with
    a server of its own, which the first `submit` waits for (half a second), and ends both when it is shut down or this
    process ends. `Executor(app)` and `Executor(url=…)` use whichever workers serve that server; these must be started
    with `qworker start --allow MODULE` for the modules of the functions, unless a function is a registered task.

    Any function that can be imported may be submitted, also one of the running script (the worker imports that as a
    module, so what starts the work stands under `if __name__ == "__main__":`). Only its name travels: lambdas, inner
    functions and methods of objects are refused with `BadCall`. Arguments and results are what qworker carries:
    None, numbers, texts, bytes, lists, tuples, dicts, sets, dates and times, decimals, UUIDs.

    A registered task keeps its options. On a private worker it is a function like any other: it runs there whatever
    its queue and its name are, and one with a `pool` (or `interrupt=True`) that the worker's slots are not of is
    refused with `BadCall`.

    Args:
        app: an app whose server and options are used.
        url: a server, instead of an app; without either and without `workers`, the one that `App()` finds.
        workers: start a private worker with so many slots.
        allow: modules whose functions the private worker runs; all, unless given.
        namespace: as `App` has it.
        options: how tasks are run; see `TaskOptions`. Unless an app or you say otherwise, there is no `timeout`. With
            `workers`, `pool` is the kind of its slots, "process" unless given.

    What tasks of a private worker print goes to this process's streams. Its log is quiet; QWORKER_LOG_LEVEL=info
    changes that. Ctrl-C in its `with` block, or in the script, asks what runs there to end, and kills it 2 s later; the
    workers of an app or a URL go on. When it cannot start, or dies, futures and `submit` raise
    `concurrent.futures.BrokenExecutor`. A task that kills its own process harms no other: its future raises
    `TaskCrashed`.

    Raises:
        ValueError: `workers` is less than 1.
        ConfigError: the arguments contradict each other, or an option cannot be used.
    """

    def __init__(
        self,
        app: App | None = None,
        *,
        url: str | None = None,
        namespace: str | None = None,
        workers: int | None = None,
        allow: str | Iterable[str] | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        _check(app, url, namespace, workers, allow, options)
        pool: PoolKind = "process"
        if workers is not None:
            pool = options.get("pool") or pool
            Options().merged({**options, "pool": pool})  # refused here, not by the worker
            options.pop("pool", None)  # it is the worker's; its tasks go wherever it has slots
        if app is None:
            options.setdefault("timeout", None)
        self._settings = (Options() if app is None else app.settings).merged(options)
        self._known: dict[str, tuple[Callable[..., Any], BoundTask[..., Any]]] = {}
        self._allow: tuple[str, ...] = ()  # what the private worker runs, if there is one
        self._pool = pool  # its kind of slots
        own = None
        if workers is not None:
            modules = allow.split(",") if isinstance(allow, str) else allow or (EVERYTHING,)
            self._allow = tuple(module.strip() for module in modules)
            own = OwnWorker()
            url, namespace = own.url, NAMESPACE
        self._state = Outstanding(app or App(url, namespace=namespace), own, own_app=app is None)
        weakref.finalize(self, self._state.abandon).atexit = False
        if own is not None:
            own.start(
                slots=workers or 1, pool=pool, queue=self._settings.queue, namespace=NAMESPACE,
                allow=self._allow, on_end=self._state.break_,
            )  # fmt: skip

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if isinstance(error, KeyboardInterrupt):
            self._state.interrupt()
        self.shutdown(wait=True)
        return False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Have `fn(*args, **kwargs)` called by a worker, and return its future.

        Raises:
            RuntimeError: it was shut down, or the interpreter is.
            concurrent.futures.BrokenExecutor: its own worker could not start, or died.
            Refused: nothing was queued: no worker could import the function, its own worker has no slots that the task
                needs, or the arguments do not fit or cannot be sent; the subclass and the text say why.
            BrokerUnavailable: the server could not be reached; nothing was queued.
        """
        with self._state.sending() as app:
            return self._send(app, [self._draft(fn, args, kwargs)])[0]

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[R]:
        """Return an iterator over `fn(*items)` for the items of the iterables, in order, as `map` does.

        Everything is submitted at once, or with `buffersize` only so many calls ahead of the one whose result is
        awaited. When the iterator is closed, or ends by an error, calls that no worker holds are cancelled, and
        running ones are left alone.

        Args:
            timeout: seconds from this call within which each result must have come; `TimeoutError` otherwise.
            chunksize: for `ProcessPoolExecutor`'s sake: calls travel in batches anyhow.
            buffersize: the most calls whose results have not been yielded.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        ends = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        futures: deque[Future[R]] = deque()
        with self._state.sending() as app:
            try:
                first = itertools.islice(calls, buffersize)
                while batch := [self._draft(fn, args, {}) for args in itertools.islice(first, _BATCH)]:
                    futures.extend(self._send(app, batch))
            except BaseException:
                cancel_all(app, futures)
                raise
        # The iterator must not keep the executor alive.
        return _results(weakref.ref(self), app, fn, calls if buffersize else iter(()), futures, ends)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. With `wait`, return when all that was submitted has ended, and so has the own worker.

        The done-callbacks of its futures have been called by then, as have those of all other futures that had ended.
        Without `wait` that happens later, at the latest when the interpreter exits. `cancel_futures` cancels what no
        worker holds yet.

        Raises:
            PoolExhausted, WaitCycle: in a task that cannot wait for what it has submitted; that goes on by itself.
        """
        self._state.shut_down(wait=wait, cancel=cancel_futures)

    def _send(self, app: App, drafts: list[Draft]) -> list[Future[Any]]:
        futures = app.send(drafts)
        self._state.await_(futures)
        return futures

    def _draft(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Draft:
        while isinstance(fn, functools.partial):
            args, kwargs, fn = (*fn.args, *args), {**fn.keywords, **kwargs}, fn.func
        return self._task(fn).draft(args, kwargs)

    def _task(self, fn: Callable[..., Any]) -> BoundTask[..., Any]:
        task = fn if isinstance(fn, BoundTask) else None
        if task is not None and not self._allow:
            return task
        name = allowed.importable_name(fn) if task is None else task.name
        known = self._known.get(name)
        if known is None or known[0] is not fn:
            bound = self._bound(name, self._settings, Binder(fn, name)) if task is None else self._adopted(task)
            known = self._known[name] = fn, bound
        return known[1]

    def _adopted(self, task: BoundTask[..., Any]) -> BoundTask[..., Any]:
        """Return a task of any app as the own worker runs it: from its one queue, in its slots, by its function's name.

        That worker imports functions and knows no app, so a name that somebody gave the task says nothing to it.
        """
        settings = task.settings.merged({"queue": self._settings.queue})
        self._refuse_unfit(task.name, settings)
        binder = task.binder
        name = task.name if binder is None else allowed.importable_name(binder.fn)
        return self._bound(name, settings, binder)

    def _bound(self, name: str, settings: Options, binder: Binder | None) -> BoundTask[..., Any]:
        refuse_homeless(name)
        self._refuse_foreign(name)
        # Coroutine functions, too: on an own worker they would wait for async slots that it may not have, and a worker
        # gives each a loop of its own in any other.
        return BoundTask(self._state.app, name, settings, binder=binder, is_async=False)

    def _refuse_unfit(self, name: str, settings: Options) -> None:
        """Refuse a task that needs slots of another kind than the own worker's: it would wait for ever."""
        need = settings.line(is_async=False).pool
        if need in ("default", self._pool):
            return
        has, without = ("interrupt=True", "interrupt=False") if settings.interrupt else (f"pool={need!r}", "pool=None")
        raise BadCall(
            f"cannot submit {name}: it has {has}, and this Executor's own worker has {self._pool} slots only; submit "
            f"task.options({without}), or make it Executor(workers=…, pool={need!r}); nothing was queued"
        )

    def _refuse_foreign(self, name: str) -> None:
        # No other worker will ever come to a private server: what this one may not run would wait for ever.
        if self._allow and not allowed.permits(self._allow, name):
            raise BadCall(
                f"cannot submit {name}: this Executor's own worker runs functions of {', '.join(self._allow)} only; "
                "name its module in allow=, too; nothing was queued"
            )


def _check(
    app: App | None,
    url: str | None,
    namespace: str | None,
    workers: int | None,
    allow: object,
    options: Mapping[str, object],
) -> None:
    """Refuse arguments of an executor that contradict each other, or are those of another kind of executor."""
    if app is not None and not isinstance(app, App):
        if isinstance(app, int):
            raise ConfigError(f"Executor({app!r}): its first argument is an app; write Executor(workers={app!r})")
        raise ConfigError(f"Executor({app!r}): expected an App; a server is given as url=, slots as workers=")
    if "max_workers" in options:
        raise ConfigError(f"there is no option 'max_workers': write Executor(workers={options['max_workers']!r})")
    if workers is not None:
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise ConfigError(f"Executor(workers={workers!r}): expected a whole number of slots")
        if workers < 1:
            raise ValueError(f"workers={workers}: the number of workers must be greater than 0")
        if app is not None or url is not None or namespace is not None:
            raise ConfigError(
                "Executor(workers=…) starts a worker with a server of its own, so it takes no app, url or namespace; "
                "leave out workers= to use the workers of that server"
            )
        if allowed.importing():
            raise RuntimeError(
                "Executor(workers=…) was made while a worker imported this module to find a function in it; "
                "make it, and use it, under `if __name__ == '__main__':`"
            )
    elif allow is not None:
        raise ConfigError(
            "Executor(allow=…) is for a private worker, with workers=; start others with `qworker start --allow MODULE`"
        )
    if app is not None and (url is not None or namespace is not None):
        raise ConfigError("Executor(app, …) uses the server of that app, so it takes no url and no namespace")


def _results(
    executor: weakref.ref[Executor],
    app: App,
    fn: Callable[..., R],
    calls: Iterator[tuple[Any, ...]],
    futures: deque[Future[R]],
    ends: float | None,
) -> Iterator[R]:
    """Yield the results of futures in order; submit one of the calls, if there are any left, for each."""
    try:
        while futures:
            owner = executor()
            if owner is not None and (args := next(calls, None)) is not None:
                futures.append(owner.submit(fn, *args))
            del owner
            yield _take(app, futures.popleft(), ends)
    finally:
        cancel_all(app, futures)


def _take(app: App, future: Future[R], ends: float | None) -> R:
    try:
        return future.result(None if ends is None else ends - time.monotonic())
    finally:
        cancel_all(app, (future,))  # it came too late
        del future  # break the cycle of the exception, its traceback and this frame
