"""Tasks that do to their own child what no task should: they write where only qworker writes.

All of it is random and comes of a seed, so that what broke something can be done again.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from qworker import App, current
from qworker.pool import frames
from qworker.pool.inbox import Inbox
from qworker.pool.outbox import Outbox
from qworker.pool.page import Page

app = App()

DEEP = b"\x91" * 1_000 + b"\xc0"


def the(kind: type) -> Any:
    """The one object of a class that this child has."""
    return next(thing for thing in gc.get_objects() if type(thing) is kind)


def scalar(rng: random.Random) -> Any:
    return rng.choice(
        [
            None, True, False, 0, 1, -1, 7, 2**31, 2**63, 2**64 - 1, -(2**63), 0.0, -1.5, 1e308, -1e308,
            float("nan"), float("inf"), -float("inf"), b"", b"\xff" * 9, "", "x", "\x1b[2J\x07\u202e", "a b",
            "default:x", "default:../x", "g-1", "{}", "q:" + "y" * 70, "z" * 10_000, [], {}, [None],
            {"level": "error"}, {1: 2}, {b"x": []},
            msgpack.ExtType(1, b"\x91\xc0"), msgpack.Timestamp(1, 2),
        ]
    )  # fmt: skip


def well_formed(rng: random.Random, number: int) -> bytes:
    """A frame whose fields have the types that a child's have, and any values."""

    def of(kind: type) -> Any:
        while type(value := scalar(rng)) is not kind:
            pass
        return value

    n = rng.choice([number, number, of(int)])
    frame = rng.choice(
        [
            lambda: [frames.OUTCOME, n, rng.randrange(7), rng.choice([None, of(float)]), rng.choice([None, True]),
                     rng.choice([None, of(float)]), rng.choice([of(bytes), frames._pack([1, 2])])],
            lambda: [frames.READY],
            lambda: [frames.OUTPUT, n, of(str), of(str), rng.choice([None, of(dict)])],
            lambda: [frames.GONE, n],
            lambda: [frames.WAITING, n, [of(str) for _ in range(rng.randrange(4))], of(bool)],
            lambda: [frames.RESUMED, n],
            lambda: [frames.CURSOR, n, of(bytes)],
            lambda: [frames.GROUP, n, of(str), of(bool)],
            lambda: [frames.PROGRESS, n, of(int)],
            lambda: [frames.STACK, n, of(str)],
            lambda: [frames.FAILED, of(str)],
        ]
    )  # fmt: skip
    return frames._pack(frame())


def ill_formed(rng: random.Random, number: int) -> bytes:
    """Nearly a frame, or nothing like it."""
    made = bytearray(well_formed(rng, number))
    return rng.choice(
        [
            lambda: bytes(made[: rng.randrange(len(made))]),
            lambda: rng.randbytes(rng.randrange(1, 40)),
            lambda: frames._pack([scalar(rng) for _ in range(rng.randrange(8))]),
            lambda: b"\x91" + DEEP,
            lambda: b"\x95\x03\x01\xa1s\xa1t\x81\xa5level" + DEEP,
            lambda: b"\xdd\x00\x80\x00\x00" * 50,
        ]
    )()


# What no child says of itself, ready to be written: the attempt's number goes into it.
SAYINGS: dict[str, Callable[[int], bytes]] = {
    "half a frame": lambda number: frames._pack([frames.STACK, number, "x" * 100_000])[:-10_000],
    "nested": lambda _: b"\x91" + DEEP,
    "nan": lambda number: frames._pack([frames.OUTCOME, number, frames.RETRY, 0.0, True, float("nan"), b""]),
    "negative": lambda number: frames._pack([frames.OUTCOME, number, frames.RETURNED, -1.0, True, None, b"\xc0"]),
    "level": lambda number: b"\x95\x03" + frames._pack(number) + b"\xa1s\xa1t\x81\xa5level" + DEEP,
    "group": lambda number: frames._pack([frames.GROUP, number, "g-{x}:tasks", True]),
    "ready": lambda _: frames._pack([frames.READY]),
    "failed": lambda _: frames._pack([frames.FAILED, "no"]),
}


@app.task
def says(what: str) -> None:
    """Says something of which nothing good can come."""
    the(Outbox).send(SAYINGS[what](the(Page).number(0)))


@app.task
def tears() -> None:
    """Takes a part of the next token, when there is one."""
    fd = the(Inbox).token_fd
    select.select([fd], [], [], 1.0)
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 3)


@app.task(timeout=20)
def scribbles(seed: int, kind: str) -> str:
    """Does something of a kind to what it shares with its worker, and returns."""
    rng = random.Random(seed)
    number = the(Page).number(0)
    write = the(Outbox).send
    for _ in range(rng.randrange(1, 6)):
        if kind == "frames":
            write(well_formed(rng, number))
        elif kind == "noise":
            write(ill_formed(rng, number))
        elif kind == "page":
            page, words = the(Page), [0, 1, number, number + 1, 2**64 - 1, 2**63, 0x7FF8 << 48]
            for _ in range(20):
                page.cells[rng.randrange(len(page.cells))] = rng.choice([*words, rng.getrandbits(64)])
        elif kind == "descriptors":
            for fd in (int(entry.name) for entry in Path("/proc/self/fd").iterdir()):
                if fd > 2 and rng.random() < 0.5:
                    with contextlib.suppress(OSError):
                        os.set_blocking(fd, False)
                        os.read(fd, rng.randrange(1, 9)) if rng.random() < 0.5 else os.write(fd, rng.randbytes(5))
    return f"{kind} {seed} {current.attempt}"


@app.task
def echo(value: object) -> object:
    return value
