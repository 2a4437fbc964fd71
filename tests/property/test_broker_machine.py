"""The scripts against a model: random verbs, stale claims, clock steps, lost outcomes; each call sent twice.

After every step every live task is what the model says, and the invariants of the data hold: I1 a live id is in exactly
one place; I2 a claim has a lease; I3 a body exists exactly while its task is live, and the last one that ended badly is
kept with its run among the dead; I4 an outcome exists only for what is not live; I5 the counters equal a recount; I6 an
outcome never changes within a run; I7 attempts and losses never go down within a run; I8 a stop waits exactly for the
held tasks that carry its flag; I9 what a task told is kept while it lives, as its holder told it last, and handed
to the next one; I10 no claim stands while anything is queued.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qworker.broker import StartedTask
from qworker.broker.flows import ensure_open
from qworker.broker.records import write_record
from qworker.broker.values import Note, Stand
from qworker.broker.worker_calls import handed as read_handed
from qworker.errors import Conflict, ServerFull
from qworker.lifecycle import HELD, OUTCOMES, State
from qworker.model import Again, End, Line, Lose, Park, Record, Release, Settle, StopOrder
from support.backends import Backend, run_machine
from support.blobs import NOBODY, make_blob, make_value
from support.broker_model import Model, Task
from support.brokers import FAKES, LEASE_MS, QUEUE, START_MS, TwiceBroker, cancelled, item, name
from support.machine_crowd import SCENES
from support.machine_exact import ExactMachine

IDS = ("a", "b", "c", "d", "e")  # few, so that much happens to each
LARGE = ("d", "e")  # bodies and outcomes that go past Lua
LINES = (Line("default", "normal"), Line("default", "high"), Line("thread", "low"))
WORKERS = ("host:1:aaaa", "host:2:bbbb")  # the first one hears what is pushed to it
PREFIX = b"qw:{t.q}:"


@st.composite
def one_of_each(draw: st.DrawFn, *choices: Sequence[Any]) -> tuple[Any, ...]:
    """Make a tuple of one of each, in a single draw: a draw costs hypothesis as much as a call costs the server."""
    number = draw(st.integers(0, math.prod(map(len, choices)) - 1))
    found = []
    for choice in choices:
        number, at = divmod(number, len(choice))
        found.append(choice[at])
    return tuple(found)


WHICH = range(60)  # what there is to choose from is known when it comes to that: the rest of a division by how many
BOOLS = (False, True)
# How a task is settled: kind, outcome, delay_ms, exact, cursor, which task, by which of the claims in question.
Drawn = tuple[str, State, int, bool, bytes, int, int]
SETTLES = st.lists(
    one_of_each(
        ("again", "release", "park", "lose", "end"), sorted(OUTCOMES), (0, 1, 500), BOOLS, (b"", b"", b"settled"),
        WHICH, WHICH,
    ),
    min_size=1, max_size=3,
)  # fmt: skip
MAKE: list[Callable[[], TwiceBroker]] = []  # the back end of the running test; machines take no arguments
CAN_FILL: list[bool] = []  # whether its memory can be limited


def _padded(local: str, text: bytes) -> bytes:
    return text.ljust(5_000, b".") if local in LARGE else text


def _content(local: str, other: bytes) -> bytes:
    return _padded(local, local.encode() + other)


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = MAKE[-1]()
        self.model = Model()
        self.names: list[str] = [name("never")]
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
            if stand.worker == WORKERS[0] and line.pool in stand.needs and until > START_MS + self.model.now:
                return stand.claim
        return ""

    def _set_clock(self) -> None:
        self.broker.at(self.model.now)

    def _begin_later_run(self, local: str) -> None:
        """Have a task be there once more, as after a retry, which no script does yet."""
        task = self.model.tasks[local]
        task.record, task.left = replace(task.record, run=task.record.run + 1), ""
        self.broker.client.execute_command("HSET", PREFIX + b"tasks", local, write_record(task.record, task.line))

    @initialize(there=one_of_each((0, 1, 2, 3), (0, 0, 1, 2), BOOLS, (0, 1), LINES))
    def some_tasks_are_there(self, there: tuple[int, int, bool, int, Line]) -> None:
        """Most runs leave some verbs out, so without this few would have a task, and fewer one that is held."""
        claimed, lost, later_run, deadline_ms, line = there
        for _ in range(lost):  # and some are suspects
            self.submit([("a", b"", 0, 0)], LINES[0])
            self.claim_by_id(["a"], WORKERS[0])
            self._settle_all([Lose("a", self.names[-1], True)], resend=False)
        self.submit([(local, b"", 0, deadline_ms) for local in IDS[:3]], line)
        self.submit([(local, b"", 0, 0) for local in IDS[3:5]], LINES[0])
        if later_run:
            for local in IDS[:3]:
                self._begin_later_run(local)
        if claimed:
            self.claim_by_id(list(IDS[:claimed]), WORKERS[0])

    def _some_id(self, which: int) -> str:
        """Mostly of a task that is held."""
        held = [local for local, task in self.model.tasks.items() if task.record.claim]
        ids = [*IDS, *sorted(held) * 4]
        return ids[which % len(ids)]

    # -- what producers do ----------------------------------------------------------------------------------------

    @rule(
        wanted=st.lists(
            one_of_each(IDS, (b"", b"", b"2"), (0, 0, 1, 500), (0, 0, 1, 2_000)),
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
        known = {local: self.model.content_of(local) for local, *_ in wanted}
        codes = tuple(
            "ok" if known[local] is None else "same" if local in self.model.tasks else "ended" for local, *_ in wanted
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
                self.model.counts["submitted"] += 1
                deadline = START_MS + self.model.now + deadline_ms if deadline_ms else 0
                state = State.SCHEDULED if delay_ms else State.QUEUED
                record = Record(state=state, deadline_ms=deadline)
                self.model.tasks[local] = Task(record, line, _content(local, other), self.model.now + delay_ms)
        pushed = [read_handed(message) for message in self._heard() if message.startswith(b"window ")]
        assert [window.claim for window in pushed] == ([filled] if filled else [])
        for window in pushed:
            note(f"{filled} was filled")
            self.model.opened(filled, WORKERS[0], window, alone=False)

    @rule(how=one_of_each(("cancel", "stop"), (None, 0, 700), WHICH))
    def stop(self, how: tuple[str, int | None, int]) -> None:
        mode, grace, which = how
        local = self._some_id(which)
        (answer,) = self.broker.stop(QUEUE, [local], mode=mode, grace_ms=grace, value_of=cancelled)
        task = self.model.tasks.get(local)
        if task is None:
            assert answer.code in (("ended", "cancelled") if local in self.model.outcomes else ("unknown",))
            assert answer.outcome == self.model.outcomes.get(local)
        elif task.record.state in HELD:
            lease = self.model.claims[task.record.claim]
            assert (answer.claim, answer.worker) == (task.record.claim, lease.worker)
            assert answer.code == ("requested" if mode == "stop" else "held")
            if mode == "stop" and (grace is not None or task.record.stop is None):
                task.record = replace(task.record, stop=StopOrder(grace))
        else:
            assert answer.code == "cancelled"
            value = cancelled(local)
            self.model.finished(local, State.CANCELLED, value)

    @rule(local=st.sampled_from(IDS))
    def expire(self, local: str) -> None:
        value = make_value(b"expired " + local.encode())
        (answer,) = self.broker.expire(QUEUE, [local], value_of=lambda _: value)
        task = self.model.tasks.get(local)
        if task is None:
            assert answer.code in (("ended", "expired") if local in self.model.outcomes else ("unknown",))
        elif task.record.state in HELD:
            assert answer.code == "held"
        elif 0 < task.record.deadline_ms <= START_MS + self.model.now:
            assert answer.code == "expired"
            self.model.finished(local, State.EXPIRED, value)
        else:
            assert answer.code == "waiting"

    # -- what workers do ------------------------------------------------------------------------------------------

    @rule(
        how=one_of_each(
            (1, 2, 3, 4), WORKERS, BOOLS, (("default",), ("thread", "default"), ("thread", "default")),
            (False, False, False, True), (False, True, True), BOOLS,
        )
    )  # fmt: skip
    def claim(self, how: tuple[int, str, bool, tuple[Any, ...], bool, bool, bool]) -> None:
        room, worker, alone, needs, stalled, stands, names = how
        standing = self.stood[-2:] if names else []
        filled = next((stand.claim for stand in standing if stand.claim in self.model.claims), "")
        if filled:
            self._bring_what_filled(filled, standing)
            return
        stand = Stand(name(f"s{len(self.names)}"), worker, needs, LEASE_MS) if stands else None
        if stand is not None:
            self.stood.append(stand)
            self.names.append(stand.claim)
        claim = name(f"c{len(self.names)}")
        self.names.append(claim)
        self.model.read_meta(stalled=stalled)
        rescued = self.model.lapse()
        self.broker.twice = not stalled  # a second witness would begin the amnesty anew
        window = self.broker.claim(
            QUEUE, claim=claim, worker=worker, rooms=[(needs, room)], lease_ms=LEASE_MS, alone=alone, stalled=stalled,
            stand=stand, standing=standing,
        )  # fmt: skip
        self.broker.twice = True
        note(f"{claim} brought {[task.id for task in window.tasks]}")
        queued = {each for each, task in self.model.tasks.items() if task.record.state is State.QUEUED}
        served = {each for each in queued if self.model.tasks[each].line.pool in needs}
        suspects = {each for each in served if self.model.tasks[each].record.losses >= 2}
        assert (window.rescued, sorted(window.rescued_names)) == (len(rescued), sorted(rescued))
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
            order = [("high", "normal", "low").index(self.model.tasks[each].line.priority) for each in handed]
            assert order == sorted(order)
        self.model.opened(claim, worker, window, alone=window.alone)
        left = self.broker.client.zrange(PREFIX + b"standing", 0, -1, withscores=True)
        there = {entry[:12].decode() for entry, _ in left}
        assert not there & {stood.claim for stood in standing}
        if stand is not None and window.tasks:
            assert stand.claim not in there

    def _bring_what_filled(self, claim: str, standing: list[Stand]) -> None:
        lease = self.model.claims[claim]
        self.model.read_meta()
        window = self.broker.claim(
            QUEUE, claim=name("other"), worker=lease.worker, rooms=[(("default",), 4)], lease_ms=LEASE_MS,
            standing=standing,
        )  # fmt: skip
        lease.ends_ms = self.model.now + LEASE_MS
        assert sorted(task.id for task in window.tasks) == sorted(lease.tasks)
        assert (window.claim, window.fence) == (claim, lease.fence)

    @rule(how=one_of_each(IDS, ("", *IDS), ("", *IDS), WORKERS))
    def some_are_claimed_by_id(self, how: tuple[str, str, str, str]) -> None:
        *wanted, worker = how
        self.claim_by_id([local for local in wanted if local], worker)

    def claim_by_id(self, wanted: list[str], worker: str) -> None:
        claim = name(f"c{len(self.names)}")
        self.names.append(claim)
        self.model.read_meta()
        window = self.broker.claim_ids(QUEUE, wanted, claim=claim, worker=worker, lease_ms=LEASE_MS)
        free = [
            local for local in dict.fromkeys(wanted)
            if local in self.model.tasks and self.model.tasks[local].record.state is State.QUEUED
        ]  # fmt: skip
        assert [task.id for task in window.tasks] == free
        self.model.opened(claim, worker, window, alone=False)

    @precondition(lambda self: self.model.claims)
    @rule(which=st.sampled_from(WHICH))
    def replay_a_claim(self, which: int) -> None:
        claim = sorted(self.model.claims)[which % len(self.model.claims)]
        lease = self.model.claims[claim]
        self.model.read_meta()
        window = self.broker.claim(
            QUEUE, claim=claim, worker=lease.worker, rooms=[(("default",), 4)], lease_ms=LEASE_MS
        )
        lease.ends_ms = self.model.now + LEASE_MS
        assert sorted(task.id for task in window.tasks) == sorted(lease.tasks)
        assert (window.fence, window.alone) == (lease.fence, lease.alone)
        assert all((task.cursor or b"") == self.model.tasks[task.id].cursor for task in window.tasks)

    @rule(how=one_of_each((1, 2, 3, 4), BOOLS), wanted=SETTLES, again=SETTLES)
    def a_worker_works(self, how: tuple[int, bool], wanted: list[Drawn], again: list[Drawn]) -> None:
        """Most runs leave some verbs out; so that no run is idle, this one has them all."""
        if not any(task.record.state is State.QUEUED for task in self.model.tasks.values()) and not self.full:
            free = [local for local in IDS if self.model.content_of(local) is None]
            self.submit([(local, b"", 0, 0) for local in free[:4]] or [(IDS[0], b"3", 0, 0)], LINES[0])
        room, alone = how
        self.claim((room, WORKERS[1], alone, ("thread", "default"), False, False, False))
        self.settle(wanted, False)
        self.settle(again, True)

    @rule(wanted=SETTLES, resend=st.sampled_from((False, False, True)))
    def settle(self, wanted: list[Drawn], resend: bool) -> None:
        """Several at once, each by the claim that holds the task, or by a stale one."""
        settles: dict[str, Settle] = {}
        for kind, state, delay_ms, exact, cursor, which, whose in wanted:
            local = self._some_id(which)
            task = self.model.tasks.get(local)
            own = [task.record.claim or task.left or self.names[-1]] if task is not None else []
            claims = own * 5 + self.names[-3:]
            claim = claims[whose % len(claims)]
            note(f"{kind} of {local} by {claim}")
            blob = make_blob(task.content if task is not None else b"")
            value = make_value(_padded(local, state.value.encode()), blob=blob, claim=claim)
            settles[local] = {
                "end": End(local, claim, state, value, 600_000, NOBODY),
                "again": Again(local, claim, delay_ms, cursor, exact),
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
        assert list(reply.codes) == [self.model.settled(settle, resend) for settle in settles]
        claims = {settle.claim for settle in settles}
        assert set(reply.stops) == {
            (task.record.claim, local, task.record.stop) for local, task in self.model.tasks.items()
            if task.record.claim in claims and task.record.stop is not None
        }  # fmt: skip

    @rule(how=one_of_each(BOOLS, ((b"", b""), (b"1", b""), (b"", b"2"), (b"3", b"4")), WHICH, range(256)))
    def renew(self, how: tuple[bool, tuple[bytes, bytes], int, int]) -> None:
        once, told, which, these = how
        known = sorted({*self.model.claims, *self.names[-2:]})
        claims = [claim for n, claim in enumerate(known) if these >> n & 1]
        local = self._some_id(which)
        started = [StartedTask(claim, local, 5, once) for claim in claims]
        self.model.read_meta()
        notes = [Note(claim, local, NOBODY, *told) for claim in claims]
        renewal = self.broker.renew(QUEUE, claims=claims, started=started, notes=notes, lease_ms=LEASE_MS)
        if any(self.model.holds(claim, local) for claim in claims):
            task = self.model.tasks[local]
            task.cursor, task.progress = told[0] or task.cursor, told[1] or task.progress
        assert set(renewal.lost) == {claim for claim in claims if claim not in self.model.claims}
        waits = set()
        for claim in claims:
            if claim not in self.model.claims:
                continue
            self.model.claims[claim].seen = True
            self.model.claims[claim].ends_ms = self.model.now + LEASE_MS
            if self.model.holds(claim, local):
                record = self.model.tasks[local].record
                begun = START_MS + self.model.now - 5 if record.state is State.CLAIMED else record.started_ms
                self.model.tasks[local].record = replace(
                    record, state=State.RUNNING, started_ms=begun, once=record.once or once
                )
            waits |= {(claim, each, self.model.tasks[each].record.stop) for each in self.model.claims[claim].tasks
                      if self.model.tasks[each].record.stop}  # fmt: skip
        assert set(renewal.stops) == waits

    @rule(worker=st.sampled_from(WORKERS))
    def rescue_worker(self, worker: str) -> None:
        dead = [claim for claim, lease in self.model.claims.items() if lease.worker == worker]
        expected = self.model.rescue(dead, dead=True)
        found = self.broker.rescue_worker(QUEUE, worker)
        assert (found.tasks, sorted(found.names)) == (len(expected), sorted(expected))

    # -- what just happens ----------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from((1, 100, 500, LEASE_MS // 2, LEASE_MS, LEASE_MS + 1, -400, -2 * LEASE_MS)))
    def the_clock_moves(self, step_ms: int) -> None:
        self.model.now += step_ms
        self._set_clock()

    @precondition(lambda self: self.model.outcomes)
    @rule(which=st.sampled_from(WHICH))
    def an_outcome_is_no_longer_kept(self, which: int) -> None:
        local = sorted(self.model.outcomes)[which % len(self.model.outcomes)]
        self.broker.client.delete(PREFIX + b"result:" + local.encode())
        del self.model.outcomes[local], self.model.contents[local]

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
        keys = self.broker.snapshot()
        self.model.check({key.removeprefix(PREFIX).decode(): value for key, value in keys.items()})


# A run costs 45 ms of processor time beside the server's, on fakeredis 200. `make models` makes 50 times as many.
RUNS = {"model": 55, "fakeredis": 6, "fakeredis-6.2": 2, "redis": 50, "valkey": 30, "cluster": 30}
EXACT_RUNS = {"model": 30, "fakeredis": 4, "fakeredis-6.2": 2, "redis": 50, "valkey": 25, "cluster": 20}
ROUNDS = {"model": 1, "redis": 2, "valkey": 1, "cluster": 1}


@pytest.fixture
def exact(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> type[ExactMachine]:
    monkeypatch.setattr(ExactMachine, "make", staticmethod(backend.make), raising=False)
    monkeypatch.setattr(ExactMachine, "can_fill", backend.kind not in FAKES, raising=False)
    return ExactMachine


@pytest.mark.timeout(3600)
def test_so_they_do_with_more_than_goes_into_one_call(exact: type[ExactMachine], backend: Backend) -> None:
    rounds = max(2, int(ROUNDS.get(backend.kind, 0) * float(os.environ.get("QWORKER_TEST_RUNS", "1"))))
    machine = exact()
    try:
        for seed in range(rounds):
            for scene in SCENES if backend.kind in ROUNDS else ():  # fakeredis would take minutes
                machine.play(scene, seed)
    finally:
        machine.teardown()


@pytest.mark.timeout(3600)
def test_the_scripts_do_to_the_letter_what_their_twin_does(exact: type[ExactMachine], backend: Backend) -> None:
    """All calls with all that they may bring: each reply, key, message and time to live is known before."""
    run_machine(exact, EXACT_RUNS[backend.kind])


@pytest.mark.timeout(3600)  # `make models` takes its time
def test_the_scripts_do_what_the_model_does(backend: Backend) -> None:
    """QWORKER_TEST_RUNS multiplies the number of runs."""
    MAKE.append(backend.make)
    CAN_FILL.append(backend.kind not in FAKES)
    try:
        run_machine(BrokerMachine, RUNS[backend.kind])
    finally:
        MAKE.pop()
        CAN_FILL.pop()
