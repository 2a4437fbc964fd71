"""The scripts of task groups against a model: groups below groups, stops, silent owners, clock steps; each call twice.

After every step each group is what the model says, with its members in the order in which they joined, everything has a
time to live, and workers were told of each stop. No call touches a key that it did not declare. How workers act on what
they read is tested where they are: the scripts of groups and those of queues have no key in common.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qworker.broker import group_calls
from qworker.broker.group_calls import CLOSED_MS, KEPT_MS
from qworker.errors import GroupStopped, ServerFull, ServerUnfit
from support.backends import Backend, only_declared_keys, run_machine
from support.brokers import FAKES, START_MS, TwiceBroker

LEASE = 30_000
SILENT = 3_000
MOST = 4
# Each with those above it, the outermost first.
PATHS = {"g-1": (), "g-2": ("g-1",), "g-3": ("g-1", "g-2"), "g-4": ()}
TASKS = ("q:a", "q:b", "q:c", "q:d")
RUNS = {"model": 40, "fakeredis": 6, "fakeredis-6.2": 2, "redis": 40, "valkey": 40}
PREFIX = "qw:t:group:"
CHANNEL = "qw:t:groups"  # on which workers hear of stops
AGED_MS = KEPT_MS * 2 // 5  # what is left of some after a while: less than half, so that a reader renews it
TTL_SLACK_MS = 300_000  # what a run may take
MAKE: list[Callable[[], TwiceBroker]] = []
CAN_FILL: list[bool] = []  # not fakeredis, which has also pushed before it answers, and knows no PING


@dataclass
class Group:
    """What the model knows of a group."""

    on_loss: str
    beat: int
    deadline: int
    lease: int
    opened: int
    state: str = "open"
    reason: str = ""
    grace: str = ""
    late: int = 0
    stopped: int = 0
    closed: int = 0
    survivors: str = ""
    ttl: int = KEPT_MS
    members: dict[str, int] = field(default_factory=dict)
    members_ttl: int = KEPT_MS

    @property
    def takes(self) -> bool:
        return self.state in ("open", "detached")

    def fields(self, group: str) -> dict[bytes, bytes]:
        """As it is stored."""
        told = {
            "state": self.state, "name": "n", "owner": "me", "on_loss": self.on_loss, "lease_ms": self.lease,
            "beat_ms": self.beat, "deadline_ms": self.deadline, "opened_ms": self.opened,
            "path": " ".join(PATHS[group]),
        }  # fmt: skip
        if self.stopped:
            told |= {"reason": self.reason, "grace": self.grace, "stopped_ms": self.stopped}
        if self.closed:
            told |= {"closed_ms": self.closed}
        if self.survivors:
            told |= {"survivors": self.survivors}
        return {name.encode(): str(value).encode() for name, value in told.items()}


@contextlib.contextmanager
def refused(refusal: tuple[str, str] | None) -> Iterator[None]:
    """What is done in here is refused by this group for this reason; None: it is not."""
    if refusal is None:
        yield
        return
    with pytest.raises(GroupStopped, match=refusal[1]) as caught:
        yield
    assert caught.value.group == refusal[0]


class GroupMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = MAKE[-1]()
        self.now = START_MS
        self.groups: dict[str, Group] = {}
        self.full = False
        self.told: list[bytes] = []  # what workers are to have heard since the last look
        self.ear = self.broker.client.pubsub(ignore_subscribe_messages=True)
        self.ear.subscribe(CHANNEL)
        self._heard()
        self.broker.at(0)

    def teardown(self) -> None:
        if self.full:
            self.broker.client.config_set("maxmemory", 0)
        self.ear.close()

    # -- the model's own steps ------------------------------------------------------------------------------------

    def _heard(self) -> list[bytes]:
        """What workers heard since the last look."""
        found: list[bytes] = []
        if CAN_FILL[-1]:
            self.ear.ping()
        while True:
            message = self.ear.parse_response(block=False, timeout=5.0 if CAN_FILL[-1] else 0.0)
            if message is None or message[0] == b"pong":
                assert message or not CAN_FILL[-1], "it got no answer"
                return found
            if message[0] == b"message":
                found.append(message[2])

    def _stop(self, group: Group, reason: str, grace: str) -> None:
        if group.takes:
            group.state, group.reason, group.grace, group.stopped = "stopped", reason, grace, self.now
        elif group.state == "stopped" and grace and grace != group.grace:
            group.grace = grace
        else:
            return
        name = next(name for name, each in self.groups.items() if each is group)
        self.told.append(f"{name} {group.grace or '-'}".encode())

    def _lose_owner(self, group: Group) -> None:
        if group.state == "open" and group.on_loss == "detach":
            group.state = "detached"
        elif group.state == "open":
            self._stop(group, "its owner is gone", "")

    def _lapsed(self, group: Group) -> bool:
        return group.state == "open" and bool(group.lease) and self.now > group.beat + group.lease

    def _judge(self, group: Group) -> str:
        if not self._lapsed(group):
            return group.state
        if not group.late:
            group.late = self.now
        elif self.now >= group.late + SILENT:
            self._lose_owner(group)
            return group.state
        return "late"

    def _refusal(self, path: tuple[str, ...], members: dict[str, int], new: tuple[str, ...]) -> tuple[str, str] | None:
        """Which group takes nothing, and why, as it is said: a stop's reason with it."""
        for each in path:
            group = self.groups.get(each)
            if group is None:
                return each, "it is not known"
            state = self._judge(group)
            if state not in ("open", "detached", "late"):
                why = "it was stopped" if state == "stopped" else "its block was left"
                return each, re.escape(f"{why} ({group.reason})" if group.reason else f"{why}; nothing")
            if group.deadline and group.deadline <= self.now:
                return each, "its time is up"
        if path and len(members) + len(new) > MOST and new[0] not in members:
            return path[-1], "which is the limit"
        return None

    @contextlib.contextmanager
    def _if_there_is_room(self, before: Any, *, wrote: bool) -> Iterator[bool]:
        """What is done in here takes room: a full server refuses it if it has anything to write, and is as `before`.

        Yields whether it is done.
        """
        if before is None or not (wrote or self.groups != before[0]):
            yield True
            return
        self.groups, self.told = before
        with pytest.raises(ServerFull):
            yield False

    def _list(self, above: Group, new: tuple[str, ...]) -> None:
        for each in new:
            above.members.setdefault(each, self.now)
        above.members_ttl = KEPT_MS

    # -- what clients and workers do ------------------------------------------------------------------------------

    @rule(
        name=st.sampled_from(sorted(PATHS)),
        on_loss=st.sampled_from(("cancel", "detach")),
        timeout_ms=st.sampled_from((0, 0, 0, 1, 40_000)),
        lease_ms=st.sampled_from((LEASE, LEASE, LEASE, 1, 0)),
    )
    def open(self, name: str, on_loss: str, timeout_ms: int, lease_ms: int) -> None:
        path = PATHS[name]
        above = self.groups.get(path[-1]) if path else None
        before = copy.deepcopy((self.groups, self.told)) if self.full else None
        refusal = None
        if name not in self.groups:
            refusal = self._refusal(path, above.members if above else {}, (name,))
        with (
            self._if_there_is_room(before, wrote=refusal is None and name not in self.groups) as room,
            refused(refusal),
        ):
            self.broker.open_group(
                name, path=path, on_loss=on_loss, lease_ms=lease_ms, timeout_ms=timeout_ms, opener="me", name="n"
            )
        if not room or refusal is not None or name in self.groups:
            return
        self.groups[name] = Group(
            on_loss, self.now, self.now + timeout_ms if timeout_ms else 0, lease_ms, opened=self.now
        )
        if above is not None:
            self._list(above, (name,))

    @rule(
        name=st.sampled_from(sorted(PATHS)),
        tasks=st.lists(st.sampled_from(TASKS), min_size=1, max_size=3, unique=True).map(tuple),
    )
    def join(self, name: str, tasks: tuple[str, ...]) -> None:
        before = copy.deepcopy((self.groups, self.told)) if self.full else None
        group = self.groups.get(name)
        refusal = self._refusal((*PATHS[name], name), group.members if group else {}, tasks)
        with self._if_there_is_room(before, wrote=refusal is None) as room, refused(refusal):
            self.broker.join_group((*PATHS[name], name), tasks)
        if room and refusal is None:
            assert group is not None
            self._list(group, tasks)
            group.ttl = KEPT_MS

    @rule(name=st.sampled_from(sorted(PATHS)), grace=st.sampled_from((None, 0, 700)), gone=st.booleans())
    def stop(self, name: str, grace: int | None, gone: bool) -> None:
        told = self.broker.stop_group(name, grace_ms=grace, reason="told to", gone=gone)
        group = self.groups.get(name)
        if group is not None and gone:
            self._lose_owner(group)
        elif group is not None:
            self._stop(group, "told to", "" if grace is None else str(grace))
        assert told == (group.state if group else "")

    @rule(names=st.lists(st.sampled_from(sorted(PATHS)), min_size=1, max_size=3, unique=True))
    def beat(self, names: list[str]) -> None:
        told = self.broker.beat_groups(names)
        for name in names:
            group = self.groups.get(name)
            if group is not None and group.takes:
                group.state, group.beat, group.late, group.ttl = "open", self.now, 0, KEPT_MS
        assert told == tuple((g.state, g.reason) if (g := self.groups.get(name)) else ("", "") for name in names)

    @rule(names=st.lists(st.sampled_from(sorted(PATHS)), min_size=1, max_size=3, unique=True))
    def read(self, names: list[str]) -> None:
        told = self.broker.read_groups(names)
        expected = []
        for name in names:
            group = self.groups.get(name)
            state = self._judge(group) if group else ""
            if group is not None and state in ("open", "detached") and group.ttl == AGED_MS:
                group.ttl = KEPT_MS
            expected.append((state, int(group.grace) if group and group.grace else None))
        assert told == tuple(expected)

    @rule(
        name=st.sampled_from(sorted(PATHS)),
        less=st.sampled_from((-1, 0, 0, 1)),
        survivors=st.sampled_from(((), ("q:a", "q:b"))),
    )
    def close(self, name: str, less: int, survivors: tuple[str, ...]) -> None:
        """Having seen all of its members end, all but one, or whatever has."""
        group = self.groups.get(name)
        count = len(group.members) if group else 0
        seen = -1 if less < 0 else max(0, count - less)
        told = self.broker.close_group(name, seen=seen, survivors=survivors, path=PATHS[name])
        above = next((each for each in PATHS[name] if each in self.groups and not self.groups[each].takes), "")
        if group is None:
            assert told == ("", "", 0, above)
            return
        if 0 <= seen < count:
            assert told == ("more", group.reason, count, above)
            return
        assert told == (group.state, group.reason, count, above)
        if group.takes:
            group.state = "closed"
        if not group.closed:
            group.closed, group.survivors = self.now, " ".join(survivors)
            group.ttl = group.members_ttl = CLOSED_MS

    @rule(name=st.sampled_from(sorted(PATHS)), first=st.integers(0, 2), size=st.integers(1, 3))
    def show(self, name: str, first: int, size: int) -> None:
        view = self.broker.show_group(name, first=first, size=size)
        group = self.groups.get(name)
        members = sorted((at, member) for member, at in group.members.items()) if group else []
        assert view.state == ("" if group is None else "late" if self._lapsed(group) else group.state)
        assert (view.count, view.now_ms) == (len(members), self.now)
        assert view.members == tuple(member for _, member in members[first : first + size])
        if group is not None:
            assert (view.name, view.owner, view.on_loss, view.path) == ("n", "me", group.on_loss, PATHS[name])
            assert (view.reason, view.survivors) == (group.reason, tuple(group.survivors.split()))
            assert (view.opened_ms, view.deadline_ms) == (group.opened, group.deadline or None)
            assert (view.stopped_ms, view.closed_ms) == (group.stopped or None, group.closed or None)

    @rule(
        name=st.sampled_from(("g-1", "g-1", "g-2", "g-4")),
        on_loss=st.sampled_from(("cancel", "detach")),
        by=st.sampled_from(("read", "join", "open", "beat", "close")),
        lease_ms=st.sampled_from((LEASE, 1)),
    )
    def an_owner_is_silent(self, name: str, on_loss: str, by: str, lease_ms: int) -> None:
        """To the millisecond: its lease, the first who finds that it lapsed, and the one who finds it still silent."""
        path = PATHS[name]
        self.beat([*path, name])
        if name not in self.groups:
            self.open(name, on_loss, 0, lease_ms)
        group = self.groups.get(name)
        if group is None or not group.lease:
            return
        self._pass(group.lease)
        self.beat(list(path)) if path else None
        self.show(name, 0, 1)
        self.read([name])
        self._pass(1)
        for wait in (0, SILENT - 1, 1, 0):
            self._pass(wait)
            if by == "join":
                self.join(name, TASKS[:2])
            elif by == "open":
                below = next((each for each, above in PATHS.items() if above[-1:] == (name,)), name)
                self.open(below, on_loss, 0, LEASE)
            elif by == "close" and wait == 1:
                self.close(name, 0, ())
            else:
                self.read([name])
            self.show(name, 0, 3)
        if by == "beat":
            self.beat([name])

    @rule(by=st.sampled_from(("join", "open")))
    def the_time_of_a_group_is_up(self, by: str) -> None:
        """To the millisecond; who has joined before stays."""
        self.open("g-1", "cancel", 40_000, 0)
        group = self.groups.get("g-1")
        if group is None or not group.deadline:
            return
        for before in (1, 0):
            if group.deadline - before > self.now:
                self._pass(group.deadline - before - self.now)
            self.join("g-1", TASKS[:1]) if by == "join" else self.open("g-2", "cancel", 0, LEASE)

    @rule(first=st.sampled_from((None, 0, 700)), later=st.sampled_from((None, 0, 700)))
    def a_stop_finds_another(self, first: int | None, later: int | None) -> None:
        self.open("g-4", "cancel", 0, LEASE)
        self.join("g-4", TASKS[:1])
        self.close("g-4", 1, ())
        self.stop("g-4", first, False)
        self.stop("g-4", later, False)
        self.read(["g-4"])
        self.join("g-4", TASKS[:1])
        self.close("g-4", 0, ("q:a",))

    @rule(above=st.sampled_from(("g-1", "g-2")), below=st.sampled_from(("g-2", "g-3")), both=st.booleans())
    def one_above_is_stopped(self, above: str, below: str, both: bool) -> None:
        """Who leaves one below it hears of that, and of the outermost that was."""
        for name in ("g-1", "g-2", "g-3"):
            self.beat(list(PATHS[name])) if PATHS[name] else None
            self.open(name, "cancel", 0, LEASE)
        self.stop(above, None, False)
        if both:
            self.stop("g-1", None, False)
        self.close(below, 0, ())

    def _pass(self, ms: int) -> None:
        self.now += ms
        self.broker.at(self.now - START_MS)

    # -- what just happens ----------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from((1, 1_000, SILENT - 1, SILENT, LEASE, LEASE + 1, -1_000)))
    def the_clock_moves(self, step_ms: int) -> None:
        self._pass(step_ms)

    @rule(name=st.sampled_from(sorted(PATHS)), by=st.sampled_from(("join", "open", "beat", "read", "close")))
    def a_group_grows_old(self, name: str, by: str) -> None:
        """As if its time to live had nearly passed. Who has to do with it renews that."""
        group = self.groups.get(name)
        if group is None or group.closed:
            return
        self.broker.client.execute_command("PEXPIRE", PREFIX + name, AGED_MS)
        group.ttl = AGED_MS
        if group.members:
            self.broker.client.execute_command("PEXPIRE", f"{PREFIX}{name}:tasks", AGED_MS)
            group.members_ttl = AGED_MS
        if by == "join":
            self.join(name, TASKS[:2])
        elif by == "open" and name == "g-1":
            self.open("g-2", "cancel", 0, LEASE)
        elif by == "close":
            self.close(name, 0, ())
        else:
            self.beat([name]) if by == "beat" else self.read([name])

    @rule(tasks=st.integers(MOST - 2, MOST), first=st.booleans())
    def a_group_takes_no_more(self, tasks: int, first: bool) -> None:
        """To the last place, which a task takes, or a group."""
        self.beat(["g-1"])
        self.open("g-1", "cancel", 0, LEASE)
        if first:
            self.open("g-2", "cancel", 0, LEASE)
        self.join("g-1", TASKS[:tasks])
        self.open("g-2", "cancel", 0, LEASE)
        self.join("g-1", TASKS[-1:])
        self.join("g-1", TASKS[:1])

    @rule(names=st.permutations(sorted(PATHS)))
    def those_that_ended_are_gone(self, names: list[str]) -> None:
        """Else soon all of the few that there are would have ended."""
        for name in names[:2]:
            group = self.groups.get(name)
            if group is not None and not group.takes:
                self.broker.client.delete(PREFIX + name, f"{PREFIX}{name}:tasks")
                del self.groups[name]

    @rule()
    def the_server_forgets_its_scripts(self) -> None:
        self.broker.client.script_flush()

    @precondition(lambda self: CAN_FILL[-1])
    @rule()
    def the_server_is_full_or_has_room_again(self) -> None:
        """What is full takes no group and no member, and lets everything else go on."""
        self.full = not self.full
        self.broker.client.config_set("maxmemory", int(self.full))

    # -- what holds after every step ------------------------------------------------------------------------------

    @invariant()
    def the_groups_are_what_the_model_says(self) -> None:
        told, self.told = self.told, []
        assert self._heard() == told
        keys = {key.decode().removeprefix(PREFIX): value for key, value in self.broker.snapshot().items()}
        assert set(keys) == {*self.groups, *(f"{name}:tasks" for name, group in self.groups.items() if group.members)}
        for name, group in self.groups.items():
            told = dict(keys[name])
            assert int(told.pop(b"late_ms", b"0")) == group.late
            assert told == group.fields(name)
            self._lives(name, group.ttl)
            if group.members:
                found = {member.decode(): at for member, at in keys[f"{name}:tasks"]}
                assert found == group.members
                self._lives(f"{name}:tasks", group.members_ttl)

    def _lives(self, key: str, ttl: int) -> None:
        assert ttl - TTL_SLACK_MS < self.broker.client.pttl(PREFIX + key) <= ttl


@pytest.mark.timeout(3600)  # `make models` takes its time
def test_the_scripts_of_groups_do_what_the_model_does(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """QWORKER_TEST_RUNS multiplies the number of runs."""
    if backend.kind == "cluster":
        broker = backend.make()
        with pytest.raises(ServerUnfit, match="cluster"):
            broker.open_group("g-1", lease_ms=LEASE)  # the keys of a group have no slot in common yet
        return
    monkeypatch.setattr(group_calls, "MOST_MEMBERS", MOST)
    MAKE.append(backend.make)
    CAN_FILL.append(backend.kind not in FAKES)
    try:
        with only_declared_keys():
            run_machine(GroupMachine, RUNS[backend.kind])
    finally:
        MAKE.pop()
        CAN_FILL.pop()
