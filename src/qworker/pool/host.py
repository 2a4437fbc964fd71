"""The worker's handle on the fork server: start it, have children made, hear of their ends, start it again.

    Pool ── launch(plan, fds, parent) ──► Host ── control socket ──► fork server ──► child
    Pool ◄─ parent.born / parent.ended ── Host ◄─ BORN + pidfd, EXIT ── fork server

Owned by the worker's event loop; sockets and pidfds are watched with `add_reader`. When the server itself dies, its
children are killed by the kernel with it: each is told as ended with `host_died`, and a new server is started. What is
known of one child, and how it is signalled, is in process.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from .. import faultpoints
from ..errors import AppImportError
from . import linux, orders
from .facts import AppFacts
from .orders import Ends, Plan
from .process import Parent, Process
from .spawn import Spawned, spawn

# The exit is told a moment after the pidfd says that the process is gone; a server that is stuck must not hide it.
_EXIT_LATE_S: Final = 1.5
_CLOSE_S: Final = 6.0
_BACKOFF_S: Final = (0.1, 30.0)
# A server that lived shorter than this is started again only after a pause, which doubles.
_SHORT_LIFE_S: Final = 10.0
_SWEEP_S: Final = 2.0


class Host:
    """One fork server: started once, shared by all pools of a worker; restarted by itself when it dies.

    `on_event(name, level, fields)` hears of forkserver.started, forkserver.died and forkserver.failed. `environ` is
    added to the environment of everything below it. `spawned`: the first server, started already with all of this.
    """

    def __init__(
        self,
        on_event: Callable[[str, str, dict[str, Any]], None] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        spawned: Spawned | None = None,
    ) -> None:
        self._environ = dict(environ or {})
        self._spawned = spawned
        self.facts: AppFacts | None = None
        self._on_event = on_event or (lambda _name, _level, _fields: None)
        self._targets: tuple[Sequence[str], str, Sequence[str]] = ((), "", ())
        self._control: socket.socket | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._generation = 0
        self._answer: asyncio.Future[AppFacts] | None = None
        self._names: tuple[set[str], set[str]] = (set(), set())
        self._processes: dict[int, Process] = {}
        self._last_id = 0
        self._orders: list[Process] = []  # for the next server
        self._restart: asyncio.Task[None] | None = None
        self._began_at = 0.0
        self._short_lives = 0
        self._mark = ""
        self._sessions: set[int] = set()  # of children of the servers that died
        self._closing = False
        self._warm = False  # the client is imported in the server, too

    async def start(
        self,
        targets: Sequence[str],
        cwd: str | Path | None = None,
        *,
        allow: Sequence[str] = (),
        timeout_s: float = 60.0,
    ) -> AppFacts:
        """Start the fork server, let it import `targets` (`module:attr`, attr `app` by default) from `cwd`.

        `allow` are modules whose functions may run, too.

        Raises:
            AppImportError: one clear line: what could not be imported, why, what to do.
        """
        linux.check_platform()
        # When the server is killed, what its children left comes to this process, which ends it.
        linux.become_subreaper()
        self._targets = (list(targets), str(cwd if cwd is not None else Path.cwd()), list(allow))
        try:
            return await self._begin(timeout_s)
        except BaseException:
            await self.close()
            raise

    @faultpoints.after("spawn.sent")
    def launch(self, plan: Plan, fds: Ends, parent: Parent) -> Process:
        """Have a child made. `fds` are its ends; they are closed here once they are sent."""
        self._last_id += 1
        process = self._processes[self._last_id] = Process(self._last_id, parent, plan, fds)
        self._order(process)
        return process

    def warm(self) -> None:
        """Let children to come submit tasks at once: tasks here do, and each of them would import the client anew."""
        if not self._warm:
            self._warm = True
            self._send_warm()

    def _send_warm(self) -> None:
        if self._control is not None and self._answer is None:
            try:
                self._control.send(msgpack.packb([orders.WARM]))
            except OSError:
                self._warm = False  # busy or gone: the next lent child asks again

    def kill(self, process: Process) -> None:
        """KILL a child. One that is not born yet is killed when it is."""
        process.kill_asked = True
        if not process.server:
            asyncio.get_running_loop().call_soon(self._end, process, "ended before its start")
        process.kill()

    async def close(self) -> None:
        """End the server and everything below it. Close the pools first. Idempotent."""
        self._closing = True
        if self._spawned is not None:
            self._spawned.control.close()
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        self._orders.clear()
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()  # its end: it kills what is below it and exits
            self._control = None
        if self._server is not None:
            server, self._server = self._server, None
            await _gone(server)
        for process in list(self._processes.values()):
            self._end(process, "the worker ended", True)

    # ── the server ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _begin(self, timeout_s: float) -> AppFacts:
        loop = asyncio.get_running_loop()
        self._generation += 1
        self._began_at = time.monotonic()
        spawned, self._spawned = self._spawned or spawn(self._environ, *self._targets), None
        ours, self._server, self._mark = spawned
        self._control = ours
        self._names = (set(), set())
        self._answer = loop.create_future()
        loop.add_reader(ours, self._read, ours)
        try:
            async with asyncio.timeout(timeout_s):
                facts = await self._answer
            if self._control is not ours:
                # It died between its answer and this line, while `_server_died` left it to who was starting it.
                raise AppImportError(
                    f"cannot import {' '.join(self._targets[0])}: the process that imported it ended right away"
                )
        except (TimeoutError, asyncio.CancelledError) as error:
            # In the middle of an import it would not hear that it is to end.
            self._abandon()
            self._sweep(self._mark.encode(), time.monotonic())
            if isinstance(error, asyncio.CancelledError):
                raise
            targets, _, allow = self._targets
            raise AppImportError(
                f"cannot import {' '.join([*targets, *allow])}: it takes longer than {timeout_s:.0f} s; "
                "move slow work out of the module, for example into @app.on_child_start"
            ) from None
        finally:
            self._answer = None
        self.facts = facts
        if self._warm:
            self._send_warm()
        waiting, self._orders = self._orders, []
        for process in waiting:
            self._order(process)
        return facts

    def _read(self, control: socket.socket) -> None:
        while control is self._control:
            try:
                data, fds, _, _ = socket.recv_fds(control, orders.MESSAGE_MAX, 1, socket.MSG_CMSG_CLOEXEC)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self._server_died()
                return
            self._heed(msgpack.unpackb(data), fds)

    def _heed(self, message: list[Any], fds: list[int]) -> None:
        kind = message[0]
        if kind == orders.BORN:
            self._born(message[1], message[2], fds)
        elif kind == orders.EXIT:
            process = self._processes.get(message[1])
            if process is not None:
                self._end(process, _words(message[2]), False)
        elif kind == orders.NAMES:
            self._names[0].update(message[1])
            self._names[1].update(message[2])
        elif self._answer is not None and not self._answer.done():
            if kind == orders.FACTS:
                _, url, namespace, spawn, warning, needs = message
                names, async_names = map(frozenset, self._names)
                assert self._server is not None
                facts = AppFacts(url, namespace, names, async_names, spawn, warning, self._server.pid, frozenset(needs))
                self._answer.set_result(facts)
            else:
                self._answer.set_exception(AppImportError(message[1]))

    def _order(self, process: Process) -> None:
        if process.ended:
            return
        if self._control is None or self._answer is not None:
            self._orders.append(process)
            return
        try:
            socket.send_fds(self._control, [process.order], list(process.fds))
        except BlockingIOError:
            # It answers slowly (a large app, many forks): a later turn of the loop tries again.
            asyncio.get_running_loop().call_later(0.005, self._order, process)
            return
        except OSError:
            pass  # it died; the next read of this socket says so, and ends the process that was asked for
        process.server = self._generation
        process.close_fds()

    def _server_died(self) -> None:
        control, server = self._control, self._server
        assert control is not None
        assert server is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(control)
        control.close()
        self._control = None
        self._server = None
        try:
            status = server.wait(timeout=1.0)  # it closed its socket by ending: there is nothing to wait for
        except subprocess.TimeoutExpired:
            server.kill()
            status = server.wait()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(
                AppImportError(
                    f"cannot import {' '.join(self._targets[0])}: the process that imports it ended: {_words(status)}"
                )
            )
        self._sessions.update(process.pid for process in self._processes.values() if process.pid)
        # The kernel kills its children with it. Those that have a pidfd are told when that says so; it may have said so
        # before this socket did, and then nobody is left to tell their exit.
        for process in list(self._processes.values()):
            if process.server == self._generation:
                if process.pidfd is None or process.gone:
                    self._end(process, "its fork server died", True)
                else:
                    self.kill(process)
        self._sweep(self._mark.encode(), time.monotonic() + _SWEEP_S)
        if not self._closing and self._restart is None and self.facts is not None:
            self._on_event("forkserver.died", "error", {"child": server.pid, "detail": _words(status)})
            self._restart = loop.create_task(self._start_again(), name="qworker fork server restart")
            self._restart.add_done_callback(_raise_its_error)

    async def _start_again(self) -> None:
        delay_s, longest_s = _BACKOFF_S
        short = time.monotonic() - self._began_at < _SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if short else 0
        if self._short_lives > 1:
            await asyncio.sleep(min(longest_s, delay_s * 2 ** min(self._short_lives, 10)))
        while True:
            try:
                facts = await self._begin(60.0)
            except (AppImportError, OSError) as error:
                # Without a process, memory or a descriptor for it: there may be one again later.
                detail = str(error) if isinstance(error, AppImportError) else f"cannot start a process: {error}"
                self._on_event("forkserver.failed", "error", {"detail": detail, "again_in_s": delay_s})
                self._abandon()
                await asyncio.sleep(delay_s)
                delay_s = min(longest_s, delay_s * 2)
            else:
                self._restart = None
                self._on_event("forkserver.started", "info", {"child": facts.pid})
                return

    def _abandon(self) -> None:
        """Let go of a server that cannot import the app, or of what there is of one that could not be started."""
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._server is not None:
            self._server.kill()  # it has no children yet
            self._server.wait()
            self._server = None

    def _sweep(self, mark: bytes, until: float) -> None:
        """End what the children of a dead server left: it came to this process. Their own children come next."""
        try:
            children = linux.children_of_self()
        except OSError:  # no descriptor is left to look: there may be some, until it was possible for a while
            children, until = set(), time.monotonic() + _SWEEP_S
        for pid in children:
            ours = linux.session_of(pid) in self._sessions or mark in linux.environment_of(pid).split(b"\0")
            if ours and (self._server is None or pid != self._server.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)
                except (ProcessLookupError, ChildProcessError):
                    pass
        if time.monotonic() < until and not self._closing:
            asyncio.get_running_loop().call_later(0.02, self._sweep, mark, until)
        else:
            self._sessions.clear()

    # ── its children ─────────────────────────────────────────────────────────────────────────────────────────────

    def _born(self, id_: int, pid: int, fds: list[int]) -> None:
        process = self._processes.get(id_)
        if not fds:
            if process is not None:  # it ends by itself, when its ends are closed here
                self._end(process, "no descriptor was left here to hold it by")
            return
        (pidfd,) = fds
        if process is None:
            os.close(pidfd)
            return
        process.pid = pid
        process.pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._pidfd_ready, process)
        if process.kill_asked:
            self.kill(process)
        process.parent.born(pid)

    def _pidfd_ready(self, process: Process) -> None:
        """The process is gone. Its exit status comes from its server, if that still lives."""
        assert process.pidfd is not None
        process.gone = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(process.pidfd)
        if process.server != self._generation or self._control is None:
            self._end(process, "its fork server died", True)
        else:
            loop.call_later(_EXIT_LATE_S, self._end, process, "its exit status is not known")

    def _end(self, process: Process, detail: str, host_died: bool = False) -> None:
        if process.ended:
            return
        process.ended = True
        process.close_fds()
        del self._processes[process.id]
        if process.pidfd is not None:
            asyncio.get_running_loop().remove_reader(process.pidfd)
            os.close(process.pidfd)
            process.pidfd = None
        process.parent.ended(detail, host_died=host_died)


def _raise_its_error(restart: asyncio.Task[None]) -> None:
    """Let a restart fail as a callback does: that ends the worker, which else would live on without any process."""
    if not restart.cancelled():
        restart.result()


async def _gone(server: subprocess.Popen[bytes]) -> None:
    """Wait for the end of a server whose control socket was closed."""
    ends = time.monotonic() + _CLOSE_S
    while server.poll() is None:
        if time.monotonic() > ends:
            server.kill()
        await asyncio.sleep(0.002)


def _words(status: int | str) -> str:
    if isinstance(status, str):
        return status
    return f"signal {-status}" if status < 0 else f"exit status {status}"
