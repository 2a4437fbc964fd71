"""What the scripts of a queue are to do, in Python: the model that test_broker_machine.py drives beside a server.

    model.settled(settle, resend) == the server's answer      each verb, as far as its effect is not plain
    model.check(keys)                                         all that the server holds is what the model says

Its time is that of the server, in ms since START_MS.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from qworker.broker.records import read_record
from qworker.lifecycle import HELD, KEPT_FOR_RETRY, OUTCOMES, State
from qworker.model import End, Line, Lose, Park, Record, Release, Settle
from support.blobs import make_blob
from support.brokers import LEASE_MS, START_MS, next_fence


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


class Model:
    """The live tasks of a queue, the open claims, and what is kept of the tasks that ended."""

    def __init__(self) -> None:
        self.now = 0
        self.tasks: dict[str, Task] = {}
        self.claims: dict[str, Lease] = {}
        self.outcomes: dict[str, bytes] = {}  # those that are still kept
        self.contents: dict[str, bytes] = {}  # of the ids that have one
        self.dead: dict[str, tuple[int, bytes]] = {}  # since when, and the run and blob that are kept for a retry
        self.counts: Counter[str] = Counter()
        self.hold = -(10**9)
        self.longest = 0
        self.fence = 0

    def read_meta(self, *, stalled: bool = False) -> None:
        self.longest = LEASE_MS
        for lease in self.claims.values():
            if lease.ends_ms > self.now + self.longest:
                lease.ends_ms = self.now + LEASE_MS
        if stalled or self.hold > self.now + self.longest:
            self.hold = self.now + LEASE_MS
            self.counts["amnesties"] += 1

    def put_back(self, local: str, **changes: Any) -> None:
        task = self.tasks[local]
        task.record = replace(task.record, state=State.QUEUED, claim="", started_ms=0, **changes)

    def charged(self, local: str, *, exact: bool) -> None:
        record = self.tasks[local].record
        self.put_back(local, attempt=record.attempt + 1, losses=record.losses + 1, deliveries=0, exact=exact)

    def leave(self, claim: str, local: str) -> None:
        lease = self.claims[claim]
        lease.tasks.remove(local)
        lease.seen = True
        if not lease.tasks:
            del self.claims[claim]

    def rescue(self, claims: list[str], *, dead: bool) -> list[tuple[str, str]]:
        """Put back what these claims hold; returns claim and id of each task. `dead`: their worker is known to be."""
        names = []
        for claim in claims:
            lease = self.claims.pop(claim)
            names += [(claim, local) for local in lease.tasks]
            for local in lease.tasks:
                task = self.tasks[local]
                task.left = ""
                task.record = replace(task.record, adrift=task.record.adrift or not dead)
                if lease.seen:
                    self.charged(local, exact=lease.alone)
                else:
                    self.put_back(local)
        self.counts["rescued"] += len(names)
        return names

    def lapse(self) -> list[tuple[str, str]]:
        """Have a claim put back what lapsed, and bring what is due; returns what was rescued."""
        lapsed = [each for each, lease in self.claims.items() if lease.ends_ms <= self.now and self.hold <= self.now]
        rescued = self.rescue(lapsed, dead=False)
        for task in self.tasks.values():
            if task.record.state is State.SCHEDULED and task.due_ms <= self.now:
                task.record = replace(task.record, state=State.QUEUED)
        return rescued

    def content_of(self, local: str) -> bytes | None:
        return self.tasks[local].content if local in self.tasks else self.contents.get(local)

    def holds(self, claim: str, local: str) -> bool:
        return claim in self.claims and local in self.claims[claim].tasks

    def ended(self, local: str, state: State, value: bytes) -> None:
        task = self.tasks.pop(local)
        self.counts[state.value] += 1
        self.outcomes[local], self.contents[local] = value, task.content
        if state in KEPT_FOR_RETRY:
            kept = b"%d %s" % (task.record.run, make_blob(task.content, line=task.line))
            self.dead[local] = START_MS + self.now, kept

    def finished(self, local: str, state: State, value: bytes) -> None:
        """A task that no worker has was ended from outside: its outcome says of whom, and whether it is adrift."""
        task = self.tasks[local]
        claim = b"-----------a" if task.record.adrift else value[12:24]
        self.ended(local, state, value[:3] + make_blob(task.content)[:8] + value[11:12] + claim + value[24:])

    def opened(self, claim: str, worker: str, window: Any, *, alone: bool) -> None:
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

    def settled(self, settle: Settle, resend: bool) -> str:
        """Settle one task in the model; what the answer is."""
        local, claim = settle.id, settle.claim
        if not self.holds(claim, local):
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
            self.leave(claim, local)
            self.ended(local, settle.state, settle.value)
            return "ok"
        if record.stop is not None:
            return "stopped"
        self.leave(claim, local)
        task.left = claim
        fewer = max(0, record.deliveries - 1)
        if isinstance(settle, Park):
            self.counts["parked"] += 1
            self.put_back(local, deliveries=fewer)
            self.delay(task, settle.delay_ms)
            return "ok"
        task.cursor = settle.cursor or task.cursor
        if isinstance(settle, Lose):
            self.counts["lost"] += 1
            self.charged(local, exact=settle.exact)
        elif isinstance(settle, Release):
            self.counts["released"] += 1
            self.put_back(local, deliveries=fewer, once=False)
        else:
            self.counts["retried"] += 1
            record = task.record = replace(record, adrift=record.adrift or settle.runs_on)
            self.put_back(local, attempt=record.attempt + 1, deliveries=0)
            if settle.delay_ms:
                self.delay(task, settle.delay_ms)
        return "ok"

    def delay(self, task: Task, delay_ms: int) -> None:
        task.due_ms = self.now + delay_ms
        task.record = replace(task.record, state=State.SCHEDULED)

    def check(self, keys: dict[str, Any]) -> None:
        """Compare what the server holds, by the names of its keys without their prefix; I1 … as in the machine."""
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
        dead = keys.get("dead_bodies", {})
        assert {local.decode(): (since, dead.get(local)) for local, since in keys.get("dead", [])} == self.dead
        assert len(dead) == len(self.dead)
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
