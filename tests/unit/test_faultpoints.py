"""Fault points: how the variable is read, and that nothing is left of them without it."""

from __future__ import annotations

import os

import pytest

from qworker import faultpoints
from qworker.errors import ConfigError
from qworker.faultpoints import ACTIONS, POINTS, Fault, parse
from qworker.pool.outbox import Outbox
from qworker.worker.state import State
from support.history import points


def test_a_fault_is_a_point_an_action_and_at_which_passing():
    assert parse("claim.sent:cut") == (Fault("claim.sent", "cut", 1),)
    assert parse("dispatch:sleep=0.5:3, child.mid_frame:kill9_parent:2") == (
        Fault("dispatch", "sleep", 3, 0.5),
        Fault("child.mid_frame", "kill9_parent", 2),
    )
    assert parse("  ") == ()


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_is_either_possible_at_a_point_or_refused_with_a_reason(point, action):
    text = f"{point}:{action}{'=1' if action == 'sleep' else ''}:7"
    why = faultpoints.senseless(point, action)
    if not why:
        (fault,) = parse(text)
        assert str(fault) == text
        return
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert str(refused.value) == f"QWORKER_FAULT: '{text}': {why}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("claims:cut", "there is no fault point 'claims'; there are submit.sent, "),
        ("claim.sent", "expected point:action"),
        ("claim.sent:kill", "actions are kill9, "),
        ("claim.sent:cut:0", "counted from 1"),
        ("claim.sent:cut:-1", "counted from 1"),
        ("claim.sent:cut:last", "expected a number"),
        ("claim.sent:cut=2", "sleep (only that) has seconds"),
        ("claim.sent:sleep", "has seconds, as in sleep=0.5"),
        ("claim.sent:sleep=nan", "has seconds"),
        ("claim.sent:cut,", "there is no fault point ''"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_with_what_can(text, said):
    with pytest.raises(ConfigError, match=r"^QWORKER_FAULT: '") as refused:
        parse(text)
    assert said in str(refused.value)


def test_without_the_variable_nothing_is_wrapped():
    assert faultpoints.ARMED == ()
    assert not hasattr(State.put, "__wrapped__")
    assert Outbox(-1)._write is os.write


def test_with_it_a_point_is_counted_over_all_processes_and_its_fault_happens_once(monkeypatch, tmp_path):
    monkeypatch.setattr(faultpoints, "ARMED", parse("dispatch:raise:2"))
    monkeypatch.setenv(faultpoints.TALLY, str(tmp_path / "tally"))
    passed = []
    act = faultpoints.before("dispatch", when=lambda number: number > 0)(passed.append)

    act(0)
    act(1)
    (tmp_path / "tally.dispatch").write_bytes(b"")  # as if another process had counted so far
    act(2)
    with pytest.raises(faultpoints.FaultPoint):
        act(3)
    act(4)

    assert passed == [0, 1, 2, 4]
    point, action, pid, _ = (tmp_path / "tally").read_text().split()
    assert (point, action, int(pid)) == ("dispatch", "raise", os.getpid())


def test_a_write_may_be_torn_in_the_middle(monkeypatch, tmp_path):
    monkeypatch.setattr(faultpoints, "ARMED", parse("child.mid_frame:raise"))
    monkeypatch.setenv(faultpoints.TALLY, str(tmp_path / "tally"))
    written = bytearray()

    def write(_fd: int, data: bytes) -> int:
        written.extend(data)
        return len(data)

    torn = faultpoints.torn("child.mid_frame", write, lambda data: data.startswith(b"o"))

    assert torn(1, b"ready") == 5
    with pytest.raises(faultpoints.FaultPoint):
        torn(1, b"outcome!")
    assert torn(1, b"once") == 4
    assert bytes(written) == b"readyoutconce"


def test_the_sweep_has_every_point_with_every_action_that_makes_sense_there():
    cases = [parse(case.armed[0])[0] for case in points.sweep(7)]
    left_out = points.left_out()

    assert {(fault.point, fault.action) for fault in cases} == {
        (point, action) for point in POINTS for action in ACTIONS if not faultpoints.senseless(point, action)
    }
    assert all(action in left_out for action in ("kill9_parent at ", "cut at ", "dup at "))
    assert [case.armed for case in points.sweep(7)] != [case.armed for case in points.sweep(8)]


def test_the_quick_suite_kills_at_every_point_and_cuts_wherever_there_is_a_connection():
    quick = {(fault.point, fault.action) for case in points.QUICK for text in case.armed for fault in parse(text)}

    assert quick >= {
        (point, action) for point in POINTS for action in ("kill9", "cut") if not faultpoints.senseless(point, action)
    }
