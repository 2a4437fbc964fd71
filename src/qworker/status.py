"""What a task is doing, in words.

    broker.inspect ─► Inspection ─► describe ─► Status ─► fut.status(), WaitTimeout, receipts

Pure: values in, values and texts out.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import codec, durations
from .errors import DecodeError, WaitTimeout
from .lifecycle import OUTCOMES, How, State
from .model import Outcome, Progress
from .views import Inspection, StopReceipt

__all__ = [
    "MAY_RUN",
    "RAN_ON",
    "Status",
    "describe",
    "describe_outcome",
    "host_of",
    "progress_of",
    "progress_text",
    "stopped_late",
    "wait_timeout",
]

# An outcome is read long after it was recorded, and nothing is asked for it: so it is told as what was true then.
RAN_ON = "its code was still running then; see qworker dessert"
MAY_RUN = "an earlier start of it may run still: its worker went silent, or could not end it"


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a task at one moment; `str(status)` says it in a sentence.

    `state` is None when nothing is known of the id. `attempts` is how many it may take, `before` about how many tasks
    are before it in its line, `workers` how many workers serve its queue (None: it is neither queued nor scheduled, so
    they were not counted), `lease_left` what remains of its worker's lease (negative: that worker has gone silent).
    `still_running`: its code ran on when its outcome was recorded; whether it still does, `stop` and `qworker dessert`
    tell. `adrift`: an earlier start of it may run still, as its worker went silent, or could not end it.
    """

    id: str
    state: State | None
    name: str = ""
    how: How | None = None
    attempt: int = 0
    attempts: int = 0
    worker: str = ""
    ran_for: float | None = None
    before: int | None = None
    due_in: float | None = None
    lease_left: float | None = None
    workers: int | None = None
    stopping: bool = False
    still_running: bool = False
    reason: str = ""
    progress: Progress | None = None  # what it told last; None: nothing, or it has ended
    unmet: str = ""  # why none of the workers that serve its queue can run it
    adrift: bool = False

    @property
    def ended(self) -> bool:
        """Whether it has an outcome."""
        return self.state in OUTCOMES

    def __str__(self) -> str:
        return f"{self._sentence()}; {MAY_RUN}" if self.adrift else self._sentence()

    def _sentence(self) -> str:
        match self.state:
            case None:
                return "no task of this id is known"
            case State.SCHEDULED:
                due = "" if self.due_in is None else f", due in {durations.text(max(0.0, self.due_in))}"
                again = f" for {self._nth()}" if self.attempt > 1 else ""
                return f"scheduled{again}{due}{self._unserved()}"
            case State.QUEUED:
                return f"queued{self._place()}{self._unserved()}"
            case State.CLAIMED:
                perhaps = f"handed to {host_of(self.worker)} and perhaps running"
                return f"{perhaps}, {self._nth()}{self._way()}{self._troubles()}"
            case State.RUNNING:
                since = "" if self.ran_for is None else f" for {durations.text(self.ran_for)}"
                return f"running on {host_of(self.worker)}{since}, {self._nth()}{self._way()}{self._troubles()}"
            case _:
                return self._ending()

    def _nth(self) -> str:
        return f"attempt {self.attempt} of {self.attempts}" if self.attempts else f"attempt {self.attempt}"

    def _way(self) -> str:
        return "" if self.progress is None else f", {progress_text(self.progress)}"

    def _place(self) -> str:
        if self.before is None:
            return ""
        return f", about {self.before} before it" if self.before else ", next in its line"

    def _unserved(self) -> str:
        queue = self.id.partition(":")[0]
        if self.workers == 0:
            return f"; no worker serves queue {queue!r} on this server"
        return f"; no worker of queue {queue!r} {self.unmet}" if self.unmet else ""

    def _troubles(self) -> str:
        asked = ", asked to stop" if self.stopping else ""
        if self.lease_left is None or self.lease_left >= 0:
            return asked
        return f"{asked}; that worker is silent: its lease ended {durations.text(-self.lease_left)} ago"

    def _ending(self) -> str:
        where = f" on {host_of(self.worker)}" if self.worker else ""
        after = f" after {durations.text(self.ran_for)}" if self.ran_for is not None else ""
        reason = f" ({self.reason})" if self.reason else ""
        dessert = f"; {RAN_ON}" if self.still_running else ""
        assert self.state is not None
        return f"{self.state.replace('_', ' ')}{where}{after}{reason}{dessert}"


def describe(id: str, found: Inspection, *, name: str = "") -> Status:  # noqa: A002 - the public word
    """Return what an inspection found."""
    if found.outcome is not None:
        return describe_outcome(codec.unpack_outcome(found.outcome), name=name)
    if found.state is None:
        return Status(id, None, name=name, workers=found.workers)
    header_name, attempts = _of_blob(found.blob)
    record = found.record
    started_ms = record.started_ms if record else 0
    held = found.state in (State.CLAIMED, State.RUNNING)
    return Status(
        id,
        found.state,
        name=name or header_name,
        attempt=record.attempt if record else 1,
        attempts=attempts,
        worker=found.worker,
        ran_for=_seconds(found.now_ms - started_ms) if started_ms and held else None,
        before=found.before,
        due_in=None if found.due_ms is None else _seconds(found.due_ms - found.now_ms),
        lease_left=None if found.lease_ms is None or not held else _seconds(found.lease_ms - found.now_ms),
        workers=found.workers,
        stopping=record is not None and record.stop is not None,
        progress=progress_of(found),
        unmet=_unmet(found, header_name),
        adrift=record is not None and record.adrift,
    )


def _unmet(found: Inspection, name: str) -> str:
    if name in found.strangers:
        return f"knows {name}: a typing mistake, or start a worker that has it"
    try:
        need = "default" if found.blob is None else codec.line_of(found.blob).pool
    except DecodeError:
        return ""
    if need == "default" or not found.pools or need in found.pools:
        return ""
    return f"has {need} slots: start one with -c {need}=8"


def progress_of(found: Inspection) -> Progress | None:
    """Return how far a task said that it is; None where nothing is known, or nothing that can be read."""
    if found.progress is None:
        return None
    try:
        told = codec.unpack_told(found.progress)
    except DecodeError:
        return None
    return None if told is None else told.progress


def progress_text(progress: Progress) -> str:
    """Return how far a task is as people read it: `3 of 10 done: what it said`."""
    of = "" if progress.total is None else f" of {_number(progress.total)}"
    said = f": {progress.text}" if progress.text else ""
    return f"{_number(progress.done)}{of} done{said}"


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:,.2f}"


def describe_outcome(outcome: Outcome, *, name: str = "") -> Status:
    """Return how a task ended, as a status."""
    return Status(
        outcome.id,
        outcome.state,
        name=name,
        how=outcome.how,
        attempt=outcome.attempt,
        worker=outcome.worker,
        ran_for=outcome.ran_s,
        still_running=outcome.still_running,
        reason=outcome.reason,
        adrift=outcome.adrift,
    )


def wait_timeout(status: Status | None, *, shown: str, waited_s: float, trouble: str = "") -> WaitTimeout:
    """Return the error of a waiter whose time is up. Without a status, `trouble` says why there is none."""
    head = f"{shown} has not ended within {durations.text(waited_s)}: "
    if status is None:
        return WaitTimeout(head + trouble)
    return WaitTimeout(head + str(status), state=status.state, worker=status.worker or None, ran_for=status.ran_for)


def stopped_late(late: WaitTimeout, receipt: StopReceipt | None, *, trouble: str = "") -> WaitTimeout:
    """Return the error of a waiter who had the task stopped when its time was up.

    Without a receipt, `trouble` says why there is none.
    """
    if receipt is None:
        end = f"it could not be stopped, because {trouble}"
    elif receipt.outcome not in (None, State.CANCELLED):
        end = f"when it was to be stopped, {receipt.note}; result() has what came of it"
    else:
        runs = {True: "its code still runs", False: "its code does not run", None: "whether its code runs is not known"}
        end = f"it was stopped: {runs[receipt.still_running]}, after {durations.text(receipt.took)}: {receipt.note}"
    return WaitTimeout(f"{late}; {end}", state=late.state, worker=late.worker, ran_for=late.ran_for, receipt=receipt)


def host_of(worker: str) -> str:
    """Return the part of a worker's id that people know: its host."""
    return worker.partition(":")[0] or "a worker"


def _of_blob(blob: bytes | None) -> tuple[str, int]:
    if blob is None:
        return "", 0
    try:
        header = codec.read_header(blob)
    except DecodeError:
        return "(its header cannot be read)", 0
    return header.name, header.retries + 1


def _seconds(milliseconds: int) -> float:
    return milliseconds / 1000
