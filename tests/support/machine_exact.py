"""Random calls of all kinds, each compared to the letter with the scripts' twin in Python; see ExactMachine.

A step draws one number, and all that it does comes of that: a draw costs hypothesis as much as a call costs the server.
Nothing in here says what is to come of a call; that is the twin's part.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qworker.broker import StartedTask
from qworker.broker.flows import ensure_open
from qworker.broker.values import Note, Stand, SubmitItem
from qworker.errors import Conflict, ServerFull
from qworker.lifecycle import OUTCOMES
from qworker.model import POOL_NEEDS, PRIORITIES, Again, End, Line, Lose, Park, Release, Settle
from qworker.views import WorkerRecord
from support.blobs import NOBODY, make_blob, make_value
from support.brokers import QUEUE, START_MS, TwiceBroker, cancelled, name
from support.machine_data import Data
from support.machine_watch import Watch
from support.machine_worker_scripts import Twin

IDS = tuple("abcdefgh")
LARGE = "gh"  # bodies and outcomes that go past Lua
CLIENTS = ("clientclient", "anotherother")
WORKERS = ("host:1:aaaa", "host:2:bbbb")  # the first one hears what is pushed to it
CHANNELS = (f"qw:t:stops:{WORKERS[0]}", *(f"qw:t:inbox:{client}" for client in CLIENTS), "qw:t:hello")
LEASES = (15_000, 15_000, 1_000, 40_000)
TTLS = (60_000, 600_000, 3_600_000)
STEPS_MS = (1, 499, 500, 1_000, 2_499, 2_500, 15_000, 15_001, -400, -30_000, -100_000, 600_000, 7 * 24 * 3_600_000)
Scene = Callable[["ExactMachine", random.Random], None]
SEEDS = st.integers(0, 2**32 - 1)


class ExactMachine(RuleBasedStateMachine):
    make: ClassVar[Callable[[], TwiceBroker]]  # the back end of the running test; machines take no arguments
    can_fill: ClassVar[bool]

    def __init__(self) -> None:
        super().__init__()
        self.broker = type(self).make()
        self.twin = Twin(CHANNELS)
        self.watch = Watch(self.broker, self.twin, CHANNELS, behind=self.can_fill)
        self.names: list[str] = []  # of claims, the latest last
        self.stood: list[Stand] = []
        self.full = False
        self.now = 0
        self.count = 0
        self.dice = random.Random(0)
        self.pass_time(0)
        self.broker.drive(ensure_open(self.broker.owner, QUEUE))

    def teardown(self) -> None:
        if self.full:
            self.fill(False)
        self.watch.close()

    # -- what rules are made of -----------------------------------------------------------------------------------

    def _begin(self, seed: int) -> random.Random:
        self.count += 1
        self.dice = random.Random(f"{seed} {self.count}")
        self.broker.twice = True
        if self.dice.random() < 0.4:
            self.hear_bells()
        return self.dice

    def pass_time(self, ms: int) -> None:
        """Move the server's clock."""
        self.now += ms
        self.broker.at(self.now)

    def new_name(self) -> str:
        """The name of one more claim."""
        self.names.append(name(f"c{len(self.names)}"))
        return self.names[-1]

    def _line(self) -> Line:
        if self.dice.random() < 0.6:
            return Line("default", self.dice.choice(PRIORITIES))
        return Line(self.dice.choice(POOL_NEEDS), self.dice.choice(PRIORITIES))

    def _some(self, choices: Sequence[Any], most: int) -> list[Any]:
        return self.dice.sample(choices, self.dice.randint(1, min(most, len(choices))))

    def _holder(self, local: str) -> str:
        """The claim that has it, mostly, or had it."""
        r = self.twin.data.entry(local)
        if r is not None and self.dice.random() < 0.9:
            return r.claim
        return self.dice.choice(self.names[-4:] or [name("never")])

    def _tasks(self, most: int) -> list[str]:
        """Mostly those that are held."""
        held = [local for local in IDS if (r := self.twin.data.entry(local)) is not None and r.is_held]
        return self._some(held if held and self.dice.random() < 0.8 else IDS, most)

    def _stand(self, worker: str) -> Stand | None:
        if self.dice.random() < 0.5:
            return None
        needs = tuple(self._some(POOL_NEEDS, 2))
        self.stood.append(Stand(self.new_name(), worker, needs, self.dice.choice(LEASES)))
        return self.stood[-1]

    def _item(self, local: str, line: Line, *, timed: bool) -> SubmitItem:
        content = local.encode() + (b"other" if self.dice.random() < 0.05 else b"")
        blob = make_blob(
            content, line=line, client=self.dice.choice((NOBODY, *CLIENTS)), sent_ms=START_MS - ord(local[0]),
            size=5_000 if local in LARGE else 0,
        )  # fmt: skip
        delay, deadline = (self.dice.choice((0, 0, 1, 500)), self.dice.choice((0, 0, 1, 2_000))) if timed else (0, 0)
        return SubmitItem(local, blob, delay, deadline)

    def _submit(self, line: Line, items: list[SubmitItem], *, given: bool) -> None:
        data = self.twin.data
        new = any(item.id not in data.bodies and item.id not in data.results for item in items)
        try:
            self.broker.submit(QUEUE, line, items, given=given)
        except Conflict:
            return  # as the twin says, too
        except ServerFull:
            assert self.full
            assert new, "it had nothing to write"
        else:
            assert not (self.full and new), "it took what there is no room for"

    def _witness(self, lease_ms: int) -> dict[str, Any]:
        """What a worker knows of the time. A second witness would begin the amnesty anew."""
        kind = self.dice.random()
        if kind < 0.06:
            self.broker.twice = False
            return {"stalled": True}
        if kind < 0.25:
            off = self.dice.choice((0, 1, -1, lease_ms // 2, -lease_ms // 2, lease_ms // 2 + 1, -lease_ms))
            self.broker.twice = abs(off) * 2 <= lease_ms
            return {"expected_ms": START_MS + self.now + off}
        return {}

    # -- what producers do ----------------------------------------------------------------------------------------

    @initialize(seed=SEEDS)
    def some_tasks_are_there(self, seed: int) -> None:
        dice = self._begin(seed)
        line = self._line()
        self._submit(line, [self._item(local, line, timed=dice.random() < 0.3) for local in IDS[:4]], given=False)
        for _ in range(dice.choice((0, 0, 1, 2))):
            locals_ = IDS[: dice.randint(1, 3)]
            claim = self.new_name()
            self.broker.claim_ids(QUEUE, locals_, claim=claim, worker=WORKERS[0], lease_ms=15_000)
            self.broker.settle(QUEUE, [Lose(local, claim, dice.random() < 0.5) for local in locals_])

    @rule(seed=SEEDS)
    def submit(self, seed: int) -> None:
        dice, line = self._begin(seed), self._line()
        lone = dice.random() < 0.4
        timed = dice.random() < 0.3
        items = [self._item(local, line, timed=timed) for local in self._some(IDS, 1 if lone else 5)]
        known = any(item.id in self.twin.data.bodies or item.id in self.twin.data.results for item in items)
        self._submit(line, items, given=known or dice.random() < 0.3)

    @rule(seed=SEEDS)
    def stop(self, seed: int) -> None:
        dice = self._begin(seed)
        self.broker.stop(
            QUEUE, self._tasks(3), mode=dice.choice(("cancel", "stop", "stop")), grace_ms=dice.choice((None, 0, 700)),
            value_of=cancelled, ttl_ms=dice.choice(TTLS),
        )  # fmt: skip

    @rule(seed=SEEDS)
    def expire(self, seed: int) -> None:
        dice = self._begin(seed)
        self.broker.expire(
            QUEUE, self._some(IDS, 5), value_of=lambda local: make_value(b"expired " + local.encode()),
            ttl_ms=dice.choice(TTLS),
        )  # fmt: skip

    @rule(seed=SEEDS)
    def look(self, seed: int) -> None:
        """Whoever only looks changes nothing."""
        self._begin(seed)
        self.broker.stats(QUEUE)
        for local in self._some(IDS, 3):
            self.broker.inspect(QUEUE, local)
        self.broker.peek(QUEUE, self._some(IDS, 4))

    # -- what workers do ------------------------------------------------------------------------------------------

    @rule(seed=SEEDS)
    def claim(self, seed: int) -> None:
        dice = self._begin(seed)
        worker, lease = dice.choice(WORKERS), dice.choice(LEASES)
        needs = dice.sample(POOL_NEEDS, 4)
        cut = dice.randint(1, 4)
        rooms = [(needs[:cut], dice.choice((0, 1, 1, 2, 4, 200))), (needs[cut:], dice.choice((0, 1, 4)))]
        options = self._witness(lease)
        if not options and dice.random() < 0.1:
            options["newcomer"] = True
        if dice.random() < 0.15:
            options["max_bytes"] = dice.choice((32, 64, 65, 130, 5_100))
        standing = [stood for stood in self.stood[-3:] if stood.worker == worker] if dice.random() < 0.5 else []
        claim = self.new_name()
        held = list(self.twin.data.leases)
        if held and dice.random() < 0.1:
            claim = dice.choice(held)  # it was not answered, or so its worker thinks
        self.broker.claim(
            QUEUE, claim=claim, worker=worker, rooms=rooms, lease_ms=lease, alone=dice.random() < 0.5,
            stand=self._stand(worker), standing=standing, **options,
        )  # fmt: skip

    @rule(seed=SEEDS)
    def claim_by_id(self, seed: int) -> None:
        dice = self._begin(seed)
        wanted = [dice.choice(IDS) for _ in range(dice.randint(1, 4))]  # one of them twice, at times
        options: dict[str, Any] = {"most": dice.choice((None, None, 0, 1, 2))}
        if dice.random() < 0.3:
            options["needs"] = self._some(POOL_NEEDS, 3)
        if dice.random() < 0.2:
            options["max_bytes"] = dice.choice((32, 64, 65))
        held = list(self.twin.data.leases)
        claim = dice.choice(held) if held and dice.random() < 0.1 else self.new_name()
        self.broker.claim_ids(
            QUEUE, wanted, claim=claim, worker=dice.choice(WORKERS), lease_ms=dice.choice(LEASES), **options
        )

    @rule(seed=SEEDS)
    def settle(self, seed: int) -> None:
        self._begin(seed)
        self._settle(self._tasks(4))

    @rule(seed=SEEDS)
    def work(self, seed: int) -> None:
        """Most runs leave some verbs out; so that no run is idle, this one has several."""
        dice, line = self._begin(seed), self._line()
        free = [local for local in IDS if local not in self.twin.data.bodies and local not in self.twin.data.results]
        if free and not self.full:
            self._submit(line, [self._item(local, line, timed=False) for local in free[:3]], given=False)
        self.broker.claim(
            QUEUE, claim=self.new_name(), worker=WORKERS[1], rooms=[(POOL_NEEDS, 3)], lease_ms=15_000,
            alone=dice.random() < 0.5,
        )  # fmt: skip
        self._renew()
        self._settle(self._tasks(3))

    def _settle(self, locals_: list[str]) -> None:
        dice, settles = self.dice, list[Settle]()
        mixed = dice.random() < 0.5
        kind, state, ttl = dice.randrange(9), dice.choice(sorted(OUTCOMES)), dice.choice(TTLS)
        for local in locals_:
            if mixed:
                kind, state = dice.randrange(9), dice.choice(sorted(OUTCOMES))
            claim, cursor = self._holder(local), dice.choice((b"", b"far " + local.encode()))
            delay = dice.choice((0, 0, 1, 500))
            if kind < 4:
                blob = self.twin.data.bodies.get(local, b"")
                value = make_value(state.value.encode(), blob=blob.ljust(8), claim=claim)
                payload = b"." * 5_000 if local in LARGE and dice.random() < 0.7 else b""
                client = blob[9:21].decode() or NOBODY
                hint = b"hint " + local.encode() if dice.random() < 0.2 else b""
                settles.append(End(local, claim, state, value, ttl, client, hint, payload))
            elif kind < 6:
                settles.append(Again(local, claim, delay, cursor, dice.random() < 0.3))
            else:
                settles.append(
                    (
                        Release(local, claim, cursor),
                        Park(local, claim, delay),
                        Lose(local, claim, dice.random() < 0.5, cursor),
                    )[kind - 6]
                )
        resend = dice.random() < 0.2
        self.broker.settle(
            QUEUE, settles, worker=WORKERS[0], resend=resend, stand=None if resend else self._stand(WORKERS[0]),
            claims=self.names[-2:] if dice.random() < 0.3 else (),
        )  # fmt: skip

    @rule(seed=SEEDS)
    def renew(self, seed: int) -> None:
        self._begin(seed)
        self._renew()

    def _renew(self) -> None:
        dice = self.dice
        known = sorted({*self.twin.data.leases, *self.names[-2:]})
        claims = dice.sample(known, dice.randint(0, len(known)))
        started = [
            StartedTask(self._holder(local), local, dice.choice((0, 5)), dice.random() < 0.3)
            for local in self._tasks(3) if dice.random() < 0.7
        ]  # fmt: skip
        notes = [
            Note(self._holder(local), local, dice.choice((NOBODY, *CLIENTS)), dice.choice((b"", b"at 1")),
                 dice.choice((b"", b"half", b"most")))
            for local in self._tasks(4) if dice.random() < 0.5
        ]  # fmt: skip
        lease = dice.choice(LEASES)
        self.broker.renew(
            QUEUE, worker=WORKERS[0], claims=claims, started=started, notes=notes, lease_ms=lease,
            **self._witness(lease),
        )  # fmt: skip
        self.broker.twice = True

    @rule(seed=SEEDS)
    def a_stopped_task_comes_back(self, seed: int) -> None:
        """Its worker is gone, and the next one is to bury it; or it is a suspect that is put off."""
        dice, worker = self._begin(seed), self.dice.choice(WORKERS)
        waiting = [local for local in IDS if local in self.twin.data.bodies]
        self.broker.claim_ids(QUEUE, waiting, claim=self.new_name(), worker=worker, lease_ms=1_000)
        if dice.random() < 0.5:
            self.broker.stop(QUEUE, self._tasks(3), mode="stop", grace_ms=dice.choice((None, 5)), value_of=cancelled)
        else:
            parks = [Park(local, self._holder(local), dice.choice((1, 500))) for local in self._tasks(4)]
            self.broker.settle(QUEUE, parks, stand=self._stand(worker))
            self.pass_time(dice.choice((1, 500)))
        if dice.random() < 0.5:
            self.broker.rescue_worker(QUEUE, worker)
        else:
            self.pass_time(dice.choice((1_000, 40_000)))
            self.claim(seed)
        again = self._some(IDS, 4)
        self.broker.claim_ids(QUEUE, again, claim=self.new_name(), worker=dice.choice(WORKERS), lease_ms=15_000)
        self._renew()

    @rule(seed=SEEDS)
    def workers_die_and_tell_of_themselves(self, seed: int) -> None:
        dice = self._begin(seed)
        worker = dice.choice(WORKERS)
        if dice.random() < 0.5:
            self.broker.rescue_worker(QUEUE, worker)
        account = WorkerRecord(
            worker, "host", 1, "boot", "ns", 5, (QUEUE,), "running", START_MS, {"thread": self.count}
        )
        # A second sending finds its own account, and announces nothing.
        self.broker.beat(account, ttl_ms=dice.choice((30_000, 300_000)), listed=dice.random() < 0.4)

    # -- what just happens ----------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from(STEPS_MS))
    def the_clock_moves(self, step_ms: int) -> None:
        self.pass_time(step_ms)

    @rule(seed=SEEDS)
    def something_is_forgotten_or_strange(self, seed: int) -> None:
        """An outcome's time is up; a later run; what others write, or a cancel leaves behind in a line."""
        dice, data, kind = self._begin(seed), self.twin.data, 0
        kind = dice.randrange(6)
        do = self.broker.client.execute_command
        keys = self.broker.keyspace.queue(QUEUE)
        if kind == 0:
            self.broker.client.script_flush()
        elif kind == 1 and data.results:
            local = dice.choice(sorted(data.results))
            do("DEL", keys.result(local))
            del data.results[local]
        elif kind == 2 and data.tasks and not self.full:
            local = dice.choice(sorted(data.tasks))
            r = data.entry(local)
            assert r is not None
            r.run = str(int(r.run) + 1)
            data.tasks[local] = r.text
            do("HSET", keys.of(("tasks",))[0], local, r.text)
        elif kind == 3 and not self.full:
            line, local = self._line(), dice.choice((*IDS, "ghost", "no id"))
            data.lines[line.code].append(local)
            do("RPUSH", keys.line(line), local)
        elif kind == 4 and not self.full:
            local = dice.choice((*IDS, "ghost"))
            data.later[local] = START_MS + self.now + 1
            do("ZADD", keys.of(("later",))[0], data.later[local], local)
        elif kind == 5 and data.bodies and dice.random() < 0.5:
            local = dice.choice(sorted(data.bodies))
            del data.bodies[local]
            do("HDEL", keys.of(("bodies",))[0], local)
        note(f"kind {kind}")

    def play(self, scene: Scene, seed: int) -> None:
        """Have a whole scene, on an empty server, which is empty again afterwards."""
        dice = self._begin(seed)
        self.lose_everything()
        scene(self, dice)
        self.watch.compare()
        self.lose_everything()

    def fill(self, full: bool) -> None:
        """Have the server be at its limit of memory, or no longer."""
        self.full = full
        self.broker.client.config_set("maxmemory", int(full))

    def hear_bells(self) -> None:
        """As workers do that wait for them."""
        if self.twin.data.bells:
            self.broker.client.execute_command("DEL", *self.broker.keyspace.queue(QUEUE).bells)
            self.twin.data.bells.clear()

    def lose_everything(self) -> None:
        """The server comes back empty."""
        self.broker.client.flushall()
        self.broker.owner.opened.clear()
        self.twin.data, self.twin.accounts, self.twin.workers = Data(), {}, {}
        self.broker.twice = True
        self.broker.drive(ensure_open(self.broker.owner, QUEUE))

    @precondition(lambda self: self.can_fill)
    @rule()
    def the_server_is_full_or_has_room_again(self) -> None:
        """What is full takes no task, and lets everything else go on."""
        self.fill(not self.full)

    @invariant()
    def all_is_as_the_twin_says(self) -> None:
        self.watch.compare()
