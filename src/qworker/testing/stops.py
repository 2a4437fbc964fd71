"""`assert_stops`: a task, in a real slot, asked to end at one checkpoint after the other.

    attempt n ─► probe (in the child) stands at checkpoint n ─► ask ─► ended in time? ─► /proc: what did it leave?

No server is needed: a fork server, a pool and one child, as a worker has them. Coroutines, and tasks with
`interrupt=True`, need no checkpoints of their own; these are asked at moments instead.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import codec
from ..app import App
from ..model import Ending, Line, Order, PoolKind
from ..own_worker import environment
from ..pool.host import Host
from ..pool.pool import Pool
from ..task import Task
from .bound import target_of
from .probe import FILE, MARK

__all__ = ["assert_stops"]

_MOMENTS_S = (0.02, 0.05, 0.1, 0.2, 0.5)
_FORCE_AFTER_S = 1.0  # past `within`: then it is killed, and what it did is known all the same
_ENDED_BY_THEN_S = 20.0  # a kill takes milliseconds, on a machine that is not stuck
_SETTLE_S = 1.0  # a thread or a subprocess that was told to end may take so long to be gone
_FORCED = frozenset({"killed", "left_running", "child_died", "host_died"})


def assert_stops(
    task: Task[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    within: float = 0.2,
    pool: PoolKind | None = None,
    checkpoints: int = 20,
    patience: float = 1.0,
) -> None:
    """Fail unless the task ends in time, and leaves nothing, wherever it is asked to stop.

    It runs in a real slot of a child process of its own, once for each checkpoint that it passes (`current.check()`,
    `.sleep()`, `.asked`, a look of a guard), and is asked to end exactly there; coroutines and tasks with
    `interrupt=True` are asked at moments instead. The task must be in a module that can be imported, as for any worker.

    Args:
        within: how long it may take from being asked to its end, and how long it may go without a checkpoint between
            two, in seconds.
        pool: the kind of slot; None: the one that the task needs, else a process slot.
        checkpoints: at how many of its checkpoints, from the first on, it is asked.
        patience: how long it is waited for at its next checkpoint, in seconds; then it is asked where it is.

    Raises:
        AssertionError: it passed no checkpoint, or none for too long, failed by itself, ended too late or only by
            force, or left threads, processes, sockets or other file descriptors behind. The text says where it had been
            asked.
        TypeError: it is no task.
    """
    __tracebackhide__ = True
    if not isinstance(task, Task):
        raise TypeError(f"assert_stops({task!r}): expected a task, as @app.task makes one of a function")
    kind: PoolKind = pool or ("process" if task.need == "default" else task.need)
    with tempfile.TemporaryDirectory(prefix="qworker-testing-") as directory:
        trials = _Trials(task, args, kwargs or {}, within, kind, patience, Path(directory) / "checkpoint")
        fault = asyncio.run(trials.run(checkpoints))
    if fault:
        raise AssertionError(f"{task.name} {fault}")


class _Left(NamedTuple):
    """What a process has open and running, by what names it."""

    descriptors: frozenset[str]
    threads: frozenset[str]
    processes: frozenset[str]

    def beyond(self, before: _Left) -> list[str]:
        words = ("open: ", "a thread: ", "a process: ")
        return [
            word + name
            for word, now, then in zip(words, self, before, strict=True)
            for name in sorted(now - then)
        ]  # fmt: skip


class _Trials:
    """The attempts at one task. Also what its pool tells (facts.Events); owned by the event loop."""

    def __init__(
        self, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], within: float, kind: PoolKind,
        patience: float, file: Path,
    ) -> None:  # fmt: skip
        self._task, self._within, self._kind, self._patience, self._file = task, within, kind, patience, file
        header = task.settings.header(task.name)
        self._blob = codec.pack_envelope(
            header=codec.pack_header(header), body=codec.pack_body(tuple(args), dict(kwargs)), line=Line(),
            client=codec.NOBODY, sent_ms=0,
        )  # fmt: skip
        self._retries = header.retries
        self._timed = task.is_async or task.settings.interrupt
        self._number = 0
        self._ended: dict[int, Ending] = {}
        self._reached: dict[int, tuple[float, str]] = {}  # how long it had passed no checkpoint, and where it stands
        self._changed = asyncio.Event()

    async def run(self, checkpoints: int) -> str:
        """Try all; returns the fault that was found, empty if there is none."""
        app = self._task._sender
        assert isinstance(app, App)
        before = {name: os.environ.get(name) for name in ("PYTHONPATH", FILE)}
        os.environ["PYTHONPATH"], os.environ[FILE] = environment()["PYTHONPATH"], str(self._file)
        host = Host(lambda _name, _level, _fields: None)
        try:
            await host.start([target_of(app), "qworker.testing.probe:app"])
            pool = Pool(self._kind, 1, host, self)
            try:
                await pool.start()
                return await self._try_all(pool, checkpoints)
            finally:
                await pool.close(kill_after_s=0)
        finally:
            await host.close()
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    async def _try_all(self, pool: Pool, checkpoints: int) -> str:
        places: Iterable[float] = _MOMENTS_S if self._timed else range(1, checkpoints + 1)
        first = next(iter(places))
        # What the first run leaves may be there for all of them: a pool of connections, a thread that serves many.
        for place, checks in [(first, False), *((place, True) for place in places)]:
            fault, reached = await self._try(pool, place, checks)
            if fault or not reached:
                return fault
        return ""

    async def _try(self, pool: Pool, place: float, checks: bool) -> tuple[str, bool]:
        """Run it once and ask it to end at that place; returns the fault, and whether the place was reached."""
        self._file.write_text("0" if self._timed else str(int(place)))
        children = [kid.pid for kid in pool.nursery.serving()]
        before = _left_by(children)
        number = self._put(pool)
        where = await self._wait_place(pool, number, place)
        reached = where is not None
        if where is None:
            if number in self._ended:
                return self._ended_unasked(self._ended[number], place), False
            where = f"{self._patience:g} s after its start, having come to no further checkpoint,"
        pool.ask(number, "stop", self._within + _FORCE_AFTER_S)
        await self._wait(lambda: number in self._ended, self._within + _FORCE_AFTER_S + _ENDED_BY_THEN_S)
        ending = self._ended[number]
        took_s = ending.took_s or 0.0
        if ending.kind in _FORCED or took_s > self._within:
            how = "ended only by force" if ending.kind in _FORCED else f"ended {took_s:.3f} s later"
            stack = next((f"; it was at\n{seen.stack}" for seen in reversed(ending.flight) if seen.stack), "")
            return f"was asked to stop {where} and {how}, within={self._within:g}{stack}", reached
        unheard_s = self._reached.get(number, (0.0, ""))[0]
        if unheard_s > self._within:
            return f"passed no checkpoint for {unheard_s:.3f} s before it was {where}, within={self._within:g}", reached
        if checks and (left := await self._leaks(children, before)):
            return f"was asked to stop {where} and left {'; '.join(left)}", reached
        return "", reached

    def _put(self, pool: Pool) -> int:
        self._number += 1
        order = Order(
            number=self._number,
            id=f"default:assert-stops-{self._number}",
            name=self._task.name,
            blob=self._blob,
            run=1,
            attempt=1,
            fence=1,
            timeout_s=None,
            grace_s=self._within + _FORCE_AFTER_S,
            alone=False,
            retries=self._retries,
            interrupt=self._task.settings.interrupt,
        )
        pool.put([order])
        return self._number

    async def _wait_place(self, pool: Pool, number: int, place: float) -> str | None:
        """Return where it is to be asked, once it is there; None: it has ended, or takes too long."""
        if not self._timed:
            await self._wait(lambda: number in self._reached or number in self._ended, self._patience)
            found = self._reached.get(number)
            return f"at checkpoint {int(place)} ({found[1]})" if found is not None else None
        ends = time.monotonic() + self._patience
        while number not in self._ended and time.monotonic() < ends:
            if any(running.number == number and running.ran_s >= place for running in pool.running()):
                return f"{place:g} s after its start"
            await asyncio.sleep(0.002)
        return None

    def _ended_unasked(self, ending: Ending, place: float) -> str:
        if ending.kind == "raised":
            error = codec.unpack_error(ending.payload)
            return f"failed before it was asked to stop: {error.kind}: {error.text}"
        if ending.kind != "returned":
            return f"ended before it was asked to stop: {ending.kind} {ending.detail}".rstrip()
        if self._timed or place > 1:
            return ""
        return (
            "passed no checkpoint, so nothing but force would end it: call current.check() or .sleep() in its loops, "
            "put what it blocks in under current.guard(…), or give it interrupt=True"
        )

    async def _leaks(self, children: Sequence[int], before: _Left) -> list[str]:
        ends = time.monotonic() + _SETTLE_S
        while (left := _left_by(children).beyond(before)) and time.monotonic() < ends:
            await asyncio.sleep(0.01)
        return left

    async def _wait(self, condition: Any, timeout_s: float) -> None:
        async def changed() -> None:
            while not condition():
                self._changed.clear()
                await self._changed.wait()

        await _within(changed(), timeout_s)

    # What the pool tells.

    def endings(self, endings: list[Ending]) -> None:
        for ending in endings:
            self._ended[ending.number] = ending
        self._changed.set()

    def cursor(self, number: int, cursor: bytes) -> None:
        if cursor.startswith(MARK):
            unheard_s, _, line = cursor.removeprefix(MARK).decode(errors="replace").partition(" ")
            self._reached[number] = float(unheard_s), line
            self._changed.set()

    def permit_wanted(self, numbers: list[int]) -> None:
        pass  # no order of these does

    def started(self, numbers: list[int]) -> None:
        pass

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None:
        pass

    def waiting(self, number: int, ids: list[str], more: bool) -> None:
        pass

    def resumed(self, number: int) -> None:
        pass

    def progressed(self, number: int, slot: int) -> None:
        pass

    def group(self, number: int, id: str, opened: bool) -> None:  # noqa: A002
        pass

    def event(self, name: str, level: str, **fields: Any) -> None:
        pass


async def _within(waiting: Awaitable[None], timeout_s: float) -> None:
    try:
        await asyncio.wait_for(waiting, timeout_s)
    except TimeoutError:
        pass  # whoever waited looks for itself


def _left_by(pids: Iterable[int]) -> _Left:
    """Read what these processes have open and running; Linux tells it in /proc."""
    descriptors, threads, processes = set(), set(), set()
    for pid in pids:
        root = Path(f"/proc/{pid}")
        for entry in _entries(root / "fd"):
            try:
                descriptors.add(f"{entry.readlink()} (descriptor {entry.name})")
            except OSError:
                continue  # closed meanwhile
        for entry in _entries(root / "task"):
            threads.add(f"{_read(entry / 'comm')} ({entry.name})")
            for child in _read(entry / "children").split():
                command = _read(Path(f"/proc/{child}/cmdline")).replace("\0", " ").strip()
                processes.add(f"{command or 'one that has ended and was not waited for'} (pid {child})")
    return _Left(frozenset(descriptors), frozenset(threads), frozenset(processes))


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []  # the process is gone


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace").rstrip("\n")
    except OSError:
        return ""
