"""Histories made by hand, for the tests of the judge: one good story of each kind, in instants of whole seconds.

    story = Story("a").submit().run(1, 2).succeeded(3); story.history()

`joined(stories)` puts several into one history, with the books that a server would have of them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .records import Ended, Event, Fault, History, Line, Quiet, Stopped, Submitted

LEASE_S = 2.0


@dataclass
class Story:
    """What happened to one task. Each method tells what came next, and returns the story."""

    id: str = "q:a"
    pid: int = 11
    worker: str = "w1"
    attempt: int = 1
    fence: int = 0
    value: str = ""
    lines: list[Line] = field(default_factory=list)
    submitted: list[Submitted] = field(default_factory=list)
    stopped: list[Stopped] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def submit(self, at: float = 0, answer: Any = "accepted", **options: Any) -> Story:
        self.submitted.append(Submitted(self.id, at, at + 0.1, answer, **options))
        return self

    def start(self, at: float, *, fence: int | None = None, attempt: int | None = None) -> Story:
        """It starts, under the next fence unless another is given."""
        self.fence = self.fence + 1 if fence is None else fence
        self.attempt = attempt or self.attempt
        self.value = f"{self.attempt}.{self.fence}"
        return self._line("start", at)

    def end(self, at: float, how: Any = "returned", value: str | None = None) -> Story:
        """Its code ends. What raises makes the next start another attempt."""
        self._line("end", at, how=how, value=self.value if value is None else value)
        self.attempt += how in ("raised", "dies")
        return self

    def moves(self, worker: str, pid: int) -> Story:
        self.worker, self.pid = worker, pid
        return self

    def stop(self, at: float, answer: str, verb: Any = "cancel") -> Story:
        self.stopped.append(Stopped(self.id, verb, at, at + 0.1, answer))
        return self

    def told(self, at: float, state: str = "succeeded", how: str = "returned", **fields: Any) -> Story:
        """Its future has the outcome, and the server keeps the same one."""
        made = {"value": self.value, "fence": self.fence} if state in ("succeeded", "failed") else {}
        attempt = self.lines[-1].attempt if self.lines else 1
        ended = Ended(self.id, state, how, **{"attempt": attempt, "at": at, **made, **fields})
        self.ended += [ended, dataclasses.replace(ended, at=100.0, source="server")]
        return self

    def fault(self, kind: str, at: float, until: float | None = None) -> Story:
        self.faults.append(Fault(kind, at, at if until is None else until, self.pid, self.worker))
        return self

    def event(self, name: str, **fields: Any) -> Story:
        self.events.append(Event(name, self.worker, **{"task": self.id, **fields}))
        return self

    def history(self, **fields: Any) -> History:
        return joined([self], **fields)

    def _line(self, what: Any, at: float, **fields: Any) -> Story:
        self.lines.append(Line(what, self.id, self.attempt, self.fence, self.pid, self.worker, at, **fields))
        return self


def joined(stories: Iterable[Story], **fields: Any) -> History:
    """All of them as one history. `fields` are put in the place of its own."""
    stories = list(stories)
    parts = ("lines", "submitted", "stopped", "ended", "faults", "events")
    own: dict[str, Any] = {part: tuple(each for story in stories for each in getattr(story, part)) for part in parts}
    states = {end.id: end.state for end in own["ended"]}
    quiet = Quiet({"queued": 0, "claimed": 0}, dict(Counter(states.values())), frozenset(states))
    return History(**{**own, "quiet": quiet, "lease_s": LEASE_S, **fields})


def elsewhere(story: Story, n: int, later_s: float = 0.0) -> Story:
    """The same story in processes of its own, and so much later."""
    for part in ("lines", "submitted", "stopped", "ended", "faults", "events"):
        moved = []
        for record in getattr(story, part):
            instants = [name for name in ("at", "until", "asked", "answered") if hasattr(record, name)]
            fields: dict[str, Any] = {name: getattr(record, name) + later_s for name in instants}
            if part in ("lines", "faults", "events"):
                fields["worker"] = f"{record.worker}-{n}"
            if part in ("lines", "faults"):
                fields["pid"] = record.pid + 100 * n
            moved.append(dataclasses.replace(record, **fields))
        setattr(story, part, moved)
    return story


def plain(id_: str = "q:a") -> Story:
    return Story(id_).submit().start(1).end(2).told(3)


def retried(id_: str = "q:a") -> Story:
    """It raised once, and then returned."""
    return Story(id_).submit(retries=1).start(1).end(2, "raised").start(3).end(4).told(5)


def timed_out(id_: str = "q:a") -> Story:
    """Both of its attempts were too long."""
    story = Story(id_).submit(retries=1, timeout_s=1.0).start(1).start(3, attempt=2)
    return story.told(5, "timed_out", "killed")


def left_running(id_: str = "q:a") -> Story:
    """It was too long, in a thread, and returned when its next attempt was over."""
    story = Story(id_).submit(retries=1, timeout_s=1.0, pool="thread").start(1)
    first = story.lines[-1]
    story.start(3, attempt=2).end(4).told(5)
    story.lines.append(dataclasses.replace(first, what="end", at=6.0, how="returned", value="1.1"))
    return story


def failed(id_: str = "q:a") -> Story:
    return Story(id_).submit().start(1).end(2, "raised").told(3, "failed", "raised")


def cancelled(id_: str = "q:a") -> Story:
    return Story(id_).submit().stop(1, "cancelled").told(1.2, "cancelled", "never_started")


def cancelled_between(id_: str = "q:a") -> Story:
    """It raised, and was cancelled while it waited for its second attempt."""
    story = Story(id_).submit(retries=1).start(1).end(2, "raised").stop(3, "cancelled")
    return story.told(4, "cancelled", "never_started", attempt=1)


def stopped(id_: str = "q:a") -> Story:
    story = Story(id_).submit().start(1).stop(2, "running", "stop").end(2.5, "asked")
    return story.told(3, "cancelled", "noticed")


def expired(id_: str = "q:a") -> Story:
    return Story(id_).submit(deadline_s=1.0).told(2, "expired", "never_started")


def crashed(id_: str = "q:a") -> Story:
    """It killed its child three times."""
    story = Story(id_).submit()
    for n in range(3):
        story.moves("w1", 11 + n).start(1 + 2 * n).end(2 + 2 * n, "dies").event("task.lost_child")
    return story.told(7, "crashed", "host_died")


def crashed_by_others(id_: str = "q:a") -> Story:
    """It waited in the window of a worker that was killed, then it died twice by itself."""
    story = Story(id_).submit().moves("w0", 0).fault("kill worker", 0.5)
    for n in range(2):
        story.moves("w1", 11 + n).start(1 + 2 * n, attempt=2 + n).end(2 + 2 * n, "dies").event("task.lost_child")
    return story.told(5, "crashed", "host_died")


def crashed_after_a_drain(id_: str = "q:a") -> Story:
    """It began in a worker that was drained, waited in the window of one that was killed, then it died twice."""
    story = Story(id_).submit().moves("w3", 31).start(0.2).fault("drain worker", 0.3).end(0.4, "asked")
    story.moves("w0", 0).fault("kill worker", 0.5)
    for n in range(2):
        story.moves("w1", 11 + n).start(1 + 2 * n, attempt=2 + n).end(2 + 2 * n, "dies").event("task.lost_child")
    return story.told(5, "crashed", "host_died")


def started_once(id_: str = "q:a") -> Story:
    """Its worker was killed, and it may not start again."""
    story = Story(id_).submit(max_crashes=1).start(1).fault("kill worker", 2)
    return story.moves("w2", 21).event("worker.died", task="").told(3, "crashed", "host_died", attempt=2)


def raised_another(id_: str = "q:a") -> Story:
    """It ended with an error that names no run."""
    story = Story(id_).submit().start(1).end(2, "asked")
    return story.told(3, "failed", "raised", fence=None, value="out of luck")


def refused(id_: str = "q:a") -> Story:
    return Story(id_).submit(answer="refused")


def unknown(id_: str = "q:a") -> Story:
    return Story(id_).submit(answer="unknown")


def unknown_and_run(id_: str = "q:a") -> Story:
    return Story(id_).submit(answer="unknown").start(1).end(2).told(3)


def submitted_twice(id_: str = "q:a") -> Story:
    return Story(id_).submit(answer="unknown").submit(1).start(2).end(3).told(4)


def child_killed(id_: str = "q:a") -> Story:
    story = Story(id_).submit().start(1).fault("kill child", 2).event("task.lost_child")
    return story.moves("w1", 12).start(3, attempt=2).end(4).told(5)


def died(id_: str = "q:a") -> Story:
    """It killed its own child, and said so before."""
    story = Story(id_).submit().start(1).end(2, "dies").event("task.lost_child")
    return story.moves("w1", 12).start(3).end(4).told(5)


def worker_killed(id_: str = "q:a") -> Story:
    story = Story(id_).submit().start(1).fault("kill worker", 2)
    return story.moves("w2", 21).event("worker.died", task="").start(3, attempt=2).end(4).told(5)


def killed_unanswered(id_: str = "q:a") -> Story:
    """Its worker was killed while the server answered nobody: the others say so, and it said nothing any more."""
    story = Story(id_).submit().start(1).end(2).fault("kill worker", 3.4).moves("w2", 21).fault("no answer", 1.5, 3.5)
    return story.event("worker.died", task="").start(4, attempt=2).end(5).told(6)


def fork_server_killed(id_: str = "q:a") -> Story:
    story = Story(id_).submit().start(1).fault("kill fork server", 2).event("forkserver.died", task="")
    return story.moves("w1", 12).start(3).end(4).told(5)


def worker_frozen(id_: str = "q:a") -> Story:
    """Past its lease, while its child went on: that one's late outcome is refused."""
    story = Story(id_).submit().start(1).fault("freeze worker", 2, 6).event("outcome.refused")
    story.moves("w2", 21).event("tasks.rescued", task="").start(4.5, attempt=2).end(5).told(5.1)
    first = story.lines[0]
    story.lines.append(dataclasses.replace(first, what="end", at=5.5, how="returned", value="1.1"))
    return story


def stood_still(id_: str = "q:a") -> Story:
    story = worker_frozen(id_)
    story.faults = [dataclasses.replace(story.faults[0], kind="stood still")]
    return story


GOOD = (plain, retried, timed_out, left_running, failed, cancelled, cancelled_between, stopped, refused, unknown,
        unknown_and_run, submitted_twice, expired, crashed, crashed_by_others, crashed_after_a_drain,
        started_once, raised_another,
        child_killed, died, worker_killed, killed_unanswered, fork_server_killed, worker_frozen,
        stood_still)  # fmt: skip
