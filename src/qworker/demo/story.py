"""The scenario: real work, and everything that can go wrong with it, one act after the other.

    open      a server, tasks in a queue that nobody serves yet, some of them cancelled, two workers
    hang      tasks that never end, in process and thread slots, with a timeout of 1 s and 1 s of grace
    stop      tasks that somebody stops while they run: some look up, some do not
    crash     kill -9 of a child in the middle of a task, kill -9 of a worker in the middle of everything
    settle    every outcome is in, what hung is gone, the other worker drains, the server ends
    compare   a plain loop over the same files

All of it happens in the main thread, except the counting of outcomes and the stops, which wait for their receipts.
`_until` is the heartbeat: whatever the story waits for, it reads the tasks' notes and looks after what hangs.
"""

from __future__ import annotations

import concurrent.futures
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..durations import text
from ..future import Future
from ..lifecycle import LIVE, How, State
from ..task import call
from ..views import StopReceipt
from . import processes, tasks
from .facts import Facts, Kill, Rescue, Seen
from .notes import Note, Notes
from .screen import Dark
from .stage import POLL_S, SLOTS, DemoFailed, Stage, Worker, logged_at
from .watch import Hung, Watch
from .work import Work

__all__ = ["Story"]

PATIENCE_S = 30.0  # for one event: longer than a lease, so that a rescue that is not at once is seen, too
ALL_WITHIN_S = 120.0
CHILD_KILLS = 3

Expected = frozenset[tuple[State, How]]
FINE: Expected = frozenset({(State.SUCCEEDED, How.RETURNED)})
FAILED: Expected = frozenset({(State.FAILED, How.RAISED)})
LATE_KILLED: Expected = frozenset({(State.TIMED_OUT, How.KILLED)})
LATE_LEFT: Expected = frozenset({(State.TIMED_OUT, How.LEFT_RUNNING)})
LATE_NOTICED: Expected = frozenset({(State.TIMED_OUT, How.NOTICED)})
NEVER: Expected = frozenset({(State.CANCELLED, How.NEVER_STARTED)})
STOPPED: Expected = frozenset({(State.CANCELLED, How.NOTICED)})
STOPPED_HARD: Expected = frozenset({(State.CANCELLED, How.KILLED)})


@dataclass(slots=True)
class Part:
    """One task of the play."""

    future: Future[Any]
    expected: Expected
    wrong: str = ""
    doubt: Callable[[Future[Any]], str] | None = None  # asked in the end: what is wrong with its value

    def seen(self) -> Seen:
        """Return what was seen of it."""
        outcome, wrong = self.future.outcome, self.wrong
        if self.doubt is not None and outcome is not None and (outcome.state, outcome.how) in self.expected:
            wrong = wrong or self.doubt(self.future)
        return Seen(self.future.id, self.future.name.rpartition(".")[2], self.expected, outcome, wrong)


class Story:
    """One performance. Owned by the main thread; the callbacks of futures only count."""

    def __init__(self, stage: Stage, screen: Dark, files: Sequence[Path]) -> None:
        self._stage, self._screen = stage, screen
        self._notes = Notes(stage.directory)
        self._watch = Watch(self._notes, screen)
        self._work = Work(files, stage.directory / "copies")
        self._work_began = self._work_ended = 0.0
        self._parts: list[Part] = []
        self._kills: list[Kill] = []

    def play(self) -> Facts:
        """Play it, and return what was seen.

        Raises:
            DemoFailed: it could not go on.
        """
        a, b = self._open()
        self._hang()
        self._stop()
        self._kill_child()
        rescue = self._kill_worker(a, b)
        self._wait_for_all()
        drained, left_behind = self._end(b)
        self._screen.event("checking", "the same work again, in a plain loop in this process")
        self._screen.bar("loop", "plain loop", len(self._work.files))
        sums = self._work.compare(self._work_ended - self._work_began, tick=self._tick)
        return Facts(
            seconds=time.monotonic() - self._stage.began,
            files=len(self._work.files),
            python=platform.python_version(),
            server=Path(self._stage.server.binary).name,
            slots=SLOTS,
            seen=[part.seen() for part in self._parts],
            notes=self._notes.all,
            forced=self._watch.forced(),
            survived=self._watch.survived(),
            kills=self._kills,
            rescue=rescue,
            drained=drained,
            left_behind=left_behind,
            sums=sums,
        )

    # The acts.

    def _open(self) -> tuple[Worker, Worker]:
        stage = self._stage
        self._screen.event("server", f"a private {Path(stage.server.binary).name}, in {stage.directory}")
        self._screen.bar("parse", "parse", len(self._work.files))
        self._screen.bar("copy", "copy and hash", len(self._work.files))
        stage.on_close(tasks.app.close)
        began = time.monotonic()
        parsed, copied = self._work.submit()
        behind = tasks.never_to_start.submit_many([call()] * 15)
        later = tasks.never_to_start.options(delay="1m").submit_many([call()] * 10)
        took_s = time.monotonic() - began
        self._cast(parsed, FINE, "parse")
        self._cast(copied, FINE, "copy")
        waiting = self._cast([*behind, *later], NEVER)
        self._screen.event("submitted", f"{len(self._parts):,} tasks in {text(took_s)}; nobody serves them yet")
        for part in waiting:
            if not part.future.cancel():
                part.wrong = "cancel() returned False while it waited"
        self._screen.event("cancelled", f"{len(waiting)} of them while they wait, in line or for their time")
        self._work_began = time.monotonic()
        a = self._start("A")
        return a, self._start("B")  # when A is known, so that B watches A from its first moment on

    def _start(self, label: str) -> Worker:
        worker = self._stage.start_worker(label)
        self._stage.wait_ready(worker)
        slots = " and ".join(f"{count} {kind}" for kind, count in SLOTS.items())
        self._screen.event("worker", f"{label} is there (pid {worker.pid}), with {slots} slots")
        return worker

    def _hang(self) -> None:
        cast = (
            (tasks.sleep_for_ever, "time.sleep for ever", "process", LATE_KILLED),
            (tasks.spin_for_ever, "busy loop", "process", LATE_KILLED),
            (tasks.regex_for_ever, "regex stuck in C", "process", LATE_KILLED),
            (tasks.deaf_with_child, "deaf, with a child", "process", LATE_KILLED),
            (tasks.notice_the_timeout, "current.sleep for ever", "process", LATE_NOTICED),
            (tasks.sleep_in_a_thread, "time.sleep, thread", "thread", LATE_LEFT),
        )
        for task, what, pool, expected in cast:
            future = task.options(priority="high").submit()
            self._cast([future], expected)
            limit_s, grace_s = (task.settings.timeout_ms or 0) / 1000, task.settings.grace_ms / 1000
            self._watch.add(Hung(future, what, pool, f"{limit_s:g} + {grace_s:g} s"))
        self._screen.event("trouble", f"{len(cast)} tasks that never end (timeout 1 s, then 1 s of grace)")
        flaky = tasks.flaky.options(priority="high").submit_many([call(3)] * 20)
        broken = tasks.broken.options(priority="high").submit_many([call(number) for number in range(5)])
        self._cast(flaky, FINE, doubt=_third_attempt)
        self._cast(broken, FAILED, doubt=_division_error)
        self._screen.event("trouble", f"{len(flaky)} tasks that fail twice before they succeed, {len(broken)} for good")

    def _stop(self) -> None:
        cast = (
            (tasks.polite, "current.check, process", "process", STOPPED, None),
            (tasks.polite_in_a_thread, "current.check, thread", "thread", STOPPED, None),
            (tasks.stubborn, "time.sleep, stopped", "process", STOPPED_HARD, 0.5),
            (tasks.stubborn, "time.sleep, no grace", "process", STOPPED_HARD, 0.0),
        )
        stops: list[tuple[Part, Hung, float | None]] = []
        for task, what, pool, expected, grace_s in cast:
            future = task.options(priority="high").submit()
            order = f"stop + {task.settings.grace_ms / 1000 if grace_s is None else grace_s:g} s"
            stops.append((self._cast([future], expected)[0], Hung(future, what, pool, order), grace_s))
        self._until(
            lambda: all(self._notes.starts[part.future.id] for part, _, _ in stops), "what is to be stopped has started"
        )
        self._screen.event("stop", f"{len(stops)} tasks that run")
        for _, hung, _ in stops:
            self._watch.add(hung)
        receipts: dict[str, StopReceipt] = {}

        def stop(future: Future[Any], grace_s: float | None) -> None:
            receipts[future.id] = future.stop(PATIENCE_S, grace_s)

        for part, _, grace_s in stops:
            # A daemon: whoever interrupts the demo does not wait for receipts.
            threading.Thread(target=stop, args=(part.future, grace_s), daemon=True).start()
        self._until(lambda: len(receipts) == len(stops), "the stops are answered", PATIENCE_S + 5)
        for part, hung, _ in stops:
            part.wrong = self._watch.doubt(hung, receipts[part.future.id])

    def _kill_child(self) -> None:
        """kill -9 a child in the middle of a task; which child that is, the task wrote down."""
        for share in range(CHILD_KILLS):
            [part] = self._cast(self._work.census(slice(share, share + 1)), FINE)
            if self._kill_child_of(part):
                return
        raise DemoFailed(f"killed a child {CHILD_KILLS} times, and each time its task had already ended")

    def _kill_child_of(self, part: Part) -> bool:
        """Kill the child that runs this task; False if the machine was so slow that it had gone on to another one."""
        starts = self._notes.starts[part.future.id]
        self._until(lambda: starts, "a census has started")
        first = starts[0]
        processes.kill(first.pid)
        kill = Kill(time.monotonic(), first.pid)
        self._kills.append(kill)
        self._screen.event("killed -9", f"a child (pid {first.pid}) of worker {first.worker}, in the middle of a task")
        # Were its task still running when a worker is killed, too, it would be twice a suspect, and run alone.
        self._until(part.future.done, "its task has ended")
        self._notes.read()
        if len(starts) == 1:
            return False
        self._screen.event("again", f"its task ran in another child, {text(starts[1].at_s - kill.at_s)} later")
        return True

    def _kill_worker(self, victim: Worker, other: Worker) -> Rescue:
        """kill -9 a worker that holds a window, and see what the other one does about it."""
        self._until(self._watch.all_told, "what hangs has an outcome")
        other.process.send_signal(signal.SIGTSTP)  # quiet: it claims nothing, so that the victim gets the next window
        self._until(lambda: list(other.events("worker.quiet")), f"worker {other.label} is quiet")
        census = self._cast(self._work.census(slice(len(self._kills), None)), FINE)
        self._until(lambda: self._caught(victim, census), f"worker {victim.label} runs a census")
        # Before the kill: the other one may start them again before this process sees that the victim is gone.
        self._notes.read()
        running = self._running_in(victim, self._parts)
        kill, killed_at = Kill(time.monotonic(), victim.pid, victim.label), time.time()
        self._stage.kill(victim)
        other.process.send_signal(signal.SIGCONT)
        self._kills.append(kill)
        self._screen.event("killed -9", f"worker {victim.label}, while it runs {len(running)} tasks")
        return self._see_rescue(kill, killed_at, running, other)

    def _caught(self, victim: Worker, census: Iterable[Part]) -> bool:
        """Freeze a worker while it runs some of these: what has no outcome on the server then, gets none from there.

        Without that, on a busy machine, the last of them could end between the look and the kill. The server is asked
        twice: what the worker had sent before it stood still, it has read by its second answer, not always the first.
        """
        running = self._running_in(victim, census)
        if not running:
            return False
        self._stage.freeze(victim)
        for _ in range(2):
            running = [part for part in running if part.future.status().state in LIVE]
        if running:
            return True
        victim.process.send_signal(signal.SIGCONT)
        return False

    def _see_rescue(self, kill: Kill, killed_at: float, seen: Sequence[Part], other: Worker) -> Rescue:
        found = self._until(lambda: list(other.events("worker.died")), "the other one has noticed", required=False)
        held = back_s = None
        if found:
            held, back_s = int(found[0]["rescued"]), max(0.0, logged_at(found[0]) - killed_at)
            self._screen.event(
                "rescued", f"worker {other.label} put its window of {held} back in line in {text(back_s)}"
            )

        def cut_short() -> list[str]:
            # First who has ended: who ran again and ended has written its start by then.
            ended = {part.future.id for part in seen if part.future.done()}
            self._notes.read()
            return which_were_cut_short([part.future.id for part in seen], ended, self._notes.starts, kill)

        self._until(
            lambda: all(starts_after(kill, self._notes.starts[id_]) for id_ in cut_short()), "they have started again",
            required=False,
        )  # fmt: skip
        running = cut_short()
        after_s = [
            min(starts) - kill.at_s for id_ in running if (starts := starts_after(kill, self._notes.starts[id_]))
        ]
        if after_s:
            first, last = text(min(after_s)), text(max(after_s))
            self._screen.event("again", f"what it ran runs again: first after {first}, all after {last}")
        return Rescue(
            held=held,
            back_s=back_s,
            running=len(running),
            first_s=min(after_s, default=None),
            last_s=max(after_s) if after_s and len(after_s) == len(running) else None,
        )

    def _wait_for_all(self) -> None:
        def all_done() -> bool:
            return all(part.future.done() for part in self._parts)

        self._until(all_done, "every task has an outcome", ALL_WITHIN_S, required=False)
        self._until(self._watch.all_gone, "what hung is gone", required=False)
        ended = Counter(part.future.outcome.state for part in self._parts if part.future.outcome is not None)
        self._screen.event("done", ", ".join(f"{n:,} {state.replace('_', ' ')}" for state, n in ended.most_common()))

    def _end(self, worker: Worker) -> tuple[int | None, list[str]]:
        """End it in order; return the worker's exit code, and what is left of it all."""
        drained = self._stage.drain(worker)
        self._look()
        self._stage.end_server()
        left_behind = self._stage.left_behind()
        self._screen.event("drained", f"worker {worker.label}, exit code {drained}; {len(left_behind)} processes left")
        return drained, left_behind

    # What the acts share.

    def _cast(
        self,
        futures: Iterable[Future[Any]],
        expected: Expected,
        bar: str = "",
        *,
        doubt: Callable[[Future[Any]], str] | None = None,
    ) -> list[Part]:
        def count(_: concurrent.futures.Future[Any]) -> None:
            if bar:
                self._work_ended = time.monotonic()
                self._screen.advance(bar)

        parts = [Part(future, expected, doubt=doubt) for future in futures]
        self._parts += parts
        for part in parts:
            part.future.add_done_callback(count)  # also has the client ask for an outcome whose push got lost
        return parts

    def _running_in(self, worker: Worker, parts: Iterable[Part]) -> list[Part]:
        """Return those that last started in that worker, and have no outcome."""
        starts = self._notes.starts
        return [
            part
            for part in parts
            if not part.future.done() and starts[part.future.id] and starts[part.future.id][-1].worker == worker.label
        ]

    def _until(
        self, seen: Callable[[], Any], what: str, patience_s: float = PATIENCE_S, *, required: bool = True
    ) -> Any:
        """Go on until something is seen, and return it.

        Raises:
            DemoFailed: it is not seen in time, and nothing can follow without it.
        """
        ends = time.monotonic() + patience_s
        while not (found := seen()):
            if time.monotonic() > ends:
                if required:
                    raise DemoFailed(f"waited {text(patience_s)} for this, in vain: {what}")
                break
            time.sleep(POLL_S)
            self._look()
        return found

    def _look(self) -> None:
        self._stage.check()
        self._notes.read()
        self._watch.look()
        self._screen.pulse()

    def _tick(self) -> None:
        self._screen.advance("loop")
        self._screen.pulse()


def starts_after(kill: Kill, starts: Iterable[Note]) -> list[float]:
    """Return when a task started elsewhere after a worker was killed."""
    return [note.at_s for note in starts if note.worker != kill.worker and note.at_s > kill.at_s]


def which_were_cut_short(
    ids: Iterable[str], ended: Collection[str], starts: Mapping[str, Sequence[Note]], kill: Kill
) -> list[str]:
    """Return which of the tasks that ran in a worker, as far as was seen, its kill cut short.

    Whatever has an outcome, and started nowhere else, ended just before the kill: its outcome was on its way here then.
    """
    return [id_ for id_ in ids if id_ not in ended or starts_after(kill, starts[id_])]


def _third_attempt(future: Future[Any]) -> str:
    value = future.result(0)
    # It may have lost attempts to the kill of its worker, but never has it succeeded before its third.
    return "" if value >= 3 else f"it returned from attempt {value}, and fails until its third"


def _division_error(future: Future[Any]) -> str:
    error = future.exception(0)
    return "" if isinstance(error, ZeroDivisionError) else f"it raised ZeroDivisionError, and {error!r} arrived"
