"""The scripts of task groups against a model: groups below groups, stops, silent owners, clock steps; each call twice.

After every step each group is what the model says, with its members in the order in which they joined, and everything
has a time to live. No call touches a key that it did not declare. How workers act on what they read is tested where
they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qworker.broker import group_calls
from qworker.broker.group_calls import CLOSED_MS, KEPT_MS
from qworker.errors import GroupStopped, ServerUnfit
from support.backends import Backend, only_declared_keys, run_machine
from support.brokers import START_MS, TwiceBroker

LEASE = 30_000
SILENT = 3_000
MOST = 4
# Each with those above it, the outermost first.
PATHS = {"g-1": (), "g-2": ("g-1",), "g-3": ("g-1", "g-2"), "g-4": ()}
TASKS = ("q:a", "q:b", "q:c", "q:d")
RUNS = {"model": 80, "fakeredis": 10, "fakeredis-6.2": 3, "redis": 80, "valkey": 80}
PREFIX = "qw:t:group:"
TTL_SLACK_MS = 300_000  # what a run may take
MAKE: list[Callable[[], TwiceBroker]] = []


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
        self.broker.at(0)

    # -- the model's own steps ------------------------------------------------------------------------------------

    def _stop(self, group: Group, reason: str, grace: str) -> None:
        if group.takes:
            group.state, group.reason, group.grace, group.stopped = "stopped", reason, grace, self.now
        elif group.state == "stopped" and grace:
            group.grace = grace

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
        """Which group takes nothing, and why."""
        for each in path:
            group = self.groups.get(each)
            if group is None:
                return each, "it is not known"
            state = self._judge(group)
            if state not in ("open", "detached", "late"):
                return each, "it was stopped" if state == "stopped" else "its block was left"
            if group.deadline and group.deadline <= self.now:
                return each, "its time is up"
        if path and len(members) + len(new) > MOST and new[0] not in members:
            return path[-1], "which is the limit"
        return None

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
        refusal = None
        if name not in self.groups:
            refusal = self._refusal(path, above.members if above else {}, (name,))
        with refused(refusal):
            self.broker.open_group(
                name, path=path, on_loss=on_loss, lease_ms=lease_ms, timeout_ms=timeout_ms, opener="me", name="n"
            )
        if refusal is not None or name in self.groups:
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
        group = self.groups.get(name)
        refusal = self._refusal((*PATHS[name], name), group.members if group else {}, tasks)
        with refused(refusal):
            self.broker.join_group((*PATHS[name], name), tasks)
        if refusal is None:
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

    # -- what just happens ----------------------------------------------------------------------------------------

    @rule(step_ms=st.sampled_from((1, 1_000, SILENT - 1, SILENT, LEASE, LEASE + 1, -1_000)))
    def the_clock_moves(self, step_ms: int) -> None:
        self.now += step_ms
        self.broker.at(self.now - START_MS)

    @rule()
    def the_server_forgets_its_scripts(self) -> None:
        self.broker.client.script_flush()

    # -- what holds after every step ------------------------------------------------------------------------------

    @invariant()
    def the_groups_are_what_the_model_says(self) -> None:
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
    try:
        with only_declared_keys():
            run_machine(GroupMachine, RUNS[backend.kind])
    finally:
        MAKE.pop()
