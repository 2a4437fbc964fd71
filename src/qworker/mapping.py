"""`task.map` and `task.amap`: any number of inputs through one task, with a window of them under way.

    inputs ─► Flight.gather: draft, some at a time ─► send ─► line of futures ─► values, in order or as they come
                  ▲                                                               │
                  └── not before a quarter of the window has been given out ◄─────┘
    leaving early ─► Flight.stop: what is queued never starts, what runs is asked to end

Whatever was taken from the input and not given out yet counts for the window, so memory does not depend on how many
inputs there are, and a consumer that is slow slows down the producer. `map` runs in its caller's thread alone; `amap`
has one asyncio task beside it that takes inputs and submits.
"""

from __future__ import annotations

import concurrent.futures
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from . import durations
from .errors import BadOption, ConfigError, QWorkerError, Refused
from .model import Draft

if TYPE_CHECKING:
    from .future import Future
    from .group_server import GroupServer
    from .options import Duration
    from .task import BoundTask

__all__ = ["PATIENCE_S", "Errors", "Flight", "Item", "Submitter", "values"]

Errors = Literal["raise", "return"]
# The error is that of an input that could not be submitted.
Item: TypeAlias = "Future[Any] | Exception"
# Submitted at once: enough that a round trip costs nothing per item, few enough that the first values come soon.
CHUNK = 256
# Inputs that take longer to come are submitted with as many as there are, and what has ended is given out in between.
PATIENCE_S = 0.01
# Only the iterator knows the ids, and it is told of outcomes at once; so long they can be asked for after an outage.
RESULTS_FOR_MS = 600_000
LOOK_S = 1.0  # how often a wait for any of many looks whether its app was closed


class Submitter(Protocol):
    """What a map needs of its app."""

    inline: bool

    @property
    def connected(self) -> bool: ...

    def send(self, drafts: list[Draft]) -> list[Future[Any]]: ...

    def groups(self) -> GroupServer: ...


class Flight:
    """What one map has taken from its input and not given out yet. Owned by its iterator."""

    def __init__(
        self, app: Submitter, task: BoundTask[..., Any], *, window: int, item_timeout: Duration | None, errors: Errors
    ) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise BadOption(f"window={window!r}: expected a whole number of at least 1")
        if errors not in ("raise", "return"):
            raise BadOption(f"errors={errors!r}: expected 'raise' or 'return'")
        if task.settings.id is not None:
            raise BadOption(f"id={task.settings.id!r} is the id of one task, but map submits many")
        self.app = app
        self._task = task.kept_for(RESULTS_FOR_MS)
        self._limit_ms = _limit_ms(item_timeout)
        self._window = 1 if app.inline else window  # inline a task runs when it is submitted: not before it is wanted
        self._errors = errors
        self._held = 0
        self._under_way: dict[str, Future[Any] | None] = {}  # by full id; None: being submitted
        self.exhausted = False  # the input has come to its end

    @property
    def under_way(self) -> bool:
        """Whether anything may be left to stop."""
        return bool(self._under_way)

    @property
    def hungry(self) -> bool:
        """Whether inputs are to be taken now: a quarter of the window is free, so that round trips are shared."""
        return not self.exhausted and (self._window - self._held) * 4 >= self._window

    @property
    def most(self) -> int:
        """How many inputs may be taken at once."""
        return min(self._window - self._held, CHUNK)

    def gather(self, items: Iterator[Any]) -> tuple[list[Draft | Exception], bool]:
        """Take inputs; returns their drafts, and whether they come slowly."""
        batch: list[Draft | Exception] = []
        began = time.monotonic()
        for _ in range(self.most):
            try:
                item = next(items)
            except StopIteration:
                self.exhausted = True
                break
            batch.append(self.draft(item))
            if time.monotonic() - began > PATIENCE_S:
                return batch, True
        return batch, False

    def draft(self, item: Any) -> Draft | Exception:
        """Check and encode one input. What cannot be sent is an error in its place."""
        try:
            draft = self._task.draft((item,), {})
        except Refused as refused:
            return refused
        if self._limit_ms is not None:
            draft = draft._replace(deadline_ms=min(draft.deadline_ms or self._limit_ms, self._limit_ms))
        return draft

    def launch(self, batch: Sequence[Draft | Exception]) -> list[Draft]:
        """Count what was gathered as under way; returns what is to be sent.

        Before it is sent: when the answer is lost it may be queued all the same, and must be stopped, too.
        """
        self._held += len(batch)
        drafts = [one for one in batch if isinstance(one, Draft)]
        self._under_way.update((f"{draft.queue}:{draft.local}", None) for draft in drafts)
        return drafts

    def launched(self, batch: Sequence[Draft | Exception], futures: Sequence[Future[Any]]) -> list[Item]:
        """Take the futures of what was sent; returns what stands for each item, in order."""
        self._under_way.update((future.id, future) for future in futures)
        following = iter(futures)
        return [next(following) if isinstance(one, Draft) else one for one in batch]

    def given(self, value: Any, error: Exception | None, future: Future[Any] | None) -> Any:
        """An item is given out: return what for, or raise its error."""
        self._held -= 1
        if future is not None:
            self._under_way.pop(future.id, None)
        if error is None:
            return value
        if self._errors == "return":
            return error
        try:
            raise error
        finally:
            del self, error  # break the cycle of the exception, its traceback and this frame

    def outcome(self, item: Item) -> Any:
        """Wait for one item, and give it out."""
        if isinstance(item, Exception):
            return self.given(None, item, None)
        item.wait()  # what keeps us from knowing is raised here, and is nobody's outcome
        try:
            value = item.result()
        except Exception as error:
            return self.given(None, error, item)
        return self.given(value, None, item)

    def refill(self, items: Iterator[Any], line: deque[Item]) -> bool:
        """Take inputs and submit them, to the end of the line; returns whether they come slowly."""
        batch, slow = self.gather(items)
        line.extend(self.launched(batch, self.app.send(self.launch(batch))))
        return slow

    def stop(self) -> None:
        """End what is under way: it was left early. Waits for nothing but the server's answer."""
        ids = [full for full, future in self._under_way.items() if future is None or not future.done()]
        self._under_way.clear()
        if not ids or not self.app.connected:
            return  # the app was closed, which leaves tasks where they are; or it is inline
        try:
            self.app.groups().sweep(ids, force=True, grace_ms=None)
        except QWorkerError as error:
            import logging

            # Not raised: this runs while something else is, or in a destructor.
            logging.getLogger("qworker.client").warning(
                "%d tasks of a map that was left early could not be stopped: %s", len(ids), error
            )


def values(flight: Flight, items: Iterable[Any], *, ordered: bool) -> Generator[Any, None, None]:
    """Yield the value of each item, in their order or as they end."""
    try:
        yield from (_in_order if ordered else _as_they_end)(flight, iter(items))
    finally:
        flight.stop()


def _in_order(flight: Flight, items: Iterator[Any]) -> Generator[Any, None, None]:
    line: deque[Item] = deque()
    while True:
        while flight.hungry:
            slow = flight.refill(items, line)
            if slow and _ended(line[0]):
                break
        if not line:
            return
        yield flight.outcome(line.popleft())


def _as_they_end(flight: Flight, items: Iterator[Any]) -> Generator[Any, None, None]:
    line: deque[Item] = deque()
    while True:
        while flight.hungry:
            slow = flight.refill(items, line)
            if slow and any(map(_ended, line)):
                break
        if not line:
            return
        ended = [item for item in line if _ended(item)] or _wait_for_any(line)
        gone = set(map(id, ended))
        line = deque(item for item in line if id(item) not in gone)
        for item in ended:
            yield flight.outcome(item)
            if flight.hungry:
                flight.refill(items, line)


def _wait_for_any(line: Iterable[Item]) -> list[Item]:
    futures = [item for item in line if not isinstance(item, Exception)]
    client = futures[0].client()
    while True:
        done, _ = concurrent.futures.wait(futures, LOOK_S, return_when=concurrent.futures.FIRST_COMPLETED)
        if done:
            return [future for future in futures if future in done]
        if client.closed:
            raise RuntimeError(f"the app was closed while {futures[0].shown} and others of its map were awaited")
        for future in futures:
            client.watch(future)  # costs nothing, unless the app was closed and used again between two waits


def _ended(item: Item) -> bool:
    return isinstance(item, Exception) or item.done()


def _limit_ms(item_timeout: Duration | None) -> int | None:
    if item_timeout is None:
        return None
    try:
        limit_ms = durations.milliseconds(item_timeout)
    except ConfigError as error:
        raise BadOption(f"item_timeout: {error}") from None
    if limit_ms == 0:
        raise BadOption(f"item_timeout={item_timeout!r}: no item can end in no time; None means no limit")
    return limit_ms
