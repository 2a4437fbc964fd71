"""One running adapter: orders go to it and answers come back, one JSON line each (peers/base.py is the other end)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from .processes import Process

ANSWER_WITHIN_S = 60.0
CLOSE_WITHIN_S = 5.0
LOOK_EVERY_S = 0.5  # whether the worker still lives


class NotOfferedError(Exception):
    """The contestant has no such thing."""


class CannotError(NotOfferedError):
    """The contestant has such a thing elsewhere, but not here, or too late to wait for; the text says why."""


class FailedError(Exception):
    """The contestant did not do what it was asked; the text says what happened instead."""


class Adapter:
    """A process that speaks for one contestant, in one mode."""

    def __init__(self, command: list[str], *, env: dict[str, str], cwd: Path, log: Path) -> None:
        self.env = env
        self.process = Process(command, env=env, cwd=cwd, log=log, pipes=True)
        self._unread = b""
        self._ordered = ""  # the verb of the latest order
        self._owes = False  # whether its answer is still to come
        try:
            self.facts: dict[str, Any] = self.order("facts")
        except BaseException:
            self.stop()
            raise

    def order(
        self, verb: str, *, within_s: float = ANSWER_WITHIN_S, worker: Process | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Give an order and wait for its answer.

        Raises:
            NotOfferedError: the contestant has no such thing.
            FailedError: it failed, ended, or did not answer in time.
        """
        self.begin(verb, **arguments)
        return self.answer(within_s=within_s, worker=worker)

    def begin(self, verb: str, **arguments: Any) -> None:
        """Give an order whose answer is fetched later."""
        assert self.process.popen.stdin is not None
        self._ordered, self._owes = verb, True
        try:
            self.process.popen.stdin.write(json.dumps({"verb": verb, **arguments}).encode() + b"\n")
            self.process.popen.stdin.flush()
        except BrokenPipeError:
            raise FailedError(f"the adapter ended before {verb}{self.process.said()}") from None

    def answer(self, *, within_s: float = ANSWER_WITHIN_S, worker: Process | None = None) -> dict[str, Any]:
        """Wait for the answer to the order that was begun; no longer than the worker lives, if it is named."""
        answer: dict[str, Any] = json.loads(self._read_line(within_s, worker))
        self._owes = False
        if "not_offered" in answer:
            raise NotOfferedError(answer["not_offered"])
        if "failed" in answer:
            raise FailedError(f"{self._ordered}: {answer['failed']}")
        return answer

    def _read_line(self, within_s: float, worker: Process | None) -> bytes:
        assert self.process.popen.stdout is not None
        answers, ends = self.process.popen.stdout.fileno(), time.monotonic() + within_s
        while b"\n" not in self._unread:
            ready, _, _ = select.select([answers], [], [], min(LOOK_EVERY_S, max(0.0, ends - time.monotonic())))
            if ready:
                heard = os.read(answers, 1 << 16)
                if not heard:
                    raise FailedError(f"the adapter ended during {self._ordered}{self.process.said()}")
                self._unread += heard
            elif worker is not None and worker.ended:
                raise FailedError(f"the worker ended during {self._ordered}{worker.said()}")
            elif time.monotonic() >= ends:
                said = (worker or self.process).said()
                raise FailedError(f"no answer to {self._ordered} within {within_s:g} s{said}")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def stop(self) -> None:
        """Let it close its client, unless it still works on an order; then end it."""
        assert self.process.popen.stdin is not None
        try:
            self.process.popen.stdin.close()
            self.process.popen.wait(0 if self._owes else CLOSE_WITHIN_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass  # it ended before, or it hangs: stopped below either way
        self.process.stop()
