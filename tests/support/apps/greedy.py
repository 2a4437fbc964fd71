"""Tasks that take more of the machine than there is, and some that only want to run."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from pathlib import Path

from qworker import App
from support.apps.promises import note

app = App()


@app.task
def nap(seconds: float, value: object = None) -> object:
    note("start")
    time.sleep(seconds)
    note("end")
    return value


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def opens_files() -> int:
    """Opens files until it may not, keeps them, and returns how many there were."""
    note("start")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    kept = getattr(sys, "kept_files", [])
    sys.kept_files = kept  # type: ignore[attr-defined]
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    return len(kept)


@app.task
def opens_one() -> None:
    os.close(os.open(os.devnull, os.O_RDONLY))


@app.task
def allocates(megabytes: int, limit: bool = False) -> int:
    """Fills memory; with `limit` within an address space that has less."""
    note("start")
    if limit:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (held + (megabytes << 19), hard))
    try:
        filled = bytearray(megabytes << 20)
        for at in range(0, len(filled), 4096):
            filled[at] = 1
        return len(filled)
    finally:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@app.task
def says(text: str) -> str:
    """Prints, logs to stderr, and writes to the descriptors behind Python's back."""
    print(text)
    print(text, file=sys.stderr)
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            os.write(fd, text.encode() + b"\n")
    return text
