"""Faults, made for real and written down: what, to whom, from when to when.

    plan(seed, kinds, times) ─► [Planned]     drawn before the run; each waits for a share of the tasks to have ended
    Faults(fleet).do(kind)   ─► Fault         the target is drawn from what runs at that moment
    Faults(fleet).tend()                      ends what lasts, such as the freeze of a worker

A kill is written down with the instants before and after the signal: what happened between them may be its doing.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import redis

from support.daemon import Worker, alive, descendants
from support.proxy import Do, Proxy
from support.servers import Servers
from support.waiting import wait_until

from .executions import Tail, now
from .records import Fault, Line

KINDS = ("kill child", "kill worker", "freeze worker", "drain worker", "kill fork server", "freeze fork server",
         "freeze child", "freeze server", "restart server", "pause server", "full server", "kill clients",
         "flush scripts", "cut calls", "reset links", "half-open links", "slow wire", "stalled wire", "refused links",
         "cut off worker")  # fmt: skip
# What is done to the wire between one of them, or the producer, and the server. A run that plans any has proxies.
WIRE_KINDS = frozenset({"cut calls", "reset links", "half-open links", "slow wire", "stalled wire", "refused links",
                        "cut off worker"})  # fmt: skip
SHORT_FREEZE_S = 0.3
CUTS: tuple[Do, ...] = ("cut before", "cut within", "cut answer", "cut within answer")


class Planned(NamedTuple):
    """One fault to come: as soon as this share of all tasks has ended."""

    share: float
    kind: str


class Frozen(NamedTuple):
    """A worker that is stopped for now, since when, and the tasks that it ran."""

    worker: Worker
    at: float
    held: set[str]


class Fleet(Protocol):
    """What faults are done to."""

    server: Servers
    workers: list[Worker]
    lease_s: float
    wires: dict[int, Proxy]

    def replace(self, worker: Worker) -> None:
        """Start another worker in the place of one that is dead."""


def plan(seed: int, kinds: Sequence[str], times: int) -> list[Planned]:
    """Draw so many faults, of all kinds about equally often, spread over the run at random."""
    draw = random.Random(seed)
    deck = [kinds[n % len(kinds)] for n in range(times)]
    draw.shuffle(deck)
    return [
        Planned(share, kind) for share, kind in zip(sorted(draw.uniform(0.02, 0.9) for _ in deck), deck, strict=True)
    ]


class Faults:
    """Does faults to a fleet. Owned by one thread."""

    def __init__(self, fleet: Fleet, log: Tail, *, seed: int) -> None:
        self._fleet, self._log = fleet, log
        self._draw = random.Random(seed)
        self._running: dict[tuple[str, int, int], Line] = {}  # starts without an end so far
        self._last: dict[str, Line] = {}  # the last start of each task
        self._frozen: list[Frozen] = []
        self._drained: list[tuple[Worker, float]] = []  # those that were told to end, and when
        self.done: list[Fault] = []
        self._ways: dict[str, Callable[[], Fault | None]] = {
            "kill child": self._kill_child,
            "kill worker": self._kill_worker,
            "kill fork server": self._kill_fork_server,
            "freeze worker": self._freeze_worker,
            "drain worker": self._drain_worker,
            "full server": lambda: self._to_server("full server", _fill),
            "freeze fork server": self._freeze_fork_server,
            "freeze child": self._freeze_child,
            "freeze server": self._freeze_server,
            "restart server": self._restart_server,
            "kill clients": lambda: self._to_server("kill clients", kill_clients),
            "flush scripts": lambda: self._to_server("flush scripts", lambda client: client.script_flush()),
            "pause server": self._pause_server,
            "cut calls": lambda: self._to_wire("cut calls", self._cut_calls),
            "reset links": lambda: self._to_wire("reset links", Proxy.reset),
            "half-open links": lambda: self._to_wire("half-open links", Proxy.half_open),
            "slow wire": lambda: self._to_wire("slow wire", self._slow),
            "stalled wire": lambda: self._to_wire("stalled wire", self._stall),
            "refused links": lambda: self._to_wire("refused links", _refuse),
            "cut off worker": self._cut_off_worker,
        }

    def do(self, kind: str) -> Fault | None:
        """Do one fault and return it; None if there was nothing to do it to just now."""
        fault = self._ways[kind]()
        if fault is not None and kind not in ("freeze worker", "drain worker"):  # which are not over yet
            self.done.append(fault)
        return fault

    def look(self) -> list[Line]:
        """What runs now, by its own account, in workers that live."""
        for line in self._log.read():
            if line.what == "start":
                self._running[line.id, line.attempt, line.fence] = self._last[line.id] = line
            elif line.what == "end":
                self._running.pop((line.id, line.attempt, line.fence), None)
        here = {str(worker.pid) for worker in self._fleet.workers if worker.process.poll() is None}
        self._running = {key: line for key, line in self._running.items() if line.worker in here and alive(line.pid)}
        return list(self._running.values())

    def _some_child(self) -> Line | None:
        with contextlib.suppress(AssertionError):
            return self._draw.choice(wait_until(self.look, timeout=2, description="a task that runs"))
        return None

    def _some_worker(self, but: Sequence[Worker] = ()) -> Worker | None:
        """One that runs something, if there is any."""
        busy = {line.worker for line in self.look()}
        living = [worker for worker in self._fleet.workers if worker.process.poll() is None and worker not in but]
        return self._draw.choice([worker for worker in living if str(worker.pid) in busy] or living or [None])

    def _kill_child(self) -> Fault | None:
        line = self._some_child()
        if line is None:
            return None
        at = now()
        with contextlib.suppress(ProcessLookupError):
            os.kill(line.pid, signal.SIGKILL)
        return Fault("kill child", at, now(), line.pid, line.worker)

    def _kill_worker(self) -> Fault | None:
        worker = self._some_worker()
        if worker is None:
            return None
        below = descendants(worker.pid)
        at = now()
        worker.kill()
        # Until everything below is gone, it may go on for the moment that the kernel grants it.
        wait_until(lambda: not any(map(alive, below)), description="everything below a killed worker to be gone")
        fault = Fault("kill worker", at, now(), worker=str(worker.pid))
        self._fleet.replace(worker)
        return fault

    def _kill_fork_server(self) -> Fault | None:
        worker = self._some_worker()
        below = [] if worker is None else descendants(worker.pid)
        if worker is None or not below:
            return None
        children = below[1:]
        at = now()
        os.kill(below[0], signal.SIGKILL)
        wait_until(lambda: not any(map(alive, children)), description="the children of a killed fork server to be gone")
        return Fault("kill fork server", at, now(), worker=str(worker.pid))

    def _freeze_worker(self) -> Fault | None:
        """Past its lease; `tend` ends it. Other faults may come meanwhile."""
        worker = self._some_worker(but=[frozen.worker for frozen in self._frozen])
        if worker is None:
            return None
        at = now()
        worker.freeze()
        held = {line.id for line in self.look() if line.worker == str(worker.pid)}
        self._frozen.append(Frozen(worker, at, held))
        return Fault("freeze worker", at, at, worker=str(worker.pid))

    def _drain_worker(self) -> Fault | None:
        """TERM, and another one in its place at once, as a rolling restart does it; `tend` sees it end."""
        worker = self._some_worker(but=[frozen.worker for frozen in self._frozen])
        if worker is None:
            return None
        at = now()
        worker.term()
        self._drained.append((worker, at))
        self._fleet.replace(worker)
        return Fault("drain worker", at, at, worker=str(worker.pid))

    def tend(self) -> bool:
        """Thaw who was frozen for long enough: until what it ran has started elsewhere. True if nothing lasts.

        Who drains takes its time, and is looked at.
        """
        for worker, at in list(self._drained):
            if worker.process.poll() is not None:
                self._drained.remove((worker, at))
                self.done.append(Fault("drain worker", at, now(), worker=str(worker.pid)))
        if self._frozen:
            self.look()
        lease_s = self._fleet.lease_s
        for frozen in list(self._frozen):
            worker, at, held = frozen
            moved = any(self._last[id_].worker != str(worker.pid) for id_ in held)
            # What it ran may have ended by itself; then there is nothing to wait for but time.
            dead = worker.process.poll() is not None
            if dead or now() > at + (1.1 if moved else 3) * lease_s:
                if not dead:
                    worker.thaw()
                self._frozen.remove(frozen)
                self.done.append(Fault("freeze worker", at, now(), worker=str(worker.pid)))
        return not self._frozen and not self._drained

    def _freeze_child(self) -> Fault | None:
        line = self._some_child()
        if line is None:
            return None
        at = now()
        with contextlib.suppress(ProcessLookupError):
            os.kill(line.pid, signal.SIGSTOP)
            _pass(SHORT_FREEZE_S)
            os.kill(line.pid, signal.SIGCONT)
        return Fault("freeze child", at, now(), line.pid, line.worker)

    def _freeze_fork_server(self) -> Fault | None:
        worker = self._some_worker()
        below = [] if worker is None else descendants(worker.pid)
        if worker is None or not below:
            return None
        at = now()
        with contextlib.suppress(ProcessLookupError):
            os.kill(below[0], signal.SIGSTOP)
            _pass(SHORT_FREEZE_S)
            os.kill(below[0], signal.SIGCONT)
        return Fault("freeze fork server", at, now(), below[0], str(worker.pid))

    def _freeze_server(self) -> Fault:
        """For a moment, or for longer than the leases: neither proves that a worker is dead."""
        at = now()
        self._fleet.server.freeze()
        _pass(self._draw.choice((SHORT_FREEZE_S, 1.3 * self._fleet.lease_s)))
        self._fleet.server.thaw()
        return Fault("freeze server", at, now())

    def _restart_server(self) -> Fault:
        """kill -9, and back with its append-only file."""
        at = now()
        self._fleet.server.kill()
        self._fleet.server.start()
        return Fault("restart server", at, now())

    def _pause_server(self) -> Fault:
        """CLIENT PAUSE: it answers nobody, or nobody who writes, for a moment."""
        at = now()
        with redis.Redis.from_url(self._draw.choice(self._fleet.server.urls)) as client:
            client.client_pause(int(1000 * SHORT_FREEZE_S), all=self._draw.random() < 0.5)
        _pass(SHORT_FREEZE_S)
        return Fault("pause server", at, now())

    def _to_wire(self, kind: str, act: Callable[[Proxy], object]) -> Fault | None:
        """To the wire of one worker, or of the producer."""
        living = {worker.pid for worker in self._fleet.workers if worker.process.poll() is None} | {0}
        wires = {pid: wire for pid, wire in self._fleet.wires.items() if pid in living}
        if not wires:
            return None
        pid = self._draw.choice(sorted(wires))
        at = now()
        act(wires[pid])
        return Fault(kind, at, now(), worker=str(pid) if pid else "")

    def _cut_calls(self, wire: Proxy) -> None:
        """Cut some of its next calls somewhere in the middle; it has a moment to make them."""
        for _ in range(self._draw.randint(1, 3)):
            wire.on(b"EVALSHA", self._draw.choice(CUTS), nth=self._draw.randint(1, 4))
        _pass(SHORT_FREEZE_S)
        wire.forget()

    def _slow(self, wire: Proxy) -> None:
        """Every chunk is late, or comes in crumbs."""
        if self._draw.random() < 0.5:
            wire.delay(0.05)
        else:
            wire.trickle(self._draw.randint(1, 16), every_s=0.0002)
        _pass(2 * SHORT_FREEZE_S)
        wire.smooth()

    def _stall(self, wire: Proxy) -> None:
        """One way or both, for a moment; what was sent comes later, or the links that lost it stay silent."""
        ways = self._draw.choice((("requests",), ("answers",), ()))
        (wire.hold if self._draw.random() < 0.5 else wire.blackhole)(*ways)  # type: ignore[arg-type]
        _pass(SHORT_FREEZE_S)
        wire.release()

    def _cut_off_worker(self) -> Fault | None:
        """One worker cannot reach the server for longer than its lease, and all the others can."""
        worker = self._some_worker(but=[frozen.worker for frozen in self._frozen])
        wire = None if worker is None else self._fleet.wires.get(worker.pid)
        if worker is None or wire is None:
            return None
        at = now()
        (wire.blackhole if self._draw.random() < 0.5 else wire.hold)()
        _pass(1.6 * self._fleet.lease_s)
        wire.release()
        return Fault("cut off worker", at, now(), worker=str(worker.pid))

    def _to_server(self, kind: str, act: Callable[[redis.Redis], object]) -> Fault:
        at = now()
        for url in self._fleet.server.urls:
            with redis.Redis.from_url(url) as client:
                act(client)
        return Fault(kind, at, now())


def by_the_machine(told: Iterable[tuple[str, float, float]], done: Sequence[Fault]) -> list[Fault]:
    """Where workers stood still though nobody froze them: a busy machine did it. `told`: worker, until when, how long.

    They tell it themselves, because they woke too late by their own clock; a freeze that was a fault is not told twice.
    """
    found = []
    for worker, until, stood_s in told:
        at = until - stood_s
        if not any(fault.worker == worker and fault.at <= until and at <= fault.until for fault in done):
            found.append(Fault("stood still", at, until, worker=worker))
    return found


def kill_clients(client: redis.Redis) -> None:
    """Close every connection but this one."""
    client.client_kill_filter(_type="normal", skipme=True)
    client.client_kill_filter(_type="pubsub")


def _fill(client: redis.Redis) -> None:
    """It refuses what is new for a moment, and gives nothing up."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    _pass(SHORT_FREEZE_S)
    client.config_set("maxmemory", 0)


def _refuse(wire: Proxy) -> None:
    """Nobody listens for a moment."""
    wire.refuse()
    _pass(SHORT_FREEZE_S)
    wire.accept()


def _pass(seconds: float) -> None:
    """Let time pass: it is what stalls are made of, and nothing is waited for meanwhile."""
    time.sleep(seconds)
