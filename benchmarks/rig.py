"""The processes that `make bench-guard` counts in: a producer, a worker, and a child, each doing exactly so much work.

    python -m benchmarks.rig client one|many|trip|collect COUNT TOLD
    python -m benchmarks.rig worker WINDOW stay|burst TOLD
    python -m benchmarks.rig child STREAM TOKENS PAGE … TOLD

Each is the real code, but for one thing: the worker's children. How many outcomes come with one read depends on how
fast a child is, so here a thread plays the child (`Lockstep`): it takes all that it was given and answers all of it in
one write, which makes every window the same. A real child is counted by itself, with its work already waiting for it.

RIG_COUNT=1 counts instructions and C calls; what was counted goes to the file TOLD, as JSON. RIG_INJECT names a file
that is run first: how a test makes the code do more.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qworker import App

from .counting import Counter

app = App(namespace="guard")
BODY = "0123456789abcdef"
RAN_S = 1e-6  # what each task of a Lockstep says it took, so that the pace of a pool is always the same


@app.task
def echo(body: str) -> str:
    """Return what it was given."""
    return body


class _Told:
    """What was counted, and the file that it goes to."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.counter = Counter()
        self.more: dict[str, float] = {}
        self.counting = os.environ.get("RIG_COUNT") == "1"
        if inject := os.environ.get("RIG_INJECT"):
            runpy.run_path(inject)

    def start(self) -> None:
        if self.counting:
            self.counter.start()

    def write(self) -> None:
        self.counter.stop()
        self.path.write_text(json.dumps(dict(self.counter.counts) | self.more))


def _set(owner: Any, name: str, value: object) -> None:
    """Change what would let the clock into the counts."""
    if not hasattr(owner, name):
        raise SystemExit(f"{owner.__name__} has no {name} any more: what rig.py sets it for needs another way")
    setattr(owner, name, value)


# ── the producer ─────────────────────────────────────────────────────────────────────────────────────────────────────


def client(mode: str, count: str, path: str) -> None:
    """Submit so many tasks: one by one, in bulk, each awaited before the next, or in bulk and then all awaited."""
    from qworker.broker import client as module

    _set(module, "ROUND_EVERY_S", 1e6)  # no peek is counted: they come by the clock
    told, calls = _Told(path), [echo.call(BODY)] * int(count)
    told.start()
    before = sys.getallocatedblocks()
    if mode == "trip":
        for _ in calls:
            assert echo.submit(BODY).result(60) == BODY
    elif mode == "one":
        futures = [echo.submit(BODY) for _ in calls]
    else:
        futures = app.submit_many(calls)
    if mode == "collect":
        print("queued", flush=True)
        told.counter.counts.clear()
        for future in futures:
            assert future.result(60) == BODY
    told.counter.stop()
    if mode in ("one", "many") and not told.counting:
        gc.collect()
        told.more["blocks"] = sys.getallocatedblocks() - before
    app.close()
    told.write()


# ── the worker ───────────────────────────────────────────────────────────────────────────────────────────────────────


def worker(window: str, stay: str, path: str) -> None:
    """Run a worker with this fixed window, whose child is a Lockstep; with `burst` until nothing is left."""
    from qworker import log
    from qworker.config import Settings
    from qworker.pool import pace, patrol
    from qworker.worker import daemon

    _set(pace, "AHEAD_S", RAN_S)  # a name that was never seen goes in company, too: the first window is like all others
    _set(patrol.Patrol, "wake", lambda _self, _at: None)  # it comes by the clock, and takes back what the count delays
    told = _Told(path)
    log.setup("console", "error")
    settings = Settings(
        url=os.environ["QWORKER_URL"], concurrency={"process": 1}, window=int(window), burst=stay == "burst",
        log_level="warning", name="guard",
    )  # fmt: skip
    daemon.Host = lambda *_, **__: Lockstep(told)  # type: ignore[assignment,misc,return-value]
    told.start()
    daemon.serve(settings, ["benchmarks.rig:app"])
    told.write()


class Lockstep:
    """A Host (pool/host.py) whose children are threads that answer all that they were given at once."""

    def __init__(self, told: _Told) -> None:
        self._told = told

    async def start(self, _targets: Sequence[str], _cwd: object = None, *, allow: Sequence[str] = ()) -> Any:
        from qworker.pool.facts import AppFacts

        del allow
        return AppFacts(None, "guard", frozenset({echo.name}))

    def launch(self, plan: Any, fds: Sequence[int], parent: Any) -> Any:
        from qworker.pool.process import Process

        process = Process(1, parent, plan, tuple(fds))
        loop = asyncio.get_running_loop()

        def ended() -> None:
            process.ended = True
            process.close_fds()
            parent.ended("exit status 0", host_died=False)

        # Not by threading, whose threads would be counted.
        import _thread

        loop.call_soon(parent.born, os.getpid())
        _thread.start_new_thread(self._play, (fds[0], fds[1], fds[-1], lambda: loop.call_soon_threadsafe(ended)))
        return process

    def _play(self, stream_fd: int, token_fd: int, out_fd: int, ended: Callable[[], object]) -> None:
        from qworker import codec
        from qworker.pool import frames, tokens

        stream = socket.socket(fileno=os.dup(stream_fd))
        stream.setblocking(False)
        out = os.dup(out_fd)
        ear = select.poll()
        ear.register(token_fd, select.POLLIN)
        ear.register(stream, select.POLLRDHUP)
        value = codec.pack_value(BODY)
        os.write(out, frames.pack_frame(frames.READY))
        held: list[int] = []
        idle = sys.getallocatedblocks()
        while not any(event & (select.POLLRDHUP | select.POLLHUP) for _, event in ear.poll()):
            numbers = tokens.take_all(token_fd)
            if len(held) < 3 and not self._told.counting:
                time.sleep(0.02)  # the worker has nothing to do now but to wait for this thread
                held.append(sys.getallocatedblocks() - idle)
            try:
                while stream.recv(1 << 20):
                    pass
            except BlockingIOError:
                pass  # all of it was read, and is dropped: the numbers say what to answer
            outcomes = [
                frames.pack_frame(frames.OUTCOME, number, frames.RETURNED, RAN_S, True, None, value)
                for number in numbers
            ]
            told = memoryview(b"".join(outcomes))
            while told:
                told = told[os.write(out, told) :]
        if held:
            self._told.more["blocks"] = min(held)
        stream.close()
        os.close(out)
        ended()

    def kill(self, process: Any) -> None:
        """It ends by itself when its stream does."""

    def warm(self) -> None: ...

    async def close(self) -> None: ...


# ── the child ────────────────────────────────────────────────────────────────────────────────────────────────────────


def child(*ends_and_path: str) -> None:
    """Be a child with one slot, which ends when the other side closes its stream."""
    from qworker.pool import child as module
    from qworker.pool.apps import load
    from qworker.pool.orders import Plan

    *ends, path = ends_and_path
    told = _Told(path)
    targets: tuple[list[str], str, list[str]] = (["benchmarks.rig:app"], str(Path.cwd()), [])
    plan = Plan(1, 1, False, "counted child")
    apps = load(*targets)
    end = os._exit

    def told_end(status: int) -> None:
        told.write()
        end(status)

    os._exit = told_end  # type: ignore[assignment]
    told.start()
    module.enter(plan, apps, targets, tuple(map(int, ends)))  # type: ignore[arg-type]


def feed(mode: str, count: int, start: Callable[[Sequence[int]], Any]) -> None:
    """Give a child so many orders, all at once before it begins (`drain`) or one after the other (`trip`).

    `start` starts it with its ends: stream, tokens, page, and what else a child has.
    """
    asyncio.run(_feed(mode, count, start))


async def _feed(mode: str, count: int, start: Callable[[Sequence[int]], Any]) -> None:
    from qworker.pool import frames
    from qworker.pool.kid import Entry, Kid
    from qworker.pool.orders import Plan
    from qworker.pool.page import FOREVER

    class Host:
        def launch(self, _plan: Plan, ends: Sequence[int], _parent: object) -> None:
            nonlocal process
            process = start(ends)
            for fd in ends:
                os.close(fd)

    process: Any = None
    outcomes = 0
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    kid = Kid(Plan(1, 1, False, "counted child"), FOREVER)
    entries = [Entry(_order(number), 0.0, 0.0) for number in range(1, count + 1)]

    def readable(_kid: Kid) -> None:
        nonlocal outcomes
        came = sum(frame[0] == frames.OUTCOME for frame in kid.read())
        outcomes += came
        if not came:
            return  # READY, or the end
        if outcomes == count:
            ended.set_result(None)
        elif mode == "trip":
            give_when_asleep()

    def give_when_asleep() -> None:
        # So that each order finds the child waiting; else it would sometimes wait and sometimes not.
        if _state(process.pid) == "S":
            kid.give([entries[outcomes]], 0.0)
        else:
            loop.call_later(0.0005, give_when_asleep)

    try:
        kid.listen(readable)
        kid.give(entries if mode == "drain" else entries[:1], 0.0)
        kid.start(Host(), None)  # type: ignore[arg-type]
        await asyncio.wait_for(ended, 60)
        kid.hang_up()
        await asyncio.to_thread(process.wait, 10)
    finally:
        kid.close()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _order(number: int) -> Any:
    from qworker import codec
    from qworker.model import Header, Line, Order

    header = codec.pack_header(Header(name=echo.name))
    body = codec.pack_body((BODY,), {})
    blob = codec.pack_envelope(header=header, body=body, line=Line(), client=codec.NOBODY, sent_ms=0)
    return Order(
        number=number, id=f"default:task-{number}", name=echo.name, blob=blob, run=1, attempt=1, fence=1,
        timeout_s=1800.0, grace_s=5.0,
    )  # fmt: skip


ROLES: Mapping[str, Callable[..., None]] = {"client": client, "worker": worker, "child": child}

if __name__ == "__main__":
    # Under its own name, so that the app is the one that `benchmarks.rig:app` means.
    getattr(importlib.import_module("benchmarks.rig"), sys.argv[1])(*sys.argv[2:])
