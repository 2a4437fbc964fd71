"""A host that sleeps: its worker, fork server and children stand still together, past the lease, and wake up together.

What has not begun starts once, wherever; what ran is recorded once. For a suspended host the hour is one that only some
of its clocks count, and the server's does: those are stepped.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.conftest import executions, starts_by_id
from qworker import call
from support.daemon import Worker, descendants
from support.machine import WrongClock
from support.promised import bound
from support.servers import Server, any_kind, start_server
from support.waiting import wait_until

APP = "support.apps.sleepers"
HOUR_S = 3600
WAITING = 6


class Asleep(NamedTuple):
    """A worker whose whole family is frozen: one task has begun, and the others wait in its child's pipe."""

    worker: Worker
    family: list[int]  # worker, fork server, child
    began: Any
    waiting: list[Any]
    step: Any

    @property
    def child(self) -> int:
        return self.family[-1]

    def results(self) -> list[int]:
        return [future.result(timeout=20) for future in (self.began, *self.waiting)]

    def thaw(self) -> None:
        for pid in self.family:
            os.kill(pid, signal.SIGCONT)


class Night:
    """An hour for which a worker's host is suspended, and its server's is not."""

    def __init__(self, directory: Path) -> None:
        for name in ("host", "server"):
            (directory / name).mkdir()
        self._host, self._servers = WrongClock(directory / "host"), WrongClock(directory / "server")
        self.env = self._host.environ
        self.server = start_server(any_kind(), directory / "data", env=self._servers.environ)

    def pass_by(self) -> None:
        self._host.suspend(HOUR_S)
        self._servers.set(HOUR_S)


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.server.stop()


@pytest.fixture
def lie_down(start: Callable[..., Worker], tmp_path: Path) -> Iterator[Callable[..., Asleep]]:
    """Start a worker of one slot, and have it fall asleep in the middle of a window."""
    with contextlib.ExitStack() as stack:

        def lie_down(kind: str, server: Server, env: dict[str, str]) -> Asleep:
            tasks = stack.enter_context(bound(server.url, APP))
            step = tasks.async_step if kind == "async" else tasks.step
            worker = start("-c", f"{kind}=1", "--pool", kind, target=f"{APP}:app", server_url=server.url, env=env)
            for n in range(20):
                for future in step.submit_many([call() for _ in range(100)]):
                    future.result(timeout=30)
                bed = tmp_path / f"bed-{n}"
                began, *waiting = step.submit_many([call(str(bed)), *(call() for _ in range(WAITING))])
                wait_until(lambda bed=bed: bed.exists() and bed.read_text().endswith("."), description="it to lie down")
                family = [*map(int, bed.read_text()[:-1].split())]
                wait_until(lambda them=family: all(map(is_stopped, them)), description="all of it to stand still")
                assert family[0] == worker.pid
                asleep = Asleep(worker, family, began, waiting, step)
                if tokens_in(asleep.child) == WAITING:
                    return asleep
                asleep.thaw()  # on a busy machine its worker has just taken them back, or had not brought all
                asleep.results()
            raise AssertionError("never did tasks wait in the child")

        yield lie_down


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def tokens_in(pid: int) -> int:
    """How many orders wait in a child's token pipe."""
    size = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        flags = int(Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split()[3], 8)
        if str(fd.readlink()).startswith("pipe:") and flags & os.O_ACCMODE == os.O_RDONLY:
            pipe = os.open(fd, os.O_RDONLY | os.O_NONBLOCK)
            size += int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), "little")
            os.close(pipe)
    return size // 8


def looks(pid: int) -> int:
    """How often the main thread of a process has gone to wait for something."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def wake_child(asleep: Asleep, log: Path) -> None:
    """Wake the child before its worker, and let it end what it ran: it starts nothing more, as often as it looks."""
    before, started = looks(asleep.child), executions(log)
    os.kill(asleep.child, signal.SIGCONT)
    wait_until(lambda: [asleep.began.id, str(asleep.child)] in [[line[1], line[3]] for line in executions(log, "end")],
               description="what ran to end")  # fmt: skip
    wait_until(lambda: looks(asleep.child) >= before + 6 or executions(log) != started,
               description="the child to have looked whether it may start more")  # fmt: skip
    assert executions(log) == started, "nothing starts before the lease is confirmed"


def taken_over(asleep: Asleep, start: Callable[..., Worker], server: Server, kind: str, log: Path) -> None:
    """Have another worker run all of it, and wake the first one up."""
    second = start("-c", f"{kind}=1", "--pool", kind, target=f"{APP}:app", server_url=server.url)
    copies = asleep.results()
    assert set(copies) <= set(descendants(second.pid))

    wake_child(asleep, log)
    asleep.thaw()

    asleep.worker.wait_event("outcome.refused", task=asleep.began.id)
    asleep.worker.wait_event("worker.stood_still")
    second.term()
    second.wait()
    assert asleep.step.submit().result(timeout=20) not in copies, "the first one serves again"
    starts = starts_by_id(log)
    assert starts[asleep.began.id] == 2
    assert [starts[future.id] for future in asleep.waiting] == [1] * WAITING
    assert not asleep.worker.events("task.ended", task=asleep.began.id)


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_after_a_suspend_what_another_worker_has_by_then_does_not_start_here(
    lie_down, start, night, execution_log, kind
) -> None:
    asleep = lie_down(kind, night.server, night.env)
    night.pass_by()

    taken_over(asleep, start, night.server, kind, execution_log)

    assert not asleep.worker.events("redis.clock_stepped"), "it is where the worker expects it"


@pytest.mark.parametrize("kind", ["process", "thread", "async"])
def test_a_worker_frozen_with_its_children_starts_nothing_that_another_has_by_then(
    lie_down, start, one_server, execution_log, kind
) -> None:
    asleep = lie_down(kind, one_server, {"QWORKER_LEASE": "2"})

    taken_over(asleep, start, one_server, kind, execution_log)


def test_after_a_suspend_what_nobody_took_starts_where_it_is_once_its_lease_is_confirmed(
    lie_down, night, execution_log
) -> None:
    asleep = lie_down("process", night.server, night.env)
    night.pass_by()

    wake_child(asleep, execution_log)
    asleep.thaw()

    assert asleep.results() == [asleep.child] * (1 + WAITING)
    assert set(starts_by_id(execution_log).values()) == {1}
    assert not asleep.worker.events("claim.lost")
    assert not asleep.worker.events("redis.clock_stepped")
