"""What processes do to themselves at fault points, seen from outside, and written down as faults like any other.

    QWORKER_FAULT_TALLY: point, action, pid, instant ─► Watch.look() ─► [Fault]

A process that was stopped is continued here; one that was killed counts as over when nothing of it runs any more.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qworker.faultpoints import POINTS
from support.daemon import Worker, alive

from .executions import Tail, now
from .records import Fault, Line

# What it is that happened, by who did it to himself.
ENDS = {"worker": "kill worker", "child": "kill child", "fork server": "kill fork server", "producer": "kill producer"}
PARENTS = {"child": "fork server", "fork server": "worker"}
# What lasts for as long as it lasts; everything else has happened at once, or ends something.
LASTING = {"stop", "sleep"}
# After so long without a word of its end, a worker has outlived what was raised in it: it took it for an answer that
# cannot be read, say, and asked again.
OUTLIVED_S = 4.0


@dataclass
class Strike:
    """One fault that has happened, and may not be over."""

    fault: Fault
    action: str
    process: str
    worker: Worker | None  # None: a producer did it


class Watch:
    """Sees the faults of armed processes. Owned by one thread."""

    def __init__(self, tallies: Sequence[Path], *, expected: int, log: Path, frozen_s: float, held_up_s: float) -> None:
        self._tallies = dict.fromkeys(tallies, 0)
        self._expected = expected
        self._log = Tail(log)
        self._frozen_s, self._held_up_s = frozen_s, held_up_s
        self._strikes: list[Strike] = []
        self.lines: list[Line] = []
        self.done: list[Fault] = []

    @property
    def happened(self) -> int:
        """How many faults have happened, over or not."""
        return len(self.done) + len(self._strikes)

    def look(self, workers: Sequence[Worker | None]) -> bool:
        """Take in what happened, end what lasts; True once everything that was armed has happened and is over."""
        self.lines += self._log.read()
        for path, worker in zip(list(self._tallies), workers, strict=True):
            whole = path.read_text().rpartition("\n")[0].splitlines() if path.exists() else []
            self._strikes += [_strike(line, worker) for line in whole[self._tallies[path] :]]
            self._tallies[path] = len(whole)
        for strike in list(self._strikes):
            if _is_outlived(strike):
                strike.fault = replace(strike.fault, kind="outlived")
            if self._is_over(strike):
                self._strikes.remove(strike)
                self.done.append(replace(strike.fault, until=now()))
        return len(self.done) >= self._expected and not self._strikes

    def runs_in(self, worker: Worker) -> list[Line]:
        """What has started in a worker."""
        return [line for line in self.lines if line.what == "start" and line.worker == str(worker.pid)]

    def _is_over(self, strike: Strike) -> bool:
        fault = strike.fault
        if strike.action in LASTING:
            lasts_s = self._frozen_s if strike.process == "worker" else self._held_up_s
            if now() < fault.at + lasts_s:
                return False
            if strike.action == "stop":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(fault.pid, signal.SIGCONT)
            return True
        if fault.kind in ("cut", "sent twice", "outlived"):
            return True
        if strike.worker is None or fault.kind == "kill child":
            return not alive(fault.pid)
        if fault.kind == "kill worker" and strike.worker.process.poll() is None:
            return False
        below = {line.pid for line in self.lines if line.worker == fault.worker and line.at <= fault.at}
        return not any(map(alive, below))


def _is_outlived(strike: Strike) -> bool:
    worker = strike.worker
    return (
        strike.action == "raise"
        and strike.process == "worker"
        and worker is not None
        and now() > strike.fault.at + OUTLIVED_S
        and worker.process.poll() is None
        and not worker.events("worker.failed")
    )


def _strike(said: str, worker: Worker | None) -> Strike:
    point, action, pid, at = said.lstrip(".").split(" ")
    process = POINTS[point].process
    if action == "kill9_parent":
        process = PARENTS[process]
    if action in LASTING:
        kind = f"freeze {process}"
    elif action == "dup":
        kind = "sent twice"
    else:
        kind = "cut" if action == "cut" and process != "child" else ENDS[process]
    who = "" if worker is None else str(worker.pid)
    return Strike(Fault(kind, float(at), float(at), int(pid), who), action, process, worker)
