"""The fork server: a clean, single-threaded process that imported the app once and makes children of itself.

    worker ── [IMPORT, …] [CHILD, id, plan] + 5 descriptors ──► fork server ── fork ──► child
    worker ◄─ [FACTS, …]  [BORN, id, pid] + pidfd  [EXIT, id, status] ── fork server

It is the subreaper of all it makes, and each child is the subreaper of what its tasks start. So what a *living*
child's task leaves behind stays with that child, and whoever turns up here unknown belonged to a dead child: it is
killed before that child's exit is told. When the control socket ends, the worker is gone (a kill -9, too): everything
is killed. Started as `python -m qworker.pool.forkserver <fd>`.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import msgpack
import setproctitle

from .. import faultpoints
from ..errors import AppImportError
from . import child, linux
from .apps import Apps, load
from .orders import BORN, EXIT, FACTS, FAILED, IMPORT, MESSAGE_MAX, NAMES, WARM, Ends, Plan

_NAMES_PER_MESSAGE: Final = 200
_ENDS: Final = 6  # of a child, sent with its order
# How long the exit of a child waits for the end of what it left; a process stuck in the kernel must not hold it up.
_SWEEP_MAX_S: Final = 1.0
_LAST_SWEEP_MAX_S: Final = 3.0


@dataclass(slots=True)
class _Child:
    id: int
    pid: int
    pidfd: int
    status: int = 0
    died: float = 0.0


class ForkServer:
    """Everything the server knows; single-threaded, one poll."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._living: dict[int, _Child] = {}  # by pidfd
        self._dead: list[_Child] = []  # reaped, what they left not yet swept
        self._apps: Apps | None = None
        self._targets: tuple[list[str], str, list[str]] = ([], "", [])
        self._kept: set[int] = set()  # children that the app's own import started
        self._spawn = False

    def serve(self) -> NoReturn:
        """Work until the worker is gone."""
        while True:
            for fd, _ in self._poll.poll(1 if self._dead else None):
                if fd != self._control.fileno():
                    self._bury(fd)
                else:
                    try:
                        data, fds, _, _ = socket.recv_fds(self._control, MESSAGE_MAX, _ENDS, socket.MSG_CMSG_CLOEXEC)
                    except ConnectionResetError:  # it had not read all that it was told
                        data, fds = b"", []
                    if not data:
                        self._end()
                    self._heed(msgpack.unpackb(data), fds)
            if self._dead:
                self._sweep_the_dead()

    def _heed(self, message: list[Any], fds: list[int]) -> None:
        if message[0] == IMPORT:
            self._import(message[1], message[2], message[3])
        elif message[0] == WARM:
            self._warm()
        else:
            _, id_, *plan = message
            if len(fds) < _ENDS:  # the kernel passes on only what this process may have
                self._give_up(id_, fds, "no descriptors are left in its fork server")
            else:
                self._make(id_, Plan(*plan), (fds[0], fds[1], fds[2], fds[3], fds[4], fds[5]))

    def _import(self, targets: list[str], cwd: str, allow: list[str]) -> None:
        self._targets = (targets, cwd, allow)
        try:
            self._apps = apps = load(targets, cwd, allow)
        except AppImportError as error:
            self._tell([FAILED, str(error)])
            return
        shown = " ".join([*targets, *allow])
        threads = linux.thread_count()
        self._spawn = threads > 1
        warning = ""
        if self._spawn:
            names = ", ".join(t.name for t in threading.enumerate() if t is not threading.main_thread()) or "native"
            warning = (
                f"importing {shown} left {threads - 1} threads running ({names}); forking would copy their "
                "locks in any state, so each child imports the app anew: slower starts and more memory. "
                "Start threads in @app.on_child_start instead"
            )
        elif any(task.is_async for task in apps.tasks.values()):
            from . import coroutines, loop  # noqa: F401 - once here instead of once in each child
        self._kept = linux.children_of_self()
        setproctitle.setproctitle(f"qworker: fork server ({shown})")
        # What was imported stays as it is: children share these pages until they write to them.
        gc.collect()
        gc.freeze()
        tasks = list(apps.tasks.items())
        for at in range(0, len(tasks), _NAMES_PER_MESSAGE):
            some = tasks[at : at + _NAMES_PER_MESSAGE]
            self._tell([NAMES, [name for name, _ in some], [name for name, task in some if task.is_async]])
        needs = sorted({task.need for task in apps.tasks.values()})
        self._tell([FACTS, apps.url, apps.namespace, self._spawn, warning, needs])

    def _warm(self) -> None:
        if self._apps is not None and not self._spawn:  # a fresh interpreter imports for itself
            self._apps.load_client()
            gc.collect()
            gc.freeze()

    def _make(self, id_: int, plan: Plan, fds: Ends) -> None:
        server = os.getpid()
        try:
            linux.need_descriptors(2)  # its pidfd, and one for /proc
            pid = self._exec(plan, fds) if self._spawn else _fork()
        except OSError as error:
            self._give_up(id_, fds, str(error))
            return
        if pid == 0:
            linux.die_with_parent(server)
            self._control.close()
            for pidfd in self._living:
                os.close(pidfd)
            child.enter(plan, self._apps, self._targets, fds)
        # Nobody but this process can reap it, so the pid is still its own here.
        pidfd = os.pidfd_open(pid)
        self._living[pidfd] = _Child(id_, pid, pidfd)
        self._poll.register(pidfd, select.POLLIN)
        for fd in fds:
            os.close(fd)
        self._tell([BORN, id_, pid], pidfd)

    def _give_up(self, id_: int, fds: Sequence[int], why: str) -> None:
        for fd in fds:
            os.close(fd)
        self._tell([EXIT, id_, f"cannot start a child: {why}"])

    def _exec(self, plan: Plan, fds: Ends) -> int:
        targets, cwd, allow = self._targets
        for fd in fds:
            os.set_inheritable(fd, True)
        numbers = [os.getpid(), *fds, plan.slots, plan.cells, int(plan.threads), int(plan.loop)]
        words = [*map(str, numbers), plan.title, cwd, ",".join(allow), *targets]
        argv = [sys.executable, "-m", "qworker.pool.child", *words]
        return os.posix_spawn(sys.executable, argv, os.environ)

    def _bury(self, pidfd: int) -> None:
        """A child died: end its process group while its pid still names it, reap it, and sweep what it left."""
        dead = self._living.pop(pidfd)
        self._poll.unregister(pidfd)
        _kill_group(dead.pid)
        _, status = os.waitpid(dead.pid, 0)
        os.close(pidfd)
        dead.status = os.waitstatus_to_exitcode(status)
        dead.died = time.monotonic()
        self._dead.append(dead)

    def _sweep_the_dead(self) -> None:
        left = self._sweep()
        now = time.monotonic()
        for dead in self._dead[:]:
            if not left or now - dead.died > _SWEEP_MAX_S:
                self._dead.remove(dead)
                self._tell([EXIT, dead.id, dead.status])

    def _sweep(self) -> int:
        """Kill and reap whoever is here but no child; returns how many are left. Their own children come here next."""
        known = {one.pid for one in self._living.values()} | self._kept
        try:
            orphans = linux.children_of_self() - known
        except OSError:  # no descriptor is left to look: there may be some
            return 1
        for pid in orphans:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, os.WNOHANG)
            except (ProcessLookupError, ChildProcessError):
                pass
        return len(orphans)

    def _end(self) -> NoReturn:
        """The worker is gone: so is everything here."""
        for one in self._living.values():
            os.kill(one.pid, signal.SIGKILL)
        for pidfd in list(self._living):
            self._bury(pidfd)
        self._kept.clear()
        ends = time.monotonic() + _LAST_SWEEP_MAX_S
        while self._sweep() and time.monotonic() < ends:
            time.sleep(0.001)
        os._exit(0)

    @faultpoints.before("spawn.forked", when=lambda _self, message, *_fds: message[0] == BORN)
    def _tell(self, message: list[Any], *fds: int) -> None:
        try:
            socket.send_fds(self._control, [msgpack.packb(message)], list(fds))
        except OSError:
            self._end()


def _fork() -> int:
    """Fork without Python 3.12's warning of threads, of which there are none: `_import` looked.

    It counts them in /proc/self/stat, field by field between spaces, and the title of this process has some.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # it died before its setsid, or what is left of its group is not ours to kill


def main() -> NoReturn:
    """Be a fork server on the descriptor that the command line names."""
    linux.check_platform()
    linux.become_subreaper()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Its end is the end of the control socket; a TERM to the whole service must not cut a drain short.
        signal.signal(number, lambda _number, _frame: None)
    setproctitle.setproctitle("qworker: fork server")
    control = socket.socket(fileno=int(sys.argv[1]))
    # The worker sees this process end by the end of the socket: nobody else may hold it open.
    control.set_inheritable(False)
    ForkServer(control).serve()


if __name__ == "__main__":
    main()
