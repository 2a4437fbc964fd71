"""The real work, both times: through the queue, and in a plain loop that must find the same.

    Work.submit ─► two tasks per file ─► Work.sums ───────┐
    Work.census ─► tasks that last ─► Work.sums ──────────┼─► Sums
    Work.loop ─► the same functions, called here ─────────┘

Compared file by file, so that two errors cannot make up for each other; copies are read again from the disk.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..future import Future
from ..lifecycle import State
from . import corpus, tasks
from .facts import Sums

__all__ = ["Work"]

CENSUS_SHARES = 10
CENSUS_S = 0.3


class Work:
    """The files, and the futures of what is done with them. Owned by the main thread."""

    def __init__(self, files: Sequence[Path], copies: Path) -> None:
        self.files = list(files)
        self._copies = [copies / f"{number}.py" for number in range(len(files))]
        self._shares = corpus.shares(self.files, CENSUS_SHARES)
        self._parsed: list[Future[dict[str, int]]] = []
        self._copied: list[Future[str]] = []
        self._counted: list[Future[dict[str, int]]] = []

    def submit(self) -> tuple[list[Future[Any]], list[Future[Any]]]:
        """Queue two tasks per file; return the futures of both kinds."""
        self._parsed = tasks.parse.submit_many([tasks.parse.call(str(path)) for path in self.files])
        self._copied = tasks.hash_and_copy.submit_many(
            [tasks.hash_and_copy.call(str(path), str(to)) for path, to in zip(self.files, self._copies, strict=True)]
        )
        return [*self._parsed], [*self._copied]

    def census(self, shares: slice) -> list[Future[Any]]:
        """Queue those shares of the census, before anything else that waits."""
        census = tasks.census.options(priority="high")
        futures = census.submit_many(
            [census.call([str(path) for path in share], CENSUS_S) for share in self._shares[shares]]
        )
        self._counted += futures
        return [*futures]

    def compare(self, queue_s: float, *, tick: Callable[[], None]) -> Sums:
        """Do it all again in a plain loop, call `tick` after each file, and compare."""
        began = time.monotonic()
        counted, measured, differing = [], [], []
        for number, path in enumerate(self.files):
            counts, size = corpus.count(path), corpus.measure(path)
            counted.append(counts)
            measured.append(size)
            if _value(self._parsed[number]) != counts:
                differing.append(f"what is in {path}")
            if not self._is_copied(number, hashlib.sha256(path.read_bytes()).hexdigest()):
                differing.append(f"the copy of {path}")
            tick()
        loop_s = time.monotonic() - began
        return Sums(
            queue=_sums(map(_value, self._parsed), map(_value, self._counted)),
            loop=_sums(counted, measured),
            differing=differing,
            queue_s=queue_s,
            loop_s=loop_s,
        )

    def _is_copied(self, number: int, digest: str) -> bool:
        try:
            copy = self._copies[number].read_bytes()
        except OSError:
            return False
        return bool(_value(self._copied[number]) == digest == hashlib.sha256(copy).hexdigest())


def _sums(counted: Any, measured: Any) -> dict[str, int]:
    return corpus.add(filter(None, counted)) | {"bytes": corpus.add(filter(None, measured)).get("bytes", 0)}


def _value(future: Future[Any]) -> Any:
    """Return the value of a task, None if there is none: that it failed is the ledger's business."""
    outcome = future.outcome
    return future.result(0) if outcome is not None and outcome.state is State.SUCCEEDED else None
