"""Scenes that random search does not come to: more than the scripts do in one call, and what others wrote.

for scene in SCENES: machine.play(scene, seed)
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

from qworker.broker import StartedTask, producer_calls
from qworker.broker.values import Stand, SubmitItem
from qworker.errors import ServerFull
from qworker.lifecycle import State
from qworker.model import POOL_NEEDS, PRIORITIES, Again, End, Line, Lose, Park, Release, Settle
from qworker.views import WorkerRecord
from support.blobs import NOBODY, make_blob, make_value
from support.brokers import QUEUE, START_MS
from support.machine_data import Entry

if TYPE_CHECKING:
    from support.machine_exact import ExactMachine, Scene

WORKER, OTHER = "host:1:aaaa", "host:2:bbbb"
LEASE_MS = 1_000


def _queue(machine: ExactMachine, count: int, line: Line, *, delay_ms: int = 0, first: int = 0) -> list[str]:
    ids = [f"k{n}" for n in range(first, first + count)]
    blobs = [make_blob(local.encode(), line=line) for local in ids]
    items = [SubmitItem(local, blob, delay_ms) for local, blob in zip(ids, blobs, strict=True)]
    machine.broker.submit(QUEUE, line, items, given=False)
    machine.watch.compare()
    return ids


def _claim(
    machine: ExactMachine, dice: random.Random, room: int, *, worker: str = OTHER, max_bytes: int = 8 << 20
) -> str:
    claim = machine.new_name()
    needs = dice.sample(POOL_NEEDS, 4)
    if dice.random() < 0.6:
        machine.hear_bells()
    machine.broker.claim(
        QUEUE, claim=claim, worker=worker, rooms=[(needs, room)], lease_ms=LEASE_MS, max_bytes=max_bytes,
        alone=dice.random() < 0.3,
    )  # fmt: skip
    machine.watch.compare()
    return claim


def many_claims_lapse(machine: ExactMachine, dice: random.Random) -> None:
    """More than one call puts back."""
    ids = _queue(machine, dice.choice((31, 32, 33, 40)), Line())
    machine.broker.twice = False
    claims = [machine.new_name() for _ in ids]
    for local, claim in zip(ids, claims, strict=True):
        machine.broker.claim_ids(QUEUE, [local], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
    some = claims[:: dice.randint(2, 5)]
    machine.broker.renew(QUEUE, worker=WORKER, claims=some, lease_ms=LEASE_MS)
    machine.broker.stop(QUEUE, ids[:2], mode="stop", value_of=lambda _: make_value())
    machine.pass_time(LEASE_MS)
    for _ in range(3):
        _claim(machine, dice, dice.choice((1, 50)))


def many_tasks_lapse(machine: ExactMachine, dice: random.Random) -> None:
    """More than one call puts back, in few claims."""
    _three_claims(machine, dice, dice.choice((250, 260)))
    machine.pass_time(LEASE_MS)
    for _ in range(2):
        _claim(machine, dice, 1)


def a_dead_worker_had_much(machine: ExactMachine, dice: random.Random) -> None:
    """More than one call puts back."""
    _three_claims(machine, dice, dice.choice((333, 510)))
    machine.broker.rescue_worker(QUEUE, WORKER)


def _three_claims(machine: ExactMachine, dice: random.Random, size: int) -> None:
    machine.broker.twice = False
    for n in range(3):
        _queue(machine, size, Line(), first=n * size)
        _claim(machine, dice, size, worker=WORKER)


def many_are_due(machine: ExactMachine, dice: random.Random) -> None:
    """More than one call brings."""
    _queue(machine, dice.choice((499, 500, 501, 520)), Line(priority="low"), delay_ms=5)
    machine.broker.twice = False
    machine.pass_time(5)
    for _ in range(2):
        _claim(machine, dice, 2)


def a_wide_window(machine: ExactMachine, dice: random.Random) -> None:
    """Several batches of several lines, by room or by bytes, and all of it settled at once."""
    count = dice.choice((31, 32, 33, 45, 170))
    ids = _queue(machine, count, Line(dice.choice(POOL_NEEDS), "high"))
    ids += _queue(machine, 3, Line(dice.choice(POOL_NEEDS), dice.choice(PRIORITIES)), first=count)
    ids += _queue(machine, 2, Line(priority="low"), first=count + 3)
    few, claim = ids[:6], machine.new_name()
    some = sum(len(machine.twin.data.bodies[local]) for local in few[:3]) + dice.choice((-1, 0, 1))
    machine.broker.claim_ids(QUEUE, few, claim=claim, worker=WORKER, lease_ms=LEASE_MS, max_bytes=some)
    machine.broker.settle(QUEUE, [Release(local, claim) for local in few])
    machine.watch.compare()
    for local in ids[:: dice.randint(3, 40)]:  # some are no longer what they were
        claim = machine.new_name()
        machine.broker.claim_ids(QUEUE, [local], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
        if dice.random() < 0.5:
            machine.broker.settle(QUEUE, [Lose(local, claim, False)])
    first = sum(len(machine.twin.data.bodies[local]) for local in ids[:32])  # a batch, to the last byte
    for turn in range(2):
        claim = _claim(machine, dice, dice.choice((32, 33, count, count + 1, 500)),
                       max_bytes=dice.choice((8 << 20, first, first, first + 200)))  # fmt: skip
        if turn == 0:
            _are_tables(machine)
        held = machine.twin.data.held.get(claim, "").split()[3:]
        started = [StartedTask(claim, local, 1, False) for local in held[::3]]
        machine.broker.renew(QUEUE, worker=OTHER, claims=[claim], started=started, lease_ms=LEASE_MS)
        blob = b"\0" * 8
        settles: list[Settle] = []
        for n, local in enumerate(held):
            settles.append(
                (
                    End(local, claim, State.SUCCEEDED, make_value(blob=blob, claim=claim), 60_000, NOBODY),
                    Again(local, claim, 0),
                    Release(local, claim),
                    Lose(local, claim, False),
                )[n % 4 if n % 5 else 0]
            )
        machine.broker.settle(QUEUE, settles)
        machine.watch.compare()


def what_is_passed_over(machine: ExactMachine, dice: random.Random) -> None:
    """Entries that cancels have left in a line, few or more than one call passes over."""
    line, keys = Line(dice.choice(POOL_NEEDS), dice.choice(PRIORITIES)), machine.broker.keyspace.queue(QUEUE)
    ghosts = [f"g{n}" for n in range(dice.choice((19, 20, 21, 995, 1_000, 1_010)))]
    machine.broker.client.execute_command("RPUSH", keys.line(line), *ghosts)
    machine.twin.data.lines[line.code] += ghosts
    _queue(machine, dice.choice((1, 3)), line)
    _queue(machine, 2, Line(dice.choice(POOL_NEEDS), "low"), first=10)
    machine.broker.stats(QUEUE)
    if not hasattr(machine.broker.client, "store"):  # the model of a server looks for it in all of a line
        machine.broker.inspect(QUEUE, "k0")
    machine.broker.twice = False
    for _ in range(2):
        _claim(machine, dice, dice.choice((1, 5)))


def suspects_of_others(machine: ExactMachine, dice: random.Random) -> None:
    """Some that this worker serves are behind some that it does not."""
    for pool, first in (("thread", 0), ("process", 10)):
        for local in _queue(machine, 3, Line(pool), first=first):  # type: ignore[arg-type]
            for _ in range(2):
                claim = machine.new_name()
                machine.broker.claim_ids(QUEUE, [local], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
                machine.broker.settle(QUEUE, [Lose(local, claim, dice.random() < 0.5)])
    machine.broker.inspect(QUEUE, dice.choice(("k0", "k2", "k11")))
    for needs in (("default",), ("process",), ("process", "thread"), ("thread",)):
        machine.broker.claim(
            QUEUE,
            claim=machine.new_name(),
            worker=OTHER,
            rooms=[(("async",), 1), (needs, 2)],
            lease_ms=LEASE_MS,
            alone=True,
        )
        machine.watch.compare()


def standing_claims(machine: ExactMachine, dice: random.Random) -> None:
    """Some are filled by a lone task, others are of who does not hear, serve another pool, or have lapsed."""
    broker, stands, ids = machine.broker, list[Stand](), [f"k{n}" for n in range(9)]
    broker.claim(QUEUE, claim=machine.new_name(), worker=WORKER, rooms=[], lease_ms=LEASE_MS)  # it has no room at all
    for _ in range(5):
        worker = dice.choice((WORKER, WORKER, OTHER))
        needs = dice.choice(((Line().pool,), ("thread", "default"), ("async",)))
        stand = Stand(machine.new_name(), worker, needs, dice.choice((LEASE_MS, 20_000)))  # type: ignore[arg-type]
        standing = [each for each in stands if each.worker == worker]
        if dice.random() < 0.5:
            standing = standing[-2:]
        broker.claim(
            QUEUE, claim=machine.new_name(), worker=worker, rooms=[(needs, 2)], lease_ms=LEASE_MS, stand=stand,
            standing=standing[::-1] if dice.random() < 0.5 else [],
        )  # fmt: skip
        stands.append(stand)
        machine.pass_time(dice.choice((0, 0, 1, 2_500)))
        for _ in range(dice.randint(0, 2)):
            line, local = Line(dice.choice(("default", "default", "thread"))), ids.pop()  # type: ignore[arg-type]
            delay = dice.choice((0, 0, 0, 0, 5))
            blob = make_blob(local.encode(), line=line)
            broker.submit(QUEUE, line, [SubmitItem(local, blob, delay)], given=dice.random() < 0.5)
            machine.watch.compare()
        for stood in stands:
            held = machine.twin.data.held.get(stood.claim, "").split()[3:]
            if held and dice.random() < 0.3:
                late = Stand(stood.claim, worker, needs, LEASE_MS)  # type: ignore[arg-type]
                broker.settle(QUEUE, [Release(held[0], stood.claim)], stand=late)
            elif held and dice.random() < 0.4:
                settles: list[Settle] = [Park(held[0], stood.claim, 3_000)]
                broker.settle(QUEUE, settles, stand=dice.choice((None, stood, stands[0])))
            machine.watch.compare()
    for worker in (WORKER, OTHER):
        standing = [stand for stand in stands if stand.worker == worker]
        broker.claim(
            QUEUE, claim=machine.new_name(), worker=worker, rooms=[(("default",), 2)], lease_ms=LEASE_MS,
            standing=standing,
        )  # fmt: skip
        machine.watch.compare()


def nothing_stands_while_something_waits(machine: ExactMachine, dice: random.Random) -> None:
    """In any of the lines, or among the suspects."""
    for line in (Line(pool, priority) for pool in POOL_NEEDS for priority in PRIORITIES):
        (local,) = _queue(machine, 1, line)
        others = [pool for pool in POOL_NEEDS if pool != line.pool]
        stand = Stand(machine.new_name(), WORKER, (others[0],), LEASE_MS)
        machine.broker.claim(
            QUEUE, claim=machine.new_name(), worker=WORKER, rooms=[(others, 2)], lease_ms=LEASE_MS, stand=stand
        )
        machine.watch.compare()
        claim = machine.new_name()
        machine.broker.claim(
            QUEUE, claim=claim, worker=WORKER, rooms=[(POOL_NEEDS, 2)], lease_ms=LEASE_MS, standing=[stand]
        )
        value = make_value(claim=claim)
        machine.broker.settle(QUEUE, [End(local, claim, State.SUCCEEDED, value, 60_000, NOBODY)], stand=stand)
        machine.broker.client.delete(machine.broker.keyspace.queue(QUEUE).result(local))
        machine.twin.data.results.clear()
        machine.watch.compare()


def what_others_wrote(machine: ExactMachine, dice: random.Random) -> None:
    """Entries, bodies and records that are not what they should be, among good ones."""
    data, keys, do = machine.twin.data, machine.broker.keyspace.queue(QUEUE), machine.broker.client.execute_command
    line, other = Line(), Line("thread")
    _queue(machine, 2, line)
    entry = partial(Entry, line=line.code)
    good, of_other = make_blob(b"x", line=line), make_blob(b"x", line=other)
    kinds: list[tuple[str, bytes, str]] = [
        ("no id", good, ""), ("x" * 65, good, ""), ("x" * 64, good, ""), ("other", of_other, ""), ("none", b"", ""),
        ("short", b"abc", ""), ("strange", b"A BODY OF SOME OTHER KIND", ""), ("unread", good, "garbage"),
        ("lost", good, entry(losses=2).text), ("once", good, entry(losses=1).text),
        ("large", b"", entry(marks=" l").text),
        ("held", good, entry("c", machine.new_name()).text), ("moved", good, entry(line=other.code).text),
        ("moved2", of_other, entry(losses=2).text),
        ("strange2", b"A BODY OF SOME", entry(losses=2).text),
        ("no id 2", good, entry(losses=2).text), ("bodiless", b"", entry(losses=3).text),
        ("q", good, entry(stop="5").text),
        ("due", good, entry("s").text), ("due2", good, entry("s", losses=2).text), ("due3", b"", ""),
    ]  # fmt: skip
    bodies, tasks, suspects, later = keys.of(("bodies", "tasks", "suspects", "later"))
    for local, blob, text in dice.sample(kinds, 11):
        if blob:
            data.bodies[local] = blob
            do("HSET", bodies, local, blob)
        if text:
            data.tasks[local] = text
            do("HSET", tasks, local, text)
        if local.startswith("due"):
            data.later[local] = machine.twin.now + 1
            do("ZADD", later, data.later[local], local)
        elif " 2 0 0 " in text or dice.random() < 0.1:
            data.suspects.append(local)
            do("RPUSH", suspects, local)
        else:
            for _ in range(dice.choice((1, 1, 2))):
                data.lines[line.code].append(local)
                do("RPUSH", keys.line(line), local)
    machine.broker.twice = False
    machine.broker.stats(QUEUE)
    machine.pass_time(dice.choice((0, 1)))
    for n in range(3):
        machine.broker.claim(
            QUEUE, claim=machine.new_name(), worker=OTHER, rooms=[(dice.choice((("default",), POOL_NEEDS)), 5)],
            lease_ms=LEASE_MS, alone=n < 2,
        )  # fmt: skip
        machine.watch.compare()
    wanted = [local for local, *_ in kinds]
    machine.broker.claim_ids(QUEUE, wanted, claim=machine.new_name(), worker=WORKER, lease_ms=LEASE_MS)
    machine.watch.compare()
    if dice.random() < 0.5:
        machine.broker.stop(QUEUE, wanted, mode="stop", value_of=lambda _: make_value())
    else:
        machine.broker.expire(QUEUE, wanted, value_of=lambda _: make_value())


def _are_tables(machine: ExactMachine) -> None:
    """Hashes are tables as soon as a window was wide, and else not; a model of a server has no encodings."""
    broker = machine.broker
    if type(broker.client).__module__.startswith("redis"):
        for name in ("bodies", "tasks"):
            kind = broker.client.object("encoding", broker.keyspace.queue(QUEUE).of((name,))[0])
            assert (kind == b"hashtable") == (name in machine.twin.data.spread), f"{name}: {kind!r}"


def suspects_are_due(machine: ExactMachine, dice: random.Random) -> None:
    """Whoever brings them back rings for a worker that is alone, whatever it takes itself."""
    ids = _queue(machine, 3, Line(dice.choice(POOL_NEEDS)))
    lost = dice.choice((1, 2, 3))
    for n in range(lost + 1):
        claim = machine.new_name()
        machine.broker.claim_ids(QUEUE, ids, claim=claim, worker=WORKER, lease_ms=LEASE_MS)
        moves = [Lose(local, claim, False) if n < lost else Park(local, claim, 5) for local in ids]
        machine.broker.settle(QUEUE, moves)
    machine.hear_bells()
    machine.pass_time(5)
    for alone in (dice.random() < 0.5, True):
        stand = Stand(machine.new_name(), WORKER, ("async",), LEASE_MS)
        rooms = [((dice.choice(POOL_NEEDS),), 1)]
        machine.broker.claim(
            QUEUE, claim=machine.new_name(), worker=OTHER, rooms=rooms, lease_ms=LEASE_MS, alone=alone, stand=stand
        )
        machine.watch.compare()
        machine.hear_bells()


def more_suspects_than_one_look(machine: ExactMachine, dice: random.Random) -> None:
    """The first thousand are for others; who has looked at them sees those behind them next."""
    data, keys, do = machine.twin.data, machine.broker.keyspace.queue(QUEUE), machine.broker.client.execute_command
    count = dice.choice((999, 1_000, 1_000, 1_003))
    for n in range(count + 2):
        line = Line("process" if n < count else "thread")
        local = f"k{n}"
        data.bodies[local] = make_blob(local.encode(), line=line)
        data.tasks[local] = Entry(line=line.code, losses=2).text
        data.suspects.append(local)
    bodies, tasks, suspects = keys.of(("bodies", "tasks", "suspects"))
    do("HSET", bodies, *[part for pair in data.bodies.items() for part in pair])
    do("HSET", tasks, *[part for pair in data.tasks.items() for part in pair])
    do("RPUSH", suspects, *data.suspects)
    machine.broker.twice = False
    for _ in range(2):
        machine.broker.claim(
            QUEUE, claim=machine.new_name(), worker=OTHER, rooms=[(("thread",), 2)], lease_ms=LEASE_MS, alone=True
        )
        machine.watch.compare()


def too_many_are_dead(machine: ExactMachine, dice: random.Random) -> None:
    """The oldest go, so many at once; and what is older than a week."""
    data, keys, do = machine.twin.data, machine.broker.keyspace.queue(QUEUE), machine.broker.client.execute_command
    now = machine.twin.now
    count, old = dice.choice((9_998, 9_999, 10_000, 10_002, 11_500)), dice.choice((0, 0, 1, 1_100))
    for n in range(count):
        since = now - 7 * 24 * 3_600_000 + n if n < old else now - 1
        data.dead[f"k{n:05}"], data.dead_bodies[f"k{n:05}"] = since, b"1"
    dead, bodies = keys.of(("dead", "dead_bodies"))
    do("ZADD", dead, *[part for local, since in data.dead.items() for part in (since, local)])
    do("HSET", bodies, *[part for pair in data.dead_bodies.items() for part in pair])
    machine.broker.twice = False
    for local in ("a", "b"):
        claim = machine.new_name()
        _queue_one(machine, local)
        machine.broker.claim_ids(QUEUE, [local], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
        value = make_value(claim=claim)
        machine.broker.settle(QUEUE, [End(local, claim, State.FAILED, value, 60_000, NOBODY)])


def _queue_one(machine: ExactMachine, local: str) -> None:
    machine.broker.submit(QUEUE, Line(), [SubmitItem(local, make_blob(local.encode()))], given=False)


def a_full_server(machine: ExactMachine, dice: random.Random) -> None:
    """It takes no task, and lets each of the others be the first to write."""
    if not machine.can_fill:
        return
    broker, line = machine.broker, Line()
    stand = Stand(machine.new_name(), WORKER, ("default",), LEASE_MS)
    empty = dice.random() < 0.5
    ids = [] if empty else _queue(machine, 8, line)
    claim = machine.new_name()
    value = make_value(claim=claim)
    if not empty:
        broker.claim_ids(QUEUE, ids[:4], claim=claim, worker=WORKER, lease_ms=LEASE_MS)
        timed = [SubmitItem("later", make_blob(b"later"), 5_000), SubmitItem("late", make_blob(b"late"), 0, 1)]
        broker.submit(QUEUE, line, timed, given=False)
    rooms = [(("default",), 1)]
    account = WorkerRecord(WORKER, "host", 1, "boot", "ns", 5, (QUEUE,), "running", START_MS, {"thread": 1})
    ended = End("k0", claim, dice.choice((State.SUCCEEDED, State.FAILED)), value, 60_000, NOBODY, b"", b"." * 5_000)
    doing: list[Callable[[], object]] = [
        lambda: broker.beat(account),
        lambda: broker.beat(account, listed=True),
        lambda: broker.renew(QUEUE, worker=WORKER, claims=[claim], lease_ms=dice.choice((LEASE_MS, 50_000))),
        lambda: broker.renew(QUEUE, worker=WORKER, claims=[], lease_ms=LEASE_MS, stalled=True),
        lambda: broker.claim(
            QUEUE, claim=machine.new_name(), worker=WORKER, rooms=rooms, lease_ms=dice.choice((LEASE_MS, 60_000)),
            stand=stand if empty else dice.choice((None, stand)), stalled=dice.random() < 0.3,
        ),
        lambda: broker.claim_ids(QUEUE, ["k5"], claim=machine.new_name(), worker=WORKER, lease_ms=LEASE_MS),
        lambda: broker.settle(QUEUE, [ended], stand=dice.choice((None, stand))),
        lambda: broker.settle(QUEUE, [Lose("k1", claim, False, b"far")]),
        lambda: broker.settle(QUEUE, [Park("k2", claim, 5)], stand=stand),
        lambda: broker.settle(QUEUE, [Lose("never", claim, False)]),
        lambda: broker.stop(QUEUE, ["k3", "k6"], mode="stop", value_of=lambda _: make_value()),
        lambda: broker.stop(QUEUE, ["later"], mode="cancel", value_of=lambda _: make_value()),
        lambda: broker.expire(QUEUE, ["late", "k7"], value_of=lambda _: make_value()),
        lambda: broker.rescue_worker(QUEUE, WORKER),
        lambda: broker.perform(producer_calls.open_queue(broker.owner, QUEUE)),
    ]  # fmt: skip
    dice.shuffle(doing)
    if empty:  # what is known of leases needs no room later
        broker.claim(QUEUE, claim=machine.new_name(), worker=OTHER, rooms=rooms, lease_ms=60_000)
    machine.pass_time(1)
    machine.fill(True)
    broker.twice = False
    for do in doing:
        do()
        machine.watch.compare()
    with pytest.raises(ServerFull):
        broker.submit(QUEUE, line, [SubmitItem("new", make_blob(b"new"))], given=dice.random() < 0.5)
    machine.watch.compare()
    machine.fill(False)


def more_than_a_thousand(machine: ExactMachine, dice: random.Random) -> None:
    """In one call of each kind: a script takes no more than that in one command."""
    ids = _queue(machine, dice.choice((1_001, 1_030)), Line())
    machine.broker.submit(QUEUE, Line(), [SubmitItem(local, make_blob(local.encode())) for local in ids], given=False)
    machine.broker.twice = False
    claim = _claim(machine, dice, 2_000)
    started = [StartedTask(claim, local, 1, False) for local in ids[::2]]
    machine.broker.renew(QUEUE, worker=OTHER, claims=[claim], started=started, lease_ms=LEASE_MS)
    if dice.random() < 0.5:
        value = make_value(claim=claim)
        machine.broker.settle(QUEUE, [End(local, claim, State.FAILED, value, 60_000, NOBODY) for local in ids])
    elif dice.random() < 0.5:
        moves = [Release(local, claim) if n % 3 else Lose(local, claim, False) for n, local in enumerate(ids)]
        machine.broker.settle(QUEUE, moves)
    else:
        machine.pass_time(LEASE_MS)
        _claim(machine, dice, 3)


def places_in_lines(machine: ExactMachine, dice: random.Random) -> None:
    """What is before a task is what waits in its own line, and in those of its pool that come first."""
    ids: list[str] = []
    for pool in POOL_NEEDS:
        for priority in PRIORITIES:
            ids += _queue(machine, dice.randint(1, 3), Line(pool, priority), first=len(ids))
    for local in ids:
        machine.broker.inspect(QUEUE, local)
    machine.broker.stats(QUEUE)
    late = SubmitItem("late", make_blob(b"late"), 0, 1)
    machine.broker.submit(QUEUE, Line(), [late], given=False)
    machine.pass_time(1)
    machine.broker.expire(QUEUE, ["late", ids[0]], value_of=lambda _: make_value())


def by_the_clock_of_the_server(machine: ExactMachine, dice: random.Random) -> None:
    """Which is this one's, here; all else goes by a clock that is moved."""
    given, machine.broker.owner.now_ms = machine.broker.owner.now_ms, ""
    machine.watch.pause()
    before = int(time.time() * 1_000)
    now = machine.broker.stats(QUEUE).now_ms
    assert before - 1 <= now <= int(time.time() * 1_000) + 1
    machine.watch.resume()
    machine.broker.owner.now_ms = given


SCENES: tuple[Scene, ...] = (
    many_claims_lapse, many_tasks_lapse, a_dead_worker_had_much,
    many_are_due, a_wide_window, a_wide_window, what_is_passed_over,
    suspects_of_others, more_suspects_than_one_look, too_many_are_dead,
    suspects_are_due, suspects_are_due, suspects_are_due,
    standing_claims, standing_claims, standing_claims, *[what_others_wrote] * 6,
    more_than_a_thousand, places_in_lines, *[by_the_clock_of_the_server] * 3,
    nothing_stands_while_something_waits, *[a_full_server] * 8,
)  # fmt: skip
