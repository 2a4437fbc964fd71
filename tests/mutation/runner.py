"""Run tests against mutants, each in a fork of one pytest that has collected everything and started a server.

    pytest.main([…], plugins=[Runner(…)]) ─► collects ─► for each mutant: fork, put it in place, run until a test fails

The tests that killed the mutants before it come first, since neighbours mostly die of the same.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from qworker.broker import scripts
from support.servers import Server

from .mutants import Mutant

Fate = Literal["killed", "survived", "timed out"]


class Runner:
    """A pytest plugin in place of the loop that runs the tests."""

    def __init__(
        self,
        mutants: Sequence[Mutant],
        server: Server,
        *,
        timeout_s: float,
        ends: float,
        told: Callable[[Mutant, Fate, str], None],
    ) -> None:
        self._mutants = mutants
        self._server = server
        self._timeout_s = timeout_s
        self._ends = ends  # by time.monotonic(): no mutant is begun later
        self._told = told
        self._killers: dict[str, Counter[str]] = {}
        self._report = -1  # in a fork: where its verdict goes
        self.sound = False  # the scripts as they are pass
        self.seconds = 0.0  # what that took

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> object:
        before = time.monotonic()
        fate, test = self._try(None, session.items)
        self.seconds = time.monotonic() - before
        self.sound = fate == "survived"
        if not self.sound:
            print(f"without any mutation: {fate} {test}", file=sys.stderr)
            return True
        for mutant in self._mutants:
            if time.monotonic() > self._ends:
                break
            killers = self._killers.setdefault(mutant.script, Counter())
            order = {test: -count for test, count in killers.items()}
            fate, test = self._try(mutant, sorted(session.items, key=lambda item: order.get(item.nodeid, 0)))
            if fate == "killed":
                killers[test] += 1
            self._told(mutant, fate, test)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and self._report >= 0:
            os.write(self._report, report.nodeid.encode())
            os._exit(1)

    def _try(self, mutant: Mutant | None, items: Sequence[Any]) -> tuple[Fate, str]:
        reader, writer = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reader)
            self._run(mutant, items, writer)
        os.close(writer)
        done, _, _ = select.select([reader], [], [], self._timeout_s)
        if not done:
            os.kill(child, signal.SIGKILL)
        test = os.read(reader, 65_536).decode() if done else ""
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if not done:
            self._server.kill()  # it may be in a loop that it cannot be asked to leave
            self._server.start()
            return "timed out", ""
        return ("survived", "") if status == 0 else ("killed", test)

    def _run(self, mutant: Mutant | None, items: Sequence[Any], writer: int) -> None:
        """In the fork: never returns."""
        self._report = writer
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if mutant is not None:
                put_in_place(mutant)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            os._exit(0)
        finally:
            os._exit(2)


def put_in_place(mutant: Mutant) -> None:
    """Have every script loaded from now on be of the mutated text."""
    read = scripts._read
    scripts.load.cache_clear()
    scripts._library.cache_clear()
    scripts._read = lambda name: mutant.text if name == mutant.script else read(name)
