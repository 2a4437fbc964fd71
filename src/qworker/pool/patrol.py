"""The pool's rounds: look at the shared pages, ask the ladder, do what it says.

    scan: pages ──► what runs ──► ladder ──► flag | kill | quarantine
                └─► no pulse ──► wedged      └─► too many survivors ──► recycle
                └─► behind a stalled task ──► taken back

There is one timer: while something is in a child and not seen to run, every 20 ms (that is when its clock may have
started); else at the next limit of what runs; and every 100 ms while threads run, for their pulse.

The kill, in this order, so that it hits the attempt that it was meant for and takes nothing with it: take back the
tokens, read the frames that are there, look whether the attempt still owns its slot, order the successor, kill; and
when the process is gone, read what it still had sent. An outcome that is complete counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ..model import Ending
from .kid import Kid, Role
from .ladder import NEVER, Seen, limit_of

if TYPE_CHECKING:
    from .pool import Pool

_UNSEEN_S: Final = 0.02
_THREADS_S: Final = 0.1
_WEDGED_S: Final = 0.25
# Seen silent twice, so that a worker that was itself stopped for a while does not take its own pause for the child's.
_SILENT_TWICE_S: Final = 0.03
# Nothing went in or came out of a child for so long: what waits in it is taken back. With all its slots busy, or with
# one idle: then it only has to wake up, which takes long on a machine that has too much to do.
_STALLED_S: Final = 0.02
_ASLEEP_S: Final = 0.25
# Behind tasks that end, but more slowly than was learned of them, so long: taken back, for another slot may be idle.
_AHEAD_MAX_S: Final = 0.1
# A cancellation that was told to a loop has arrived after so long, unless the loop is blocked.
_THROWN_S: Final = 0.03
_GIVE_UP_S: Final = 0.5  # nothing left the line for so long: back to the worker
# Taken by a child, in none of its slots, and no outcome of it in the stream: after so long nobody expects one any more.
_VANISHED_S: Final = 10.0
_AGED_S: Final = 0.75  # and an order that no slot has started for so long, though others move: a second is promised


class Patrol:
    """The one timer of a pool, and what it does when it rings."""

    def __init__(self, pool: Pool, clock: Callable[[], float], *, max_survivors: int, recycle_timeout_s: float) -> None:
        self._pool = pool
        self._clock = clock
        self._max_survivors = max_survivors
        self._recycle_timeout_s = recycle_timeout_s
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    def wake(self, at: float) -> None:
        """Have a scan at `at`, or earlier."""
        if at >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self.scan)

    def wake_for_line(self, now: float) -> None:
        """Orders went into children, or could not: look soon whether they run."""
        if self._timer_at > now + _UNSEEN_S:
            self.wake(now + _UNSEEN_S)

    def close(self) -> None:
        """No more scans."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = NEVER

    def scan(self) -> None:
        """Look at everything once."""
        self.close()
        pool = self._pool
        now = self._clock()
        wake = NEVER
        running: list[Seen] = []
        started: list[int] = []
        where: dict[int, tuple[Kid, int]] = {}
        for kid in list(pool.nursery.kids):
            if kid.role is not Role.DYING and (kid.entries or kid.quarantined):
                wake = min(wake, self._look(kid, now, running, started, where))
        steps, next_limit = pool.ladder.scan(now, running)
        endings: list[Ending] = []
        for what, number, reason in steps:
            kid, slot = where[number]
            if what == "ask":
                kid.raise_flag(slot, number, reason)
                asked = pool.ladder.asked(number)
                assert asked is not None
                wake = min(wake, pool.recorder.watch(kid, slot, number, asked, now))
            elif kid.role is not Role.DYING:
                self._force(kid, slot, number, endings)
        if len(pool.line):
            pool.end_overdue(now, endings)
            # Before feeding: what no child has started for so long would only go in and be taken back once more.
            if pool.line.awaits_permit:
                pool.line.moved_at = now
            elif now - pool.line.moved_at >= _GIVE_UP_S:
                pool.return_line("stalled")
            else:
                pool.return_aged(now - _AGED_S)
            pool.feed()
            wake = min(wake, now + _UNSEEN_S)
        if started:
            pool.tell_started(started)
        pool.tell(endings)
        self.wake(min(wake, next_limit))

    def _look(
        self, kid: Kid, now: float, running: list[Seen], started: list[int], where: dict[int, tuple[Kid, int]]
    ) -> float:
        """Look at one child; returns when it must be looked at again."""
        pool = self._pool
        wake = NEVER
        marked = 0
        busy = False
        for slot, number, started_ns in kid.seen():
            busy = True
            entry = kid.entries.get(number)
            if entry is None:
                continue  # a survivor, or its outcome is in the stream
            marked += 1
            asked = pool.ladder.asked(number)
            if asked is None and now < entry.quiet_until:
                wake = min(wake, entry.quiet_until)
                continue  # with a thousand of them, this is what a scan does nearly always
            order = entry.order
            if not entry.seen:
                entry.seen = True
                if not entry.lent:
                    pool.line.moved_at = now
                started.append(number)
            began = started_ns / 1e9 if started_ns else None
            shielded_until = kid.page.shielded_until(slot, number)
            seen = Seen(number, began, order.timeout_s, order.grace_s, entry.deadline, shielded_until)
            if began is not None:
                entry.began, limit = began, limit_of(seen)[0]
                look_at = pool.recorder.foresee(kid, slot, number, order.grace_s, limit, now)
                entry.quiet_until = min(limit, look_at)
                wake = min(wake, look_at)
            running.append(seen)
            where[number] = (kid, slot)
            if asked is not None:
                kid.raise_flag(slot, number, asked.reason)  # it may have been asked before it had a slot
                wake = min(wake, pool.recorder.watch(kid, slot, number, asked, now))
        if kid.plan.threads and busy:
            wake = min(wake, now + _THREADS_S, self._feel_pulse(kid, now))
        if marked < len(kid.entries):
            wake = min(wake, now + _UNSEEN_S)
            full = marked >= kid.plan.slots
            # One that still starts is given its time: it says when it cannot.
            if kid.role is not Role.STARTING and now - kid.progressed_at >= (_STALLED_S if full else _ASLEEP_S):
                kid.stalled = True
                pool.take_back(kid)
                if self._has_lost(kid, now):
                    return wake
            elif full and now - kid.oldest_unstarted_at(marked) >= _AHEAD_MAX_S:
                pool.take_back(kid)
        else:
            kid.missing.clear()
        if kid.recycle_at is not None:
            if now >= kid.recycle_at:
                kid.recycle_at = None
                for number in list(kid.entries):
                    pool.ask(number, "recycle")
            else:
                wake = min(wake, kid.recycle_at)
        return wake

    def _has_lost(self, kid: Kid, now: float) -> bool:
        """Has an order vanished in a child? What waited in it has just been taken back, and it said nothing lately.

        User code shares its descriptors. What takes a token, or writes half a frame into which the rest of what the
        child says disappears, leaves an order that is nowhere: it would never end, and no limit of it be due.
        """
        marked = {number for _, number, _ in kid.seen()}
        # Code that holds the GIL may keep a thread for long between its token and its slot.
        if kid.role is Role.DYING or kid.silent_since is not None:
            kid.missing.clear()
            return False
        kid.missing = {number: kid.missing.get(number, now) for number in kid.entries if number not in marked}
        vanished = [number for number, since in kid.missing.items() if now - since >= _VANISHED_S]
        if not vanished:
            return False
        # This worker may have been stopped itself: what came meanwhile has not been read.
        endings: list[Ending] = []
        self._pool.hearing.absorb(kid, kid.drain(), endings)
        if not kid.fault and any(number in kid.entries for number in vanished):
            self._pool.nursery.crash(kid, f"{len(vanished)} order(s) vanished in it: user code took its descriptors")
        kid.missing.clear()
        self._pool.tell(endings)
        return True

    def _feel_pulse(self, kid: Kid, now: float) -> float:
        """Threads or coroutines run: does Python? Returns when to feel again, if that is soon."""
        if now - kid.page.pulse_ns / 1e9 <= _WEDGED_S:
            kid.silent_since = None
            if kid.wedged:
                kid.wedged = False  # it has its successor, so it just drains
                self._pool.event("child.recovered", "info", child=kid.pid)
            return NEVER
        if kid.silent_since is None:
            kid.silent_since = now
        elif not kid.wedged and now - kid.silent_since >= _SILENT_TWICE_S:
            self._wedge(kid)
        return now + _SILENT_TWICE_S if not kid.wedged else NEVER

    def _wedge(self, kid: Kid) -> None:
        """Code in it holds the GIL, or its process is stopped: nothing new for it, and another in its place."""
        pool = self._pool
        kid.wedged = True
        pool.event("child.wedged", "warning", child=kid.pid, running=len(kid.entries), survivors=len(kid.quarantined))
        if kid.quarantined:
            pool.end_kid(kid, None, "a survivor in it may hold the GIL")
        else:
            pool.retire(kid)

    # ── force ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _force(self, kid: Kid, slot: int, number: int, endings: list[Ending]) -> None:
        """Grace is over."""
        pool = self._pool
        if not kid.plan.threads or kid.wedged:
            pool.line.give_back(kid.take_back())
        pool.hearing.absorb(kid, kid.drain(), endings)
        entry = kid.entries.get(number)
        if entry is None:
            return  # its outcome was in the stream
        if kid.page.number(slot) != number:
            # It has ended this moment, and its outcome is in the stream; if it is not, the next scan sees that.
            pool.ladder.try_again(number)
            self.wake(self._clock() + _UNSEEN_S)
            return
        asked = pool.ladder.asked(number)
        assert asked is not None
        if self._shielded(kid, None if asked.reason == "recycle" else slot):
            # Its code entered a shield since the page was read; or a sibling is in one, that would die with this child.
            pool.ladder.try_again(number)
            self.wake(self._clock() + _UNSEEN_S)
        elif kid.plan.loop and not kid.wedged and self._clock() < asked.at + _THROWN_S:
            # The cancellation is under way: without any grace it would be told to run on when it has just ended.
            pool.ladder.try_again(number)
            self.wake(asked.at + _THROWN_S)
        elif not kid.plan.threads:
            pool.end_kid(
                kid, number, f"{asked.reason}: it still ran {asked.force_at - asked.at:.3g} s after it was asked"
            )
        elif asked.reason == "recycle":
            pool.end_kid(kid, None, "its recycling took too long")
        elif kid.wedged:
            pool.end_kid(kid, number, f"{asked.reason}: its grace is over, and its child does not answer")
        else:
            self._leave_running(kid, slot, number, endings)

    def _shielded(self, kid: Kid, slot: int | None) -> bool:
        """Must force wait for a shield, in this slot or (None) in any?"""
        now = self._clock()
        for index, number, _ in kid.seen():
            asked = self._pool.ladder.asked(number) if slot in (None, index) else None
            if asked is None:
                continue
            if now < min(asked.patience, kid.page.shielded_until(index, number)) or now < asked.held_until:
                return True
        return False

    def _leave_running(self, kid: Kid, slot: int, number: int, endings: list[Ending]) -> None:
        """It cannot be ended alone: tell the outcome, keep the slot out of the count, open a fresh one."""
        pool = self._pool
        now = self._clock()
        entry = kid.remove(number)
        assert entry is not None
        asked = pool.ladder.asked(number)
        assert asked is not None
        _, started_ns = kid.page.seen(slot)
        began = started_ns / 1e9 if started_ns else now
        kid.quarantine(number, slot)
        pool.left.add(entry.order, child=kid.pid, slot=slot, started=began, now=now, reason=asked.reason)
        endings.append(pool.ending(entry, "left_running", ran_s=now - began, detail="its code runs on"))
        pool.event("survivor.appeared", "warning", child=kid.pid, slot=slot, task=entry.order.id)
        if kid.role is Role.SERVING and len(kid.quarantined) >= self._max_survivors:
            kid.recycle_at = now + self._recycle_timeout_s
            pool.event("child.recycled", "warning", child=kid.pid, survivors=len(kid.quarantined))
            pool.retire(kid)
        pool.part(kid)
