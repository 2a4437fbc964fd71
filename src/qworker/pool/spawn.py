"""Start a fork server: the first thing that `qworker start` does, so that the app is imported beside the worker.

cli/start.py, Host ── spawn(…) ─► a process, and the worker's end of the socket to it
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

import msgpack

from . import orders

_MARK: Final = "QWORKER_FORK_SERVER"


class Spawned(NamedTuple):
    """A fork server that was started and imports its targets. It ends when `control` is closed."""

    control: socket.socket
    process: subprocess.Popen[bytes]
    mark: str  # in the environment of all that is below it


def spawn(environ: Mapping[str, str], targets: Sequence[str], cwd: str, allow: Sequence[str]) -> Spawned:
    """Start a fork server, and have it import the targets. `environ` is added to the environment of all below it.

    Raises:
        OSError: no descriptor, process or memory was to be had, or it ended at once; nothing is left of it.
    """
    mark = os.urandom(8).hex()
    with ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "qworker.pool.forkserver", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environ, _MARK: mark},
                start_new_session=True,  # Ctrl-C in a terminal is the worker's to hear
            )
        undo.callback(process.wait)
        undo.callback(process.kill)  # first, as the last that was put there
        ours.setblocking(False)
        ours.send(msgpack.packb([orders.IMPORT, list(targets), cwd, list(allow)]))
        undo.pop_all()
    return Spawned(ours, process, f"{_MARK}={mark}")
