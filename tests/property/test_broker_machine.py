"""The scripts against a model: random verbs, stale claims, clock steps, lost outcomes; each call sent twice.

After every step every live task is what the model says, and the invariants of the data hold: I1 a live id is in exactly
one place; I2 a claim has a lease; I3 a body exists exactly while its task is live, or dead; I4 an outcome exists only
for what is not live; I5 the counters equal a recount; I6 an outcome never changes within a run; I7 attempts and losses
never go down within a run; I8 a stop waits exactly for the held tasks that carry its flag; I9 what a task told is kept
while it lives, as its holder told it last, and handed to the next one; I10 no claim stands while anything is queued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qworker.broker import StartedTask
from qworker.broker.flows import ensure_open
from qworker.broker.records import read_record
from qworker.broker.values import Note, Stand
from qworker.broker.worker_calls import handed as read_handed
from qworker.errors import Conflict, ServerFull
from qworker.lifecycle import HELD, OUTCOMES, State
from qworker.model import Again, End, Line, Lose, Park, Record, Release, Settle, StopOrder
from support.backends import Backend, run_machine
from support.blobs import NOBODY, make_blob, make_value
from support.brokers import LEASE_MS, QUEUE, START_MS, TwiceBroker, cancelled, item, name, next_fence, snapshot

IDS = ("a", "b", "c", "d", "e", "f")
LARGE = ("e", "f")  # bodies and outcomes that go past Lua
LINES = (Line("default", "normal"), Line("default", "high"), Line("thread", "low"))
WORKERS = ("host:1:aaaa", "host:2:bbbb")  # the first one hears what is pushed to it
PREFIX = b"qw:{t.q}:"
# How a task is settled: kind, outcome, delay_ms, exact, cursor.
Drawn = tuple[str, State, int, bool, bytes]
SETTLES = st.lists(
    st.tuples(
        st.sampled_from(("again", "release", "park", "lose", "end")),
        st.sampled_from(sorted(OUTCOMES)),
        st.sampled_from((0, 1, 500)),
        st.booleans(),
        st.sampled_from((b"", b"", b"settled")),
    ),
    min_size=1,
    max_size=3,
)
MAKE: list[Callable[[], TwiceBroker]] = []  # the back end of the running test; machines take no arguments
CAN_FILL: list[bool] = []  # whether its memory can be limited


@dataclass
class Task:
    """What the model knows of a live task."""

    record: Record
    line: Line
    content: bytes
    due_ms: int = 0
    cursor: bytes = b""
    progress: bytes = b""
    left: str = ""  # the claim that gave it back itself; no other settle of that claim is one too late


@dataclass
class Lease:
    """What the model knows of an open claim."""

    worker: str
    ends_ms: int
    tasks: list[str]
    alone: bool
    fence: int
    seen: bool = False


def _padded(local: str, text: bytes) -> bytes:
    return text.ljust(5_000, b".") if local in LARGE else text


def _content(local: str, other: bytes) -> bytes:
    return _padded(local, local.encode() + other)


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = MAKE[-1]()
        self.now = 0
        self.tasks: dict[str, Task] = {}
        self.claims: dict[str, Lease] = {}
        self.outcomes: dict[str, bytes] = {}  # those that are still kept
        self.contents: dict[str, bytes] = {}  # of the ids that have one
        self.counts: Counter[str] = Counter()
        self.names: list[str] = [name("never")]
        self.hold = -(10**9)
        self.longest = 0
        self.fence = 0
        self.full = False
        self.stood: list[Stand] = []  # the latest that were left, or were to be
        self.ear = self.broker.client.pubsub(ignore_subscribe_messages=True)
        self.ear.subscribe(f"qw:t:stops:{WORKERS[0]}")
        self._heard()
        self._set_clock()
        self.broker.drive(ensure_open(self.broker.owner, QUEUE))

    def teardown(self) -> None:
        if self.full:
            self.broker.client.config_set("maxmemory", 0)
        self.ear.close()
        self.broker.close()

    # -- the model's own steps ------------------------------------------------------------------------------------

    def _heard(self) -> list[bytes]:
        """What was pushed to the first worker since the last look."""
        found: list[bytes] = []
        behind = CAN_FILL[-1]  # a server may push after its answer to the submit; fakeredis has, and knows no PING
        if behind:
            self.ear.ping()
        while True:
            message = self.ear.parse_response(block=False, timeout=5.0 if behind else 0.0)
            if message is None or message[0] == b"pong":
                assert message or not behind, "it got no answer"
                return found
            if message[0] == b"message":
                found.append(message[2])

    def _to_be_filled(self, wanted: list[tuple[str, bytes, int, int]], line: Line) -> str:
        """Which claim a submit is going to fill, by what stands there."""
        if len(wanted) > 1 or any(wanted[0][2:]) or wanted[0][0] in LARGE:
            return ""
        for entry, until in self.broker.client.zrange(PREFIX + b"standing", 0, -1, withscores=True):
            stand = next(stand for stand in self.stood if stand.claim == entry[:12].decode())
            if stand.worker == WORKERS[0] and line.pool in stand.needs and until > START_MS + self.now:
                return stand.claim
        return ""

    def _set_clock(self) -> None:
        self.broker.at(self.now)

    def _read_meta(self, *, stalled: bool = False) -> None:
        self.longest = LEASE_MS
        for lease in self.claims.values():
            if lease.ends_ms > self.now + self.longest:
                lease.ends_ms = self.now + LEASE_MS
        if stalled or self.hold > self.now + self.longest:
            self.hold = self.now + LEASE_MS
            self.counts["amnesties"] += 1

    def _put_back(self, local: str, **changes: Any) -> None:
        task = self.tasks[local]
        task.record = replace(task.record, state=State.QUEUED, claim="", started_ms=0, **changes)

    def _charged(self, local: str, *, exact: bool) -> None:
        record = self.tasks[local].record
        self._put_back(local, attempt=record.attempt + 1, losses=record.losses + 1, deliveries=0, exact=exact)

    def _leave(self, claim: str, local: str) -> None:
        lease = self.claims[claim]
        lease.tasks.remove(local)
        lease.seen = True
        if not lease.tasks:
            del self.claims[claim]

    def _rescue(self, claims: list[str]) -> int:
        count = 0
        for claim in claims:
            lease = self.claims.pop(claim)
            for local in lease.tasks:
                self.tasks[local].left = ""
                if lease.seen:
                    self._charged(local, exact=lease.alone)
                else:
                    self._put_back(local)
            count += len(lease.tasks)
        if count:
            self.counts["rescued"] += count
        return count

    def _content(self, local: str) -> bytes | None:
        return self.tasks[local].content if local in self.tasks else self.contents.get(local)

    def _holds(self, claim: str, local: str) -> bool:
        return claim in self.claims and local in self.claims[claim].tasks

    def _ended(self, local: str, state: State, value: bytes) -> None:
        task = self.tasks.pop(local)
        self.counts[state.value] += 1
        self.outcomes[local], self.contents[local] = value, task.content

    def _opened(self, claim: str, worker: str, window: Any, *, alone: bool) -> None:
        if not window.tasks:
            assert window.fence == 0
            return
        assert window.fence == next_fence(self.fence, START_MS + self.now)
        self.fence = window.fence
        self.counts["claimed"] += len(window.tasks)
        self.claims[claim] = Lease(worker, self.now + LEASE_MS, [task.id for task in window.tasks], alone, self.fence)
        for handed in window.tasks:
            task = self.tasks[handed.id]
            assert task.record.state is State.QUEUED, "only what is queued is handed out"
            task.record = replace(
                task.record, state=State.CLAIMED, claim=claim, deliveries=task.record.deliveries + 1, started_ms=0
            )
            assert handed.record == task.record
            assert handed.blob == make_blob(task.content, line=task.line)
            assert (handed.cursor or b"") == task.cursor

    @initialize(data=st.data(), claimed=st.sampled_from((0, 1, 2, 3)), lost=st.sampled_from((0, 0, 1, 2)))
    def some_tasks_are_there(self, data: st.DataObject, claimed: int, lost: int) -> None:
        """Most runs leave some verbs out, so without this few would have a task, and fewer one that is held."""
        for _ in range(lost):  # and some are suspects
            self.submit([("a", b"", 0, 0)], LINES[0])
            self.claim_by_id(["a"], WORKERS[0])
            self._settle_all([Lose("a", self.names[-1], True)], resend=False)
        line = data.draw(st.sampled_from(LINES))
        self.submit([(local, b"", 0, 0) for local in IDS[:3]], line)
        self.submit([(local, b"", 0, 0) for local in IDS[3:5]], LINES[0])
        if claimed:
            self.claim_by_id(list(IDS[:claimed]), WORKERS[0])

    def _some_id(self, data: st.DataObject) -> str:
        """Mostly of a task that is held."""
        held = [local for local, task in self.tasks.items() if task.record.claim]
        return data.draw(st.sampled_from([*sorted(held) * 4, *IDS]))

    # -- what producers do ----------------------------------------------------------------------------------------

    @rule(
        wanted=st.lists(
            st.tuples(
                st.sampled_from(IDS),
                st.sampled_from((b"", b"", b"2")),
                st.sampled_from((0, 0, 1, 500)),
                st.sampled_from((0, 0, 1, 2_000)),
            ),
            min_size=1, max_size=4, unique_by=lambda each: each[0],
        ),
        line=st.sampled_from(LINES),
    )  # fmt: skip
    def submit(self, wanted: list[tuple[str, bytes, int, int]], line: Line) -> None:
        """All of them or none, with the content of before or another."""
        items = [
            item(local, line=line, delay_ms=delay, deadline_ms=deadline, content=_content(local, other))
            for local, other, delay, deadline in wanted
        ]
        known = {local: self._content(local) for local, *_ in wanted}
        codes = tuple(
            "ok" if known[local] is None else "same" if local in self.tasks else "ended" for local, *_ in wanted
        )
        given = codes != ("ok",) * len(codes)  # else their ids may as well have been drawn
        refused: type[Exception] | None = None
        if any(known[local] not in (None, _content(local, other)) for local, other, *_ in wanted):
            refused = Conflict
        elif self.full and "ok" in codes:
            refused = ServerFull
        if refused is not None:
            with pytest.raises(refused):
                self.broker.submit(QUEUE, line, items, given=given)
            return
        filled = self._to_be_filled(wanted, line) if codes == ("ok",) else ""
        assert self.broker.submit(QUEUE, line, items, given=given).codes == codes
        for local, other, delay_ms, deadline_ms in wanted:
            if known[local] is None:
                self.counts["submitted"] += 1
                deadline = START_MS + self.now + deadline_ms if deadline_ms else 0
                state = State.SCHEDULED if delay_ms else State.QUEUED
                record = Record(state=state, deadline_ms=deadline)
                self.tasks[local] = Task(record, line, _content(local, other), self.now + delay_ms)
        pushed = [read_handed(message) for message in self._heard() if message.startswith(b"window ")]
        assert [window.claim for window in pushed] == ([filled] if filled else [])
        for window in pushed:
            note(f"{filled} was filled")
            self._opened(filled, WORKERS[0], window, alone=False)

    @rule(data=st.data(), mode=st.sampled_from(("cancel", "stop")), grace=st.sampled_from((None, 0, 700)))
    def stop(self, data: st.DataObject, mode: str, grace: int | None) -> None:
        local = self._some_id(data)
        (answer,) = self.broker.stop(QUEUE, [local], mode=mode, grace_ms=grace, value_of=cancelled)
        task = self.tasks.get(local)
        if task is None:
            assert answer.code in (("ended", "cancelled") if local in self.outcomes else ("unknown",))
            assert answer.outcome == self.outcomes.get(local)
        elif task.record.state in HELD:
            lease = self.claims[task.record.claim]
            assert (answer.claim, answer.worker) == (task.record.claim, lease.worker)
            assert answer.code == ("requested" if mode == "stop" else "held")
            if mode == "stop" and (grace is not None or task.record.stop is None):
                task.record = replace(task.record, stop=StopOrder(grace))
        else:
            assert answer.code == "cancelled"
            value = cancelled(local)
            self._ended(local, State.CANCELLED, value[:3] + make_blob(task.content)[:8] + value[11:])

    @rule(local=st.sampled_from(IDS))
    def expire(self, local: str) -> None:
        value = make_value(b"expired " + local.encode())
        (answer,) = self.broker.expire(QUEUE, [local], value_of=lambda _: value)
        task = self.tasks.get(local)
        if task is None:
            assert answer.code in (("ended", "expired") if local in self.outcomes else ("unknown",))
        elif task.record.state in HELD:
            assert answer.code == "held"
        elif 0 < task.record.deadline_ms <= START_MS + self.now:
            assert answer.code == "expired"
            self._ended(local, State.EXPIRED, value[:3] + make_blob(task.content)[:8] + value[11:])
        else:
            assert answer.code == "waiting"

    # -- what workers do ------------------------------------------------------------------------------------------

    @rule(
        room=st.integers(1, 4),
        worker=st.sampled_from(WORKERS),
        alone=st.booleans(),
        needs=st.sampled_from((("default",), ("thread", "default"), ("thread", "default"))),
        stalled=st.sampled_from((False, False, False, True)),
        stands=st.sampled_from((False, True, True)),
        names=st.booleans(),
    )
    def claim(
        self, room: int, worker: str, alone: bool, needs: tuple[Any, ...], stalled: bool, stands: bool, names: bool
    ) -> None:
        standing = self.stood[-2:] if names else []
        filled = next((stand.claim for stand in standing if stand.claim in self.claims), "")
        if filled:
            self._bring_what_filled(filled, standing)
            return
        stand = Stand(name(f"s{len(self.names)}"), worker, needs, LEASE_MS) if stands else None
        if stand is not None:
            self.stood.append(stand)
            self.names.append(stand.claim)
        claim = name(f"c{len(self.names)}")
        self.names.append(claim)
        self._read_meta(stalled=stalled)
        lapsed = [each for each, lease in self.claims.items() if lease.ends_ms <= self.now and self.hold <= self.now]
        rescued = self._rescue(lapsed)
        for task in self.tasks.values():
            if task.record.state is State.SCHEDULED and task.due_ms <= self.now:
                task.record = replace(task.record, state=State.QUEUED)
        self.broker.twice = not stalled  # a second witness would begin the amnesty anew
        window = self.broker.claim(
            QUEUE, claim=claim, worker=worker, rooms=[(needs, room)], lease_ms=LEASE_MS, alone=alone, stalled=stalled,
            stand=stand, standing=standing,
        )  # fmt: skip
        self.broker.twice = True
        note(f"{claim} brought {[task.id for task in window.tasks]}")
        queued = {each for each, task in self.tasks.items() if task.record.state is State.QUEUED}
        served = {each for each in queued if self.tasks[each].line.pool in needs}
        suspects = {each for each in served if self.tasks[each].record.losses >= 2}
        assert window.rescued == rescued
        handed = [task.id for task in window.tasks]
        assert len(set(handed)) == len(handed)
        assert set(handed) <= served
        if alone and suspects:
            assert window.alone
            assert len(handed) == 1
            assert set(handed) <= suspects
        else:
            assert not window.alone
            assert not set(handed) & suspects
            assert len(handed) == min(room, len(served - suspects)), "the window is as full as can be"
            order = [("high", "normal", "low").index(self.tasks[each].line.priority) for each in handed]
            assert order == sorted(order)
        self._opened(claim, worker, window, alone=window.alone)
        there = {entry[:12].decode() for entry in self.broker.client.zrange(PREFIX + b"standing", 0, -1)}
        assert not there & {stood.claim for stood in standing}
        if stand is not None and window.tasks:
            assert stand.claim not in there

    def _bring_what_filled(self, claim: str, standing: list[Stand]) -> None:
        lease = self.claims[claim]
        self._read_meta()
        window = self.broker.claim(
            QUEUE, claim=name("other"), worker=lease.worker, rooms=[(("default",), 4)], lease_ms=LEASE_MS,
            standing=standing,
        )  # fmt: skip
        lease.ends_ms = self.now + LEASE_MS
        assert sorted(task.id for task in window.tasks) == sorted(lease.tasks)
        assert (window.claim, window.fence) == (claim, lease.fence)

    @rule(wanted=st.lists(st.sampled_from(IDS), min_size=1, max_size=3), worker=st.sampled_from(WORKERS))
    def claim_by_id(self, wanted: list[str], worker: str) -> None:
        claim = name(f"c{len(self.names)}")
        self.names.append(claim)
        self._read_meta()
        window = self.broker.claim_ids(QUEUE, wanted, claim=claim, worker=worker, lease_ms=LEASE_MS)
        free = [
            local for local in dict.fromkeys(wanted)
            if local in self.tasks and self.tasks[local].record.state is State.QUEUED
        ]  # fmt: skip
        assert [task.id for task in window.tasks] == free
        self._opened(claim, worker, window, alone=False)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def replay_a_claim(self, data: st.DataObject) -> None:
        claim = data.draw(st.sampled_from(sorted(self.claims)))
        lease = self.claims[claim]
        self._read_meta()
        window = self.broker.claim(
            QUEUE, claim=claim, worker=lease.worker, rooms=[(("default",), 4)], lease_ms=LEASE_MS
        )
        lease.ends_ms = self.now + LEASE_MS
        assert sorted(task.id for task in window.tasks) == sorted(lease.tasks)
        assert (window.fence, window.alone) == (lease.fence, lease.alone)
        assert all((task.cursor or b"") == self.tasks[task.id].cursor for task in window.tasks)

    @rule(data=st.data(), room=st.integers(1, 4), wanted=SETTLES, again=SETTLES, alone=st.booleans())
    def a_worker_works(
        self, data: st.DataObject, room: int, wanted: list[Drawn], again: list[Drawn], alone: bool
    ) -> None:
        """Most runs leave some verbs out; so that no run is idle, this one has them all."""
        if not any(task.record.state is State.QUEUED for task in self.tasks.values()) and not self.full:
            free = [local for local in IDS if self._content(local) is None]
            self.submit([(local, b"", 0, 0) for local in free[:4]] or [(IDS[0], b"3", 0, 0)], LINES[0])
        self.claim(room, WORKERS[1], alone, ("thread", "default"), False, False, False)
        self.settle(data, wanted, False)
        self.settle(data, again, True)

    @rule(data=st.data(), wanted=SETTLES, resend=st.sampled_from((False, False, True)))
    def settle(self, data: st.DataObject, wanted: list[Drawn], resend: bool) -> None:
        """Several at once, each by the claim that holds the task, or by a stale one."""
        settles: dict[str, Settle] = {}
        for kind, state, delay_ms, exact, cursor in wanted:
            local = self._some_id(data)
            task = self.tasks.get(local)
            own = [task.record.claim or task.left or self.names[-1]] if task is not None else []
            claim = data.draw(st.sampled_from(own * 5 + self.names[-3:]))
            blob = make_blob(task.content if task is not None else b"")
            value = make_value(_padded(local, state.value.encode()), blob=blob, claim=claim)
            settles[local] = {
                "end": End(local, claim, state, value, 600_000, NOBODY),
                "again": Again(local, claim, delay_ms, cursor),
                "release": Release(local, claim, cursor),
                "park": Park(local, claim, delay_ms),
                "lose": Lose(local, claim, exact, cursor),
            }[kind]
        self._settle_all(list(settles.values()), resend=resend)

    def _settle_all(self, settles: list[Settle], *, resend: bool) -> None:
        stand = None  # a worker leaves nothing with what it sends again
        if not resend:
            stand = Stand(name(f"s{len(self.names)}"), WORKERS[0], ("default",), LEASE_MS)
            self.stood.append(stand)
            self.names.append(stand.claim)
        reply = self.broker.settle(QUEUE, settles, resend=resend, stand=stand)
        assert list(reply.codes) == [self._settled(settle, resend) for settle in settles]
        claims = {settle.claim for settle in settles}
        assert set(reply.stops) == {
            (task.record.claim, local, task.record.stop) for local, task in self.tasks.items()
            if task.record.claim in claims and task.record.stop is not None
        }  # fmt: skip

    def _settled(self, settle: Settle, resend: bool) -> str:
        """Settle one task in the model; what the answer is."""
        local, claim = settle.id, settle.claim
        if not self._holds(claim, local):
            task = self.tasks.get(local)
            if isinstance(settle, End):
                known = self.outcomes.get(local, b"")[12:24] == claim.encode()
            else:
                known = task is not None and not task.record.claim and task.left == claim
            self.counts["refused_late"] += not known and not resend
            return "again" if known else "lost"
        task = self.tasks[local]
        record = task.record
        if isinstance(settle, End):
            self._leave(claim, local)
            self._ended(local, settle.state, settle.value)
            return "ok"
        if record.stop is not None:
            return "stopped"
        self._leave(claim, local)
        task.left = claim
        fewer = max(0, record.deliveries - 1)
        if isinstance(settle, Park):
            self.counts["parked"] += 1
            self._put_back(local, deliveries=fewer)
            self._delay(task, settle.delay_ms)
            return "ok"
        task.cursor = settle.cursor or task.cursor
        if isinstance(settle, Lose):
            self.counts["lost"] += 1
            self._charged(local, exact=settle.exact)
        elif isinstance(settle, Release):
            self.counts["released"] += 1
            self._put_back(local, deliveries=fewer, once=False)
        else:
            self.counts["retried"] += 1
            self._put_back(local, attempt=record.attempt + 1, deliveries=0)
            if settle.delay_ms:
                self._delay(task, settle.delay_ms)
        return "ok"

    def _delay(self, task: Task, delay_ms: int) -> None:
        task.due_ms = self.now + delay_ms
        task.record = replace(task.record, state=State.SCHEDULED)

    @rule(
        data=st.data(), once=st.booleans(), told=st.sampled_from(((b"", b""), (b"1", b""), (b"", b"2"), (b"3", b"4")))
    )
    def renew(self, data: st.DataObject, once: bool, told: tuple[bytes, bytes]) -> None:
        claims = data.draw(st.lists(st.sampled_from(sorted({*self.claims, *self.names[-2:]})), unique=True))
        local = self._some_id(data)
        started = [StartedTask(claim, local, 5, once) for claim in claims]
        self._read_meta()
        notes = [Note(claim, local, NOBODY, *told) for claim in claims]
        renewal = self.broker.renew(QUEUE, claims=claims, started=started, notes=notes, lease_ms=LEASE_MS)
        if any(self._holds(claim, local) for claim in claims):
            task = self.tasks[local]
            task.cursor, task.progress = told[0] or task.cursor, told[1] or task.progress
        assert set(renewal.lost) == {claim for claim in claims if claim not in self.claims}
        waits = set()
        for claim in claims:
            if claim not in self.claims:
                continue
            self.claims[claim].seen = True
            self.claims[claim].ends_ms = self.now + LEASE_MS
            if self._holds(claim, local):
                record = self.tasks[local].record
                begun = START_MS + self.now - 5 if record.state is State.CLAIMED else record.started_ms
                self.tasks[local].record = replace(
                    record, state=State.RUNNING, started_ms=begun, once=record.once or once
                )
            waits |= {(claim, each, self.tasks[each].record.stop) for each in self.claims[claim].tasks
                      if self.tasks[each].record.stop}  # fmt: skip
        assert set(renewal.stops) == waits

    @rule(worker=st.sampled_from(WORKERS))
    def rescue_worker(self, worker: str) -> None:
        dead = [claim for claim, lease in self.claims.items() if lease.worker == worker]
        expected = self._rescue(dead)
        assert self.broker.rescue_worker(QUEUE, worker) == expected

    # -- what just happens ----------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from((1, 100, 500, LEASE_MS // 2, LEASE_MS, LEASE_MS + 1, -400, -2 * LEASE_MS)))
    def the_clock_moves(self, step_ms: int) -> None:
        self.now += step_ms
        self._set_clock()

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def an_outcome_is_no_longer_kept(self, data: st.DataObject) -> None:
        local = data.draw(st.sampled_from(sorted(self.outcomes)))
        self.broker.client.delete(PREFIX + b"result:" + local.encode())
        del self.outcomes[local], self.contents[local]

    @rule()
    def the_server_forgets_its_scripts(self) -> None:
        self.broker.client.script_flush()

    @precondition(lambda self: CAN_FILL[-1])
    @rule()
    def the_server_is_full_or_has_room_again(self) -> None:
        """What is full takes no task, and lets everything else go on."""
        self.full = not self.full
        self.broker.client.config_set("maxmemory", int(self.full))

    # -- what holds after every step --------------------------------------------------------------------------------

    @invariant()
    def the_data_are_consistent_and_what_the_model_says(self) -> None:
        keys = {key.removeprefix(PREFIX).decode(): value for key, value in snapshot(self.broker.client).items()}
        bodies = {local.decode() for local in keys.get("bodies", {})}
        records = {local.decode(): text for local, text in keys.get("tasks", {}).items()}
        later = {local.decode() for local, _ in keys.get("later", [])}
        suspects = [local.decode() for local in keys.get("suspects", [])]
        held = {field.decode(): text.decode() for field, text in keys.get("held", {}).items()}
        leases = {claim.decode(): int(end) for claim, end in keys.get("leases", [])}
        claims = {field: text.split(" ") for field, text in held.items() if field[-1] not in "#+"}

        # I3, I4, I6, and every live task is what the model says
        assert bodies == set(self.tasks)
        assert set(records) <= bodies
        found = {key.removeprefix("result:"): value for key, value in keys.items() if key.startswith("result:")}
        assert found == self.outcomes
        assert not set(found) & bodies
        assert {local for local, _ in keys.get("dead", [])} == set(keys.get("dead_bodies", {}))
        for local, task in self.tasks.items():
            assert read_record(records.get(local)) == task.record, local
        # I9
        for kind in ("cursor", "progress"):
            kept = keys.get("cursors" if kind == "cursor" else kind, {})
            assert kept == {local.encode(): told for local, task in self.tasks.items() if (told := getattr(task, kind))}

        # I1: exactly one place; what a list has beyond that is passed over
        assert later == {local for local, task in self.tasks.items() if task.record.state is State.SCHEDULED}
        assert Counter(suspects) == Counter(
            local for local, task in self.tasks.items() if task.record.state is State.QUEUED and task.record.losses >= 2
        )
        for local, task in self.tasks.items():
            if task.record.state is State.QUEUED and task.record.losses < 2:
                line = keys.get(f"ready:{task.line.pool}:{task.line.priority}", [])
                assert local.encode() in line, f"{local} is queued and in no list"
        # I2: claims, their leases, and how many each holds
        assert set(claims) == set(leases) == set(self.claims)
        for claim, lease in self.claims.items():
            assert leases[claim] == START_MS + lease.ends_ms
            assert int(held[claim + "#"]) == len(lease.tasks)
            assert (claim + "+" in held) == lease.seen
            assert claims[claim][1] == lease.worker
            assert set(lease.tasks) <= set(claims[claim][3:])
        # I5
        counters = {field.decode(): int(count) for field, count in keys.get("stats", {}).items()}
        assert counters == +self.counts
        ended = sum(self.counts[state.value] for state in OUTCOMES)
        assert counters.get("submitted", 0) == len(bodies) + ended
        # I10
        queued = [local for local, task in self.tasks.items() if task.record.state is State.QUEUED]
        assert not (queued and keys.get("standing")), f"{queued} may be overtaken"
        # I8
        assert {score for _, score in keys.get("stops", [])} <= {0.0}, "they are looked for by name"
        stops = {member.decode() for member, _ in keys.get("stops", [])}
        assert stops == {
            f"{task.record.claim} {local}" for local, task in self.tasks.items()
            if task.record.state in HELD and task.record.stop is not None
        }  # fmt: skip


RUNS = {"model": 10, "fakeredis": 6, "redis": 20, "valkey": 12, "cluster": 12}


@pytest.mark.timeout(3600)  # `make models` takes its time
def test_the_scripts_do_what_the_model_does(backend: Backend) -> None:
    """QWORKER_TEST_RUNS multiplies the number of runs."""
    if backend.kind == "model":
        pytest.skip("the simulation's server does not let this machine listen yet: it reads what is pushed to workers")
    MAKE.append(backend.make)
    CAN_FILL.append(backend.kind not in ("model", "fakeredis"))
    try:
        run_machine(BrokerMachine, RUNS[backend.kind])
    finally:
        MAKE.pop()
        CAN_FILL.pop()
