"""How a task is to be run: the options that users write, checked and turned into what travels.

    App(timeout=…) ─► @app.task(retries=…) ─► task.options(delay=…)      each a `merged` copy of the one before
                                                   │
                                   Header (same bytes for all tasks of a kind), Line, queue, delay and deadline

Used by `app` and `task` only. A wrong option is refused where it is written, with a text that names it; what depends on
the moment of the submit (a delay beyond the deadline, a datetime that has passed) is refused by `moments`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, get_args

from . import durations, ids
from .binding import name_of_class
from .errors import BadOption, ConfigError
from .model import PRIORITIES, Delivery, Header, Line, PoolKind, PoolNeed, Priority

Duration = float | int | str | timedelta


class TaskOptions(TypedDict, total=False):
    """What `App(…)`, `@app.task(…)` and `task.options(…)` take; durations are seconds, timedeltas or texts as "30s"."""

    timeout: Duration | None
    """Run time of one attempt; 30 minutes unless given. None: no limit."""
    grace: Duration
    """From being asked to end to being ended by force; 5 s unless given."""
    deadline: Duration | datetime | None
    """Until when it must have ended: time in the queue, runs and retries together."""
    retries: int
    """How often it is run again after it failed or timed out."""
    backoff: Duration
    """The pause before the first retry; doubled each time."""
    jitter: bool
    """Spread the pauses at random, so that tasks that failed together do not come back together."""
    retry_for: type[Exception] | tuple[type[Exception], ...] | None
    """Retry these exceptions only."""
    delay: Duration | datetime | None
    """Do not start it before that."""
    priority: Priority
    queue: str
    pool: PoolKind | None
    """The kind of slot that it needs; None: async for a coroutine function, else whatever the worker's default is."""
    result_ttl: Duration
    """How long its outcome is kept; 1 hour unless given; 0 keeps no value."""
    delivery: Delivery
    max_crashes: int
    """How many deaths of its process it may cause before it ends as crashed."""
    interrupt: bool
    """Raise TaskInterrupt into its code when it is asked to end, wherever that is: it need not call `current.check()`.

    It then runs in a process slot, in whose main thread a signal raises it, once, between any two bytecodes: also in
    `while True: pass`, in `time.sleep`, or while it waits for a lock or a socket. The dangers are those of Ctrl-C: it
    may come in the middle of a `finally` or `with` block and cut its cleanup short, between taking a lock and the line
    that would release it, or in code that was never meant to raise there. C code that does not return to Python is
    not reached (it is killed at the end of its grace), and what C code calls back may lose the exception. Put what must
    not be cut in two into `current.shield`. (CPython 3.11 and 3.12 also pass over the `finally` or `except` around a
    loop with an empty body, `try: while True: pass`.) Never for coroutine functions: asyncio's cancellation ends them.
    """
    durable: bool
    """Its submit returns only when the server has it on its disk and on a replica: whatever of both the server has.

    Otherwise the submit raises: `NotReplicated` when that took too long (the task is queued), `ServerUnfit` when the
    server has neither, or cannot tell (nothing is queued). See docs/servers.md.
    """
    detached: bool
    """Submitted by a task: it takes on neither that task's groups nor its deadline, and outlives them."""


class SubmitOptions(TaskOptions, total=False):
    """What `task.options(…)` takes: all of `TaskOptions`, and the id of one task."""

    id: str | None
    """The local part of the id. The same id and content is the same task."""


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options. Built by `merged` only, so that every value in it is valid."""

    timeout_ms: int | None = 1_800_000
    grace_ms: int = 5_000
    deadline: float | datetime | None = None
    retries: int = 0
    backoff_ms: int = 1_000
    jitter: bool = True
    retry_for: tuple[str, ...] | None = None
    delay: float | datetime | None = None
    priority: Priority = "normal"
    queue: str = "default"
    pool: PoolKind | None = None
    result_ttl_ms: int = 3_600_000
    delivery: Delivery = "at_least_once"
    max_crashes: int = 3
    interrupt: bool = False
    durable: bool = False
    detached: bool = False
    id: str | None = None

    def merged(self, given: SubmitOptions | TaskOptions, *, also: tuple[str, ...] = ()) -> Options:
        """Return these options with the given ones in their place. `also` is what else could be meant by a wrong one.

        Raises:
            BadOption: an option that does not exist, or has a value that cannot be used.
        """
        changes: dict[str, Any] = {}
        for name, value in given.items():
            try:
                field, check = _CHECKS[name]
            except KeyError:
                raise BadOption(_unknown(name, also)) from None
            changes[field] = check(name, value)
        merged = replace(self, **changes)
        if merged.interrupt and merged.pool not in (None, "process"):
            raise BadOption(
                f"interrupt=True and pool={merged.pool!r}: only a process slot's code can be interrupted; "
                "leave out one of them, or set interrupt=False"
            )
        return merged

    def header(self, name: str) -> Header:
        """Return the header of a task of that name."""
        return Header(
            name=name,
            timeout_ms=self.timeout_ms,
            grace_ms=self.grace_ms,
            retries=self.retries,
            backoff_ms=self.backoff_ms,
            jitter=self.jitter,
            retry_for=self.retry_for,
            result_ttl_ms=self.result_ttl_ms,
            delivery=self.delivery,
            max_crashes=self.max_crashes,
            extra={"i": True} if self.interrupt else {},
        )

    def line(self, *, is_async: bool) -> Line:
        """Return the ready list that a task with these options goes to.

        Raises:
            BadOption: a coroutine function is to be interrupted.
        """
        if self.interrupt and is_async:
            raise BadOption(
                "interrupt=True: a coroutine function cannot be interrupted by a signal, and need not be: asked to "
                "end, it gets asyncio's cancellation at its next await; set interrupt=False"
            )
        return Line(pool_need("process" if self.interrupt else self.pool, is_async=is_async), self.priority)

    def moments(self) -> tuple[int, int]:
        """Return how many ms remain until the start and until the deadline (0: at once; none).

        Raises:
            BadOption: the deadline has passed, or the task would be delayed beyond it.
        """
        if self.delay is None and self.deadline is None:
            return 0, 0
        now = datetime.now(UTC)
        delay_ms = max(0, _remaining_ms(self.delay, now))
        if self.deadline is None:
            return delay_ms, 0
        deadline_ms = _remaining_ms(self.deadline, now)
        if deadline_ms <= 0:
            raise BadOption(f"deadline={self.deadline}: it passed {durations.text(-deadline_ms / 1000)} ago")
        if delay_ms >= deadline_ms:
            raise BadOption(
                f"a delay of {durations.text(delay_ms / 1000)} is beyond the deadline, which is in"
                f" {durations.text(deadline_ms / 1000)}: the task could never run"
            )
        return delay_ms, deadline_ms


def pool_need(pool: PoolKind | None, *, is_async: bool) -> PoolNeed:
    """Say which pool a task needs.

    A coroutine function belongs on a loop that many share, unless it names another pool: there it gets a loop of its
    own, for as long as it runs.
    """
    return pool or ("async" if is_async else "default")


def _unknown(name: str, also: tuple[str, ...]) -> str:
    import difflib

    close = difflib.get_close_matches(name, (*_CHECKS, *also), 1)
    meant = f": did you mean {close[0]}? The" if close else "; the"
    own = f"; besides them there are {', '.join(also)}" if also else ""
    return f"there is no option {name!r}{meant} options of a task are {', '.join(sorted(_CHECKS))}{own}"


def _remaining_ms(when: float | datetime | None, now: datetime) -> int:
    if when is None:
        return 0
    seconds = (when - now).total_seconds() if isinstance(when, datetime) else when
    return round(seconds * 1000)


def _seconds(name: str, value: Any) -> float:
    try:
        return durations.seconds(value)
    except ConfigError as error:
        raise BadOption(f"{name}: {error}") from None


def _duration_ms(name: str, value: Any) -> int:
    return durations.milliseconds(_seconds(name, value))


def _timeout_ms(name: str, value: object) -> int | None:
    if value is None:
        return None
    milliseconds = _duration_ms(name, value)
    if milliseconds == 0:
        raise BadOption(f"{name}={value!r}: no task can run in no time; None means no limit")
    return milliseconds


def _moment(name: str, value: object) -> float | datetime | None:
    if value is None:
        return None
    if not isinstance(value, datetime):
        return _seconds(name, value)
    if value.utcoffset() is None:
        raise BadOption(
            f"{name}={value!r}: a datetime without a time zone could mean any hour; "
            "use datetime.now(UTC) + …, or value.astimezone()"
        )
    return value


def _deadline(name: str, value: object) -> float | datetime | None:
    moment = _moment(name, value)
    if isinstance(moment, float | int) and moment <= 0:
        raise BadOption(f"{name}={value!r}: a deadline must lie ahead; None means none")
    return moment


def _count(least: int) -> Any:
    def check(name: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise BadOption(f"{name}={value!r}: expected a whole number of at least {least}")
        return value

    return check


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadOption(f"{name}={value!r}: expected True or False")
    return value


def _word(words: tuple[str, ...], *, optional: bool = False) -> Any:
    def check(name: str, value: object) -> object:
        if (value is None and optional) or (isinstance(value, str) and value in words):
            return value
        raise BadOption(f"{name}={value!r}: expected one of {', '.join(words)}")

    return check


def _classes(name: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    classes = value if isinstance(value, tuple | list | set | frozenset) else (value,)
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, Exception)):
            raise BadOption(f"{name}={value!r}: expected exception classes; {one!r} is none")
    return tuple(sorted(name_of_class(one) for one in classes))


def _queue(name: str, value: Any) -> str:
    del name  # `ids` names what it refuses
    try:
        return ids.check_queue(value)
    except ConfigError as error:
        raise BadOption(str(error)) from None


def _local_id(name: str, value: Any) -> str | None:
    del name
    if value is None:
        return None
    try:
        return ids.check_local(value)
    except ConfigError as error:
        raise BadOption(str(error)) from None


_CHECKS: dict[str, tuple[str, Any]] = {
    "timeout": ("timeout_ms", _timeout_ms),
    "grace": ("grace_ms", _duration_ms),
    "deadline": ("deadline", _deadline),
    "retries": ("retries", _count(0)),
    "backoff": ("backoff_ms", _duration_ms),
    "jitter": ("jitter", _flag),
    "retry_for": ("retry_for", _classes),
    "delay": ("delay", _moment),
    "priority": ("priority", _word(PRIORITIES)),
    "queue": ("queue", _queue),
    "pool": ("pool", _word(get_args(PoolKind), optional=True)),
    "result_ttl": ("result_ttl_ms", _duration_ms),
    "delivery": ("delivery", _word(get_args(Delivery))),
    "max_crashes": ("max_crashes", _count(1)),
    "interrupt": ("interrupt", _flag),
    "durable": ("durable", _flag),
    "detached": ("detached", _flag),
    "id": ("id", _local_id),
}

__all__ = ["Duration", "Options", "SubmitOptions", "TaskOptions", "pool_need"]
