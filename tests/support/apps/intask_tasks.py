"""Tasks that use what a task can do about its own end: shields, guards, interrupts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from qworker import App, current

app = App()


def _note(path: str, text: str) -> None:
    with Path(path).open("a") as notes:
        notes.write(text + "\n")


@app.task
def noop() -> None:
    return None


@app.task
def wait_for_file(path: str) -> str:
    while not Path(path).exists():
        time.sleep(0.002)
    return "found"


@app.task
def shielded(path: str, seconds: float, block_s: float) -> str:
    """Stays in a shield for `block_s`, deaf, and goes on after it."""
    with current.shield(seconds):
        _note(path, "in")
        ends = time.monotonic() + block_s
        while time.monotonic() < ends:
            current.check()
            current.sleep(0.001)
            time.sleep(0.001)
        _note(path, "done")
    _note(path, "went on")
    time.sleep(60)
    return "ended by itself"


@app.task
async def shielded_coroutine(path: str, block_s: float) -> None:
    try:
        with current.shield(10):
            _note(path, "in")
            await asyncio.sleep(block_s)
            _note(path, "done")
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        _note(path, "cancelled")
        raise


@app.task
def spin(path: str) -> None:
    _note(path, "in")
    while True:
        pass


@app.task
def sleep(path: str) -> None:
    _note(path, "in")
    time.sleep(60)


@app.task
def print_for_ever(path: str) -> None:
    _note(path, "in")
    while True:
        print("x" * 2000)


@app.task
def nested(path: str) -> None:
    try:
        try:
            _note(path, "in")
            time.sleep(60)
        finally:
            ends = time.monotonic() + 0.3  # cleanup that takes longer than all repetitions of a signal
            while time.monotonic() < ends:
                pass
            _note(path, "inner")
    finally:
        _note(path, "outer")


@app.task
def shielded_spin(path: str, block_s: float) -> None:
    with current.shield(10):
        _note(path, "in")
        ends = time.monotonic() + block_s
        while time.monotonic() < ends:
            pass
        _note(path, "done")
    while True:
        pass


@app.task
def in_finalizer(path: str) -> None:
    class Slow:
        def __del__(self) -> None:
            _note(path, "in")
            time.sleep(0.3)
            _note(path, "finalized")

    Slow()
    time.sleep(60)


@app.task
def shields_for_ever(path: str) -> None:
    """Runs out of its shield, and swallows what that brings."""
    with current.shield(0.3):
        _note(path, "in")
        time.sleep(60)
