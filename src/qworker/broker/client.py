"""The producer's client: one per process and app, with one I/O thread around one subscribed connection.

    submit ──────────────────► Sending ─► Broker.submit     in the caller's thread, one connection of the pool
    submit_soon ─► posts ─┐
    watch, keep ─► registry
                          ▼
    I/O thread: wait for a push, a wake-up or the next question ─► Heard settles futures
                pushes:    outcomes, or ids of large ones, which are fetched; what running tasks told of their progress
                questions: `peek` at what is awaited, a bounded number every 2 s, all after a reconnect, and often at
                           what is not pushed to this client; `expire` what is past its deadline and still waits
    beats:     the leases of the task groups that this process has opened

A push is only a hint: whatever is lost on the way is found by asking. Nothing here decodes values or runs callbacks.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from .. import codec, ids
from ..errors import BrokerError, BrokerUnavailable, DecodeError
from ..lifecycle import State
from ..model import Draft
from ..views import Inspection, Peeked
from . import unstarted
from .broker import Broker
from .cluster import is_cluster
from .following import Following
from .heard import Heard
from .listening import Listening
from .owned import OwnedGroups
from .registry import Awaited, Registry
from .sending import DEADLINE_SLACK_S, Post, Sending
from .values import StopAnswer

if TYPE_CHECKING:
    from ..views import WorkerRecord

__all__ = ["Client"]

_log = logging.getLogger("qworker.client")

ROUND_EVERY_S = 2.0
PEEK_SIZE = 64  # ids a call; each may bring an outcome of 1 MiB
FETCH_SIZE = 4  # of outcomes that are known to be large, until it is known how large
FETCH_BYTES = 4 << 20
LOOK_TIMEOUT_S = 1.0  # for questions that must not hold up anybody
EXIT_WAIT_S = 0.05


class Client:
    """What an app's futures are awaited by. Any thread may use it; the I/O thread owns the ear."""

    def __init__(self, address: Callable[[], str], *, namespace: str = "default", timeout_s: float = 5.0) -> None:
        """Connect and subscribe. `address` gives the server's URL, and is asked again when the server is gone.

        Raises:
            BrokerUnavailable: no subscription was confirmed within `timeout_s`.
        """
        self.id = ids.new_token()
        self._pid = os.getpid()
        self._closing = False
        self._exiting = False  # with the interpreter: the daemon threads that wait stay where they are
        url = address()
        self._broker = Broker(url, namespace, timeout_s=timeout_s, role="producer", instance=self.id)
        self._look = Broker(url, namespace, timeout_s=LOOK_TIMEOUT_S, role="peek", instance=self.id)
        self.registry = Registry()
        self._heard = Heard(self.registry)
        self._following = Following(self._look, self.registry)
        self._sending = Sending(self.id, self._broker, self.registry)
        self.groups = OwnedGroups(self._broker, self._look, self._sending.now_ms)
        self._posts: deque[Post] = deque()
        self._fetch_size = FETCH_SIZE
        self._round_at = 0.0
        self._alone = not is_cluster(url)  # what one queue's server does not answer, no other queue's does
        self._paused: dict[str, float] = {}  # queue of which something could not be asked -> when to ask again
        self._ear = Listening(self._broker, self.id, address, timeout_s=timeout_s)
        self._thread = threading.Thread(target=self._work, name="qworker-io", daemon=True)
        self._thread.start()
        _clients.add(self)

    @property
    def usable(self) -> bool:
        """Whether it is open, and of this process: a forked child needs a client of its own."""
        return not self._closing and self._pid == os.getpid()

    @property
    def closed(self) -> bool:
        """Whether who waits is to be told that it was closed, so that nothing will be settled any more."""
        return self._closing and not self._exiting

    # For App and Future

    def submit(self, drafts: Sequence[Draft], futures: Sequence[Awaited]) -> None:
        """Queue tasks; returns when all are confirmed. See `Sending.submit` for what it raises."""
        if self._sending.submit(drafts, futures):
            self._ear.wake()

    def submit_soon(self, draft: Draft, future: Awaited, answer: Callable[[BaseException | None], None]) -> None:
        """Queue a task from the I/O thread, together with others that wait; `answer` is called there."""
        self._posts.append(Post(draft, future, answer))
        self._ear.wake()
        if self._closing:
            self._refuse_posts()  # the I/O thread may have looked for the last time just before the append

    def watch(self, future: Awaited) -> None:
        """See to it that the future is settled when its task ends, although it may have been submitted elsewhere."""
        if not self.registry.knows(future):
            self.registry.add((future,), own=False)
            self.registry.hurry((future.id,))
            self._ear.wake()

    def hear(self, future: Awaited, timeout_s: float | None) -> None:
        """Listen in this thread, if no other does, until the future is settled or the time is up."""
        if self._ear.heard_here:
            # Nobody hears a push until this signal's handler returns: so the I/O thread asks.
            self._ear.deafen()
            self.registry.hurry((future.id,))
            self._ear.wake()
            return
        let_go = self._ear.let_go
        if future.add_waker(let_go):
            try:
                self._ear.hear(self._take_heard, lambda: future.done() or self._closing, timeout_s)
            except BaseException:  # Ctrl-C, perhaps in the middle of a push: the rest of it is asked for
                self._heard.missed = True
                self._ear.mend()
                raise
            finally:
                future.remove_waker(let_go)
            if self.closed:
                self._end_thread(1.0)

    def keep(self, future: Awaited) -> None:
        """As `watch`, and hold the future until then."""
        self.watch(future)
        self.registry.keep(future)

    def follow(self, future: Awaited) -> None:
        """As `keep`, and have the future told of its task's progress, although that may be pushed to another client."""
        self.keep(future)
        if not self.registry.is_pushed(future):
            self._following.add(future.id)
            self._ear.wake()

    def inspect(self, id: str, *, timeout_s: float | None = None) -> Inspection:  # noqa: A002 - the public word
        """Ask what a task is doing; with a timeout, for at most about so long."""
        queue, local = ids.split_id(id)
        broker = self._broker if timeout_s is None else self._look
        found = broker.inspect(queue, local)
        deadline_ms = found.record.deadline_ms if found.record else 0
        if found.state in (State.QUEUED, State.SCHEDULED) and 0 < deadline_ms <= found.now_ms:
            broker.expire(queue, (local,), value_of=self._never_started(queue, State.EXPIRED))
            found = broker.inspect(queue, local)
        elif found.state in (State.QUEUED, State.SCHEDULED) and deadline_ms and self.registry.futures(id):
            # Of what was submitted elsewhere nobody here knew it: whoever waits is to learn that it has expired.
            left_s = (deadline_ms - found.now_ms) / 1000
            self.registry.set_deadline(id, time.monotonic() + left_s + DEADLINE_SLACK_S)
            self._ear.wake()
        return found

    def stop(self, id: str, *, cancel_only: bool, grace_ms: int | None) -> StopAnswer:  # noqa: A002
        """Cancel a task that was not handed out; unless `cancel_only`, ask for the end of one that was."""
        queue, local = ids.split_id(id)
        value_of = self._never_started(queue, State.CANCELLED)
        mode = "cancel" if cancel_only else "stop"
        answer = self._broker.stop(queue, (local,), mode=mode, grace_ms=grace_ms, value_of=value_of)[0]
        if answer.code == "cancelled" and answer.outcome is None:
            return dataclasses.replace(answer, outcome=value_of(local))
        return answer

    def cancel_many(self, full_ids: Sequence[str]) -> None:
        """Cancel those of these tasks that were not handed out, some hundred per round trip; settle their futures."""
        for queue, locals_ in ids.by_queue(full_ids):
            for outcome in unstarted.cancel(self._broker, queue, locals_, self._sending.now_ms()):
                self._heard.learn(outcome)

    def worker(self, worker: str) -> WorkerRecord | None:
        """Return what a worker told of itself lately; None if it did not, or nobody answers."""
        try:
            return next((record for record in self._look.workers() if record.id == worker), None)
        except BrokerError:
            return None

    def close(self, *, wait_s: float = 1.0, wake_waiters: bool = True) -> None:
        """End the I/O thread and the connections. Whoever waits for a future is told; the tasks stay queued."""
        if self._closing:
            return
        self._exiting = not wake_waiters
        self._closing = True
        self._ear.wake()
        # Below a signal's handler that closes there may be a wait: the I/O thread can end when that goes on.
        if not self._ear.heard_here:
            self._end_thread(wait_s)
        self._refuse_posts()
        if wake_waiters:
            for future in self.registry.all():
                future.wake_waiters()
        self.groups.let_go()
        self._broker.close()
        self._look.close()

    def _end_thread(self, wait_s: float) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join(wait_s)
        if not self._thread.is_alive():
            self._ear.close_bell()

    def leave_parent(self) -> None:
        """In a forked child: let go of what is the parent's, without a word on its connections."""
        self._closing = True
        for future in self.registry.leave_parent():
            future.forget_parent()
        self._ear.leave_parent()

    # The I/O thread

    def _work(self) -> None:
        try:
            while not self._closing:
                try:
                    self._turn()
                except BrokerError as error:
                    self._ear.lost(error)
                except Exception:
                    # Nobody else would settle futures: whatever it was, go on, but not in a tight loop.
                    _log.exception("unexpected error in the I/O thread of a qworker client; going on")
                    self._ear.lost(None)
            self._heard.settle_later()  # an outcome that the main thread heard last, and left to this one
        finally:
            self._ear.end()

    def _turn(self) -> None:
        self._heard.settle_later()  # whether there is a server or not
        now = time.monotonic()
        held_up = False  # by a thread that listens and has not returned yet: meanwhile there is only asking
        if not self._ear.connected and now >= self._ear.again_at:
            held_up = not self._ear.reconnect()
            self._heard.missed = self._heard.missed or not held_up
        if self._posts:
            self._send_posts()
        if now >= self._ear.again_at:
            self._ask(now)
        self._wait(held_up=held_up)
        self._ear.take_messages(self._heard.take)

    def _wait(self, *, held_up: bool) -> None:
        due = min(
            self._round_at, self.registry.next_hurried(), self.registry.next_deadline(), self._following.next()
        )  # fmt: skip
        if not self._ear.connected and not held_up:
            due = 0.0  # to connect, as soon as that may be
        left_s = max(0.0, max(due, self._ear.again_at) - time.monotonic())
        if self._posts or (self._heard.waits and time.monotonic() >= self._ear.again_at):
            left_s = 0.0
        self._ear.wait(left_s)

    def _take_heard(self, message: bytes) -> None:
        self._heard.take(message)
        if self._heard.waits:
            self._ear.wake()  # the I/O thread sees to it; who hears may be waiting for this very answer

    def _ask(self, now: float) -> None:
        if self._heard.large:
            self._fetch_outcomes()
        self._peek(self.registry.hurried(now))
        if self._heard.missed or now >= self._round_at:
            self.groups.beat()  # first: the others may take long, and a group without beats has lost its owner
            self._ask_round()
            self._round_at = time.monotonic() + ROUND_EVERY_S
        self._following.ask(now, self._ask_of)
        late = ids.by_queue(self.registry.past_deadline(now))
        while late:
            queue, locals_ = late.pop()
            try:
                asked = self._ask_of(queue, partial(self._expire, queue, locals_))
            except BaseException:
                self._expire_later(now, (queue, locals_), *late)
                raise
            if not asked:
                self._expire_later(now, (queue, locals_))
        self._ear.answered()

    def _ask_round(self) -> None:
        everything = self._heard.missed
        if everything:
            self._heard.missed = False  # at first: what is missed from now on is asked for again
        try:
            wanted = self.registry.next_round(everything=everything)
            self._peek(wanted)
            if wanted:
                self._ear.check()
        except BaseException:
            self._heard.missed = self._heard.missed or everything
            raise

    def _ask_of(self, queue: str, ask: Callable[[], object]) -> bool:
        """Ask something about one queue. False: it could not be answered, and what there is of other queues can be.

        On a cluster each has a server of its own; a key of another type, or a queue that this user may not read, is no
        reason to be deaf for all others, either.

        Raises:
            BrokerUnavailable: the one server of all of them did not answer.
        """
        if self._paused.get(queue, 0.0) > time.monotonic():
            return False
        try:
            ask()
        except (BrokerError, DecodeError) as error:
            if self._alone and isinstance(error, BrokerUnavailable):
                raise
            if queue not in self._paused:
                _log.warning("results of queue %r are late until it can be asked about: %s", queue, error)
            self._paused[queue] = time.monotonic() + ROUND_EVERY_S
            return False
        self._paused.pop(queue, None)
        return True

    def _expire_later(self, now: float, *late: tuple[str, Sequence[str]]) -> None:
        for queue, locals_ in late:
            for local in locals_:
                self.registry.set_deadline(ids.join_id(queue, local), now + 1.0)

    def _fetch_outcomes(self) -> None:
        large = self._heard.large
        for queue, locals_ in ids.by_queue(list(large)):
            if not self._ask_of(queue, partial(self._fetch_some, queue, locals_)):
                left = {ids.join_id(queue, local) for local in locals_} & large
                large -= left
                self.registry.hurry(left)  # which asks again, and again after a while

    def _fetch_some(self, queue: str, locals_: Sequence[str]) -> None:
        while locals_:
            part, locals_ = locals_[: self._fetch_size], locals_[self._fetch_size :]
            self._fetch_size = FETCH_SIZE  # for the next time, should this fail
            found = self._look.outcomes(queue, part)
            largest = max(len(outcome or b"") for outcome in found)
            self._fetch_size = max(FETCH_SIZE, min(PEEK_SIZE, FETCH_BYTES // max(1, largest)))
            for local, outcome in zip(part, found, strict=True):
                full = ids.join_id(queue, local)
                self._heard.large.discard(full)
                if outcome is None:
                    self.registry.hurry((full,))  # it has expired: a peek says what that means
                else:
                    self._take_peek(queue, Peeked(local, outcome=outcome))

    def _peek(self, wanted: Sequence[str]) -> None:
        for queue, locals_ in ids.by_queue(wanted):
            for start in range(0, len(locals_), PEEK_SIZE):
                if not self._ask_of(queue, partial(self._peek_some, queue, locals_[start : start + PEEK_SIZE])):
                    break
                # Of many thousands the pushed ones do not wait for the others.
                self._ear.take_messages(self._heard.take)

    def _peek_some(self, queue: str, locals_: Sequence[str]) -> None:
        asked = self.registry.asking()
        for found in self._look.peek(queue, locals_):
            self._take_peek(queue, found, asked)

    def _take_peek(self, queue: str, found: Peeked, asked: int = 0) -> None:
        full = ids.join_id(queue, found.id)
        if found.outcome is not None:
            try:
                self._heard.settle(full, codec.unpack_outcome(found.outcome))
            except DecodeError as error:
                _log.warning("the outcome of task %s cannot be read: %s", full, error)
        elif not found.alive:
            for future, own in self.registry.take_sent(full, asked):
                future.give_up(submitted_here=own)

    def _expire(self, queue: str, locals_: Sequence[str]) -> None:
        value_of = self._never_started(queue, State.EXPIRED)
        for answer in self._look.expire(queue, locals_, value_of=value_of):
            full = ids.join_id(queue, answer.id)
            if answer.outcome is not None:
                self._heard.settle(full, codec.unpack_outcome(answer.outcome))
            elif answer.code == "expired":
                self._heard.settle(full, codec.unpack_outcome(value_of(answer.id)))
            elif answer.code == "waiting":  # its clock is behind ours
                self.registry.set_deadline(full, time.monotonic() + 1.0)

    def _send_posts(self) -> None:
        posts: list[Post] = []
        while self._posts and len(posts) < 1024:
            posts.append(self._posts.popleft())
        self._sending.post(posts)

    def _refuse_posts(self) -> None:
        while True:
            try:
                post = self._posts.popleft()
            except IndexError:
                return
            self.registry.drop((post.future,))
            post.answer(BrokerUnavailable("cannot submit: the app was closed meanwhile; nothing was queued"))

    def _never_started(self, queue: str, state: State) -> Callable[[str], bytes]:
        return unstarted.never_started(queue, state, self._sending.now_ms())


_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_at_exit() -> None:
    """Leave quickly and quietly: what is queued stays queued. Only daemon threads can be waiting now; they end, too."""
    for client in list(_clients):
        if client.usable:
            client.close(wait_s=EXIT_WAIT_S, wake_waiters=False)


atexit.register(_close_at_exit)
