"""A child: the process that runs user code.

    fork server ── fork ──► enter() ──► own session, hooks, READY ──► ProcessLoop, ThreadLoop or CoroutineLoop
                └─ exec ──► main()  ──► import the app ─┘              (when the import left threads)

Nothing imported here brings in redis, and asyncio comes with the first coroutine. The process ends by `os._exit`:
when the worker closes the stream (it is idle then), when the worker is gone, or by KILL.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import socket
import sys
import traceback
from typing import NoReturn

import setproctitle

from .. import place
from ..errors import AppImportError
from . import apps as apps_
from . import frames, interrupts, last_words, linux, looks, output
from .inbox import Inbox
from .orders import Ends, Plan
from .outbox import Outbox
from .page import Page
from .slots import ProcessLoop, Runner
from .threads import ThreadLoop


def enter(plan: Plan, apps: apps_.Apps | None, targets: tuple[list[str], str, list[str]], fds: Ends) -> NoReturn:
    """Become a child; the process is a fresh copy of the fork server, or a fresh interpreter (`apps` None)."""
    stream_fd, token_fd, page_fd, stack_fd, dump_fd, out_fd = fds
    try:
        os.setsid()
        linux.become_subreaper()
        linux.volunteer_for_oom()
        _heed_no_signals()
        # Written by the signal handler itself, so it works while C code holds the GIL (see dumps.py).
        faulthandler.register(signal.SIGUSR2, file=dump_fd, all_threads=True)
        # The flight recorder's, for what looks.py cannot see: each thread walks its own frames only (see recorder.py).
        faulthandler.register(linux.STACK_SIGNAL, file=stack_fd, all_threads=False)
        setproctitle.setproctitle(f"qworker: {plan.title}")
        random.seed()
        stream = socket.socket(fileno=stream_fd)
        outbox = Outbox(out_fd)
        captured, undo_capture = output.install(outbox)
        runner: Runner | None = None

        def forked_by_user_code() -> None:
            # A copy that user code made of this process must neither speak for it nor shrug off signals as it does.
            outbox.closed = True
            if runner is not None:
                runner.forked = True
            undo_capture()
            faulthandler.unregister(signal.SIGUSR2)
            faulthandler.unregister(linux.STACK_SIGNAL)
            signal.signal(linux.LOOK_SIGNAL, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        os.register_at_fork(after_in_child=forked_by_user_code)  # before any of that code: a hook may fork, too
        try:
            apps = apps or apps_.load(*targets)
            place.serves(*apps.home)
            for hook in apps.hooks:
                hook()
        except AppImportError as error:
            _fail(outbox, str(error))
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            _fail(outbox, f"start hook: {type(error).__qualname__}: {error} ({last.filename}, line {last.lineno})")
        captured.finish(0)
        page = Page(page_fd, plan.cells)
        looks.install(page, stack_fd)
        runner = Runner(apps.find, page, captured, outbox.send)
        inbox = Inbox(stream, token_fd, page)
        outbox.send(frames.pack_frame(frames.READY))
        if plan.loop:
            from .loop import CoroutineLoop  # brings in asyncio, which the others do not need

            CoroutineLoop(plan.slots, inbox, runner, outbox.send, page, stream_fd).serve()
        elif plan.threads:
            ThreadLoop(plan.slots, inbox, runner, outbox.send, page, stream_fd).serve()
        else:
            interrupts.install()
            ProcessLoop(inbox, runner, outbox.send, stream_fd).serve()
    except BaseException:
        last_words.end()
    os._exit(last_words.BROKEN)  # the loops end the process themselves: whatever came here is a fault of ours


def _fail(outbox: Outbox, text: str) -> NoReturn:
    outbox.send(frames.pack_frame(frames.FAILED, text))
    os._exit(1)


def _heed_no_signals() -> None:
    """Let TERM and INT pass: a supervisor may send them to everybody, and draining is the worker's business.

    A handler rather than SIG_IGN: a program that a task starts must get its default behaviour back.
    """

    def ignore(_number: int, _frame: object) -> None:
        pass

    signal.signal(signal.SIGTERM, ignore)
    signal.signal(signal.SIGINT, ignore)


def main() -> NoReturn:
    """Be a child in a fresh interpreter: `python -m qworker.pool.child parent fds… plan… cwd allow targets…`."""
    parent, *fds = map(int, sys.argv[1:8])
    slots, cells, threads, loop = map(int, sys.argv[8:12])
    title, cwd, allow, *targets = sys.argv[12:]
    linux.die_with_parent(parent)
    for fd in fds:
        os.set_inheritable(fd, False)
    plan = Plan(slots, cells, bool(threads), title, bool(loop))
    stream_fd, token_fd, page_fd, stack_fd, dump_fd, out_fd = fds
    ends = stream_fd, token_fd, page_fd, stack_fd, dump_fd, out_fd
    enter(plan, None, (targets, cwd, allow.split(",") if allow else []), ends)


if __name__ == "__main__":
    main()
