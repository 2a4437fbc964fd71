"""What the children of a pool say, and what the end of one means for the orders in it.

    child ── frames ──► readable ─► absorb ─┬─► outcomes ─► Pool.ending ─► Events.endings
                                            └─► lines, waits, cursors, progress ─► Events
    child ── its end ─► gone ─► what it had not taken: back in line; what ran in it: child_died, killed, host_died

This is the nursery's Keeper. Owned by the pool, on the worker's event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ..model import Ending, EndingKind
from . import frames
from .kid import Kid, Role

if TYPE_CHECKING:
    from .pool import Pool

# What a child tells of a task that runs in it: passed on as it is.
_OF_TASKS: Final[dict[int, Callable[..., None]]] = {
    frames.WAITING: lambda events, *fields: events.waiting(*fields),
    frames.RESUMED: lambda events, *fields: events.resumed(*fields),
    frames.CURSOR: lambda events, *fields: events.cursor(*fields),
    frames.GROUP: lambda events, *fields: events.group(*fields),
    frames.PROGRESS: lambda events, *fields: events.progressed(*fields),
}
_UNMARKED: Final = "its child took its token and died before it started"


class Hearing:
    """The ear of one pool: called by its nursery, and by its patrol before that uses force."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def serving(self, kid: Kid) -> None:
        """This child takes orders from now on."""
        assert kid.role is Role.SERVING
        self._pool.feed()

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Something for the log."""
        self._pool.event(name, level, **fields)

    def readable(self, kid: Kid) -> None:
        """This child's stream has something."""
        pool = self._pool
        endings: list[Ending] = []
        self.absorb(kid, kid.read(), endings)
        pool.part(kid)
        pool.feed()
        pool.tell(endings)

    def gone(self, kid: Kid, detail: str, *, host_died: bool) -> None:
        """This child has ended: sort out what was in it."""
        pool = self._pool
        endings: list[Ending] = []
        back = kid.take_back()
        if not kid.fault:
            self.absorb(kid, kid.drain(), endings)
        now = pool.now()
        was_idle = kid.idle
        marks = {number: started_ns for _, number, started_ns in kid.seen()}
        detail = f"{kid.fault} ({detail})" if kid.fault else detail
        # What a child with a fault had begun may have had its outcome in what nobody could read.
        exact = kid.plan.slots == 1 and (not kid.fault or len(kid.entries) == 1)
        for number in list(kid.entries):
            entry = kid.remove(number)
            assert entry is not None
            kind: EndingKind
            if number not in marks and (kid.killed or not kid.fault):
                endings.append(pool.ending(entry, "unstarted", detail=_UNMARKED))
                continue
            if number not in marks:
                # Its outcome may be in what could not be read, so it is no news that it has not started: each time it
                # did, it would come back as if nothing had happened.
                endings.append(pool.ending(entry, "child_died", exact=exact, detail=detail))
                continue
            if number in kid.condemned:
                kind = "killed"
            elif host_died or kid.killed:
                kind = "host_died"  # killed for another's sake, or with everybody: uncharged
            else:
                kind = "child_died"
            ran_s = now - marks[number] / 1e9 if marks[number] else None
            endings.append(pool.ending(entry, kind, ran_s=ran_s, exact=exact, detail=detail))
        for number in list(kid.quarantined):
            self._survivor_gone(kid, number, healthy=False)
        expected = was_idle or kid.killed
        name, level = ("child.ended", "info") if expected else ("child.died", "warning")
        pool.event(name, level, child=kid.pid, detail=detail)
        pool.line.give_back(back)
        if pool.closing:
            pool.return_line("the pool is closing")
        elif pool.line:
            pool.feed()  # what was lent has no place whose next child would ask for it
        pool.tell(endings)

    def absorb(self, kid: Kid, stream: Iterator[list[Any]], endings: list[Ending]) -> None:
        """Take what a child says. User code shares its descriptors: nonsense ends the child, not the worker."""
        if kid.fault:
            return  # after what made no sense nothing that it says is believed, until its kill has come
        now = self._pool.now()
        try:
            for frame in stream:
                if frame[0] == frames.OUTCOME:
                    self._outcome(kid, frame, endings, now)
                else:
                    self._heed(kid, frame)
        except frames.BrokenStream as error:
            if not kid.fault:
                self._pool.nursery.crash(kid, f"something in it wrote to qworker's stream: {error}")

    def _heed(self, kid: Kid, frame: list[Any]) -> None:
        pool = self._pool
        kind = frame[0]
        if kind == frames.OUTPUT:
            _, number, stream, text, fields = frame
            if number in kid.entries:
                pool.recorder.line(number, text)
            else:
                number = 0
            pool.events.output(number, stream, text, fields)
        elif kind == frames.STACK:
            pool.recorder.told(frame[1], frame[2])
        elif kind == frames.GONE:
            self._survivor_gone(kid, frame[1], healthy=False)
        elif kind in _OF_TASKS:
            if frame[1] in kid.entries:
                _OF_TASKS[kind](pool.events, *frame[1:])
        elif kid.ready:
            raise frames.BrokenStream("a word of its start, long after that")
        elif kind == frames.READY:
            pool.nursery.readied(kid)
        elif kind == frames.FAILED:
            pool.nursery.failed(kid, frame[1])

    def _outcome(self, kid: Kid, frame: list[Any], endings: list[Ending], now: float) -> None:
        pool = self._pool
        _, number, code, ran_s, retryable, delay_s, payload = frame
        kind = frames.KINDS[code]
        entry = kid.remove(number)
        if entry is None:
            self._survivor_gone(kid, number, healthy=True)
            return
        kid.progressed_at = now
        if not entry.lent:
            pool.line.moved_at = now
        kid.stalled = False
        # Past its deadline no child would start it: it ends here, and the worker records it as expired.
        if kind == "unstarted" and pool.ladder.asked(number) is None and not entry.overdue(now):
            pool.line.give_back([entry])
            return
        if ran_s is not None:
            pool.pace.learn(entry.order.name, ran_s)
        endings.append(pool.ending(entry, kind, payload, ran_s, delay_s=delay_s, retryable=bool(retryable)))

    def _survivor_gone(self, kid: Kid, number: int, *, healthy: bool) -> None:
        """A survivor's code has ended, or its child."""
        pool = self._pool
        if kid.survivor_gone(number, healthy=healthy):
            order = pool.left.remove(number)
            pool.event("survivor.gone", "info", child=kid.pid, task=order.id if order else None)
