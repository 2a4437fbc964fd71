"""An app whose start hook forks a process that prints all the time."""

from __future__ import annotations

import os
import time

from qworker import App

app = App()


@app.on_child_start
def _fork_a_chatterbox() -> None:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            print("chatter " * 10)
            time.sleep(0.0005)
        os._exit(0)


@app.task
def make(size: int) -> bytes:
    return b"x" * size
