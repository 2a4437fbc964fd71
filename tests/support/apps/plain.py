"""A module without an app: functions that a worker runs because its module is allowed."""

from __future__ import annotations

import asyncio
import os
import time
from os import system
from pathlib import Path

from qworker import App, Executor, current

LIMIT = 7


def square(number: int) -> int:
    return number * number


def together(*args: object, **kwargs: object) -> object:
    return args, kwargs


def nap(seconds: float, value: object = None) -> object:
    time.sleep(seconds)
    return value


def touch_later(path: str, seconds: float) -> None:
    time.sleep(seconds)
    Path(path).write_text("done")


def note(path: str, text: str, seconds: float = 0.0) -> str:
    """Append a line to a file, in one write; then sleep."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, f"{text}\n".encode())
    finally:
        os.close(fd)
    time.sleep(seconds)
    return text


def fail(text: str) -> None:
    raise ValueError(text)


def pid(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os._exit(3)


def until_asked() -> str:
    while not current.asked:
        time.sleep(0.01)
    return "asked"


def squares_elsewhere(numbers: list[int], *, registered: bool) -> list[int]:
    """Be a task that has a pool of its own."""
    with Executor(workers=1) as executor:
        return list(executor.map(App().task(square) if registered else square, numbers))


def bowl(point: list[float]) -> float:
    return sum((x - 1) ** 2 for x in point)


def an_object() -> object:
    return object()


async def later(value: object) -> object:
    await asyncio.sleep(0.01)
    return value


def make_inner() -> object:
    def inner() -> None: ...

    return inner


alias = square
shell = system


class Box:
    """Something with methods of its kinds."""

    size = 3

    def weigh(self) -> int:
        return self.size

    @staticmethod
    def double(number: int) -> int:
        return 2 * number

    @classmethod
    def named(cls, name: str) -> str:
        return f"{cls.__name__} {name}"


class SmallBox(Box):
    size = 1


box = Box()
