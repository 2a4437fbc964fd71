"""A small chaos run: real workers on a private server, faults of every kind, judged clean by what the tasks wrote."""

from __future__ import annotations

import dataclasses

import pytest

from support.history import chaos
from support.history.client import Batch, Recorder
from support.history.executions import Tail
from support.history.faults import Faults
from support.history.judge import judge, report
from support.history.records import Fault, save
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(150)  # ten seconds each, and much more on a machine that does other things

KILLS = ("kill child", "kill worker", "kill child", "kill fork server", "kill worker", "freeze worker")
STALLS = ("kill clients", "flush scripts", "freeze child", "freeze server", "restart server")
WIRES = ("cut calls", "reset links", "half-open links", "slow wire", "stalled wire", "refused links", "cut off worker",
         "pause server")  # fmt: skip
PLANS = {"what costs something": chaos.Plan(12, 300, KILLS), "what costs nothing": chaos.Plan(13, 300, STALLS),
         "what happens on the wire": chaos.Plan(14, 200, WIRES)}  # fmt: skip


# CI does all of it to more tasks at once: make chaos.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if " nothing" in name else ()) for name in PLANS]
)
def test_a_run_with_faults_ends_in_a_clean_history(name, tmp_path):
    plan = PLANS[name]
    done = chaos.run(plan, tmp_path / "run")

    if done.violations:
        save(done.history, tmp_path / "history.jsonl")
    assert not done.violations, report(done.violations)
    kinds = {fault.kind for fault in done.history.faults} - {"stood still", "no answer"}
    assert len(kinds) >= len(set(plan.faults)) - 1, "a fault may find nothing that it could be done to"
    assert len({line.id for line in done.history.lines}) > 0.9 * plan.tasks
    assert {"succeeded", "failed", "cancelled"} <= {end.state for end in done.history.ended}


COSTLY = {"kill child": 1.0, "kill fork server": 1.0, "kill worker": 1.0, "freeze worker": 5.0}


@pytest.mark.slow
def test_what_a_fault_made_start_again_is_a_crime_without_it(tmp_path):
    """So the runs above would have found a task that started twice for no reason."""

    def one_after_the_other(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        ways = Faults(fleet, Tail(fleet.log), seed=plan.seed)
        for kind, seconds in COSTLY.items():
            client.submit(Batch("long", "nap", (seconds,), 2))
            wait_until(lambda: len(ways.look()) == 2, description="both tasks to run")
            assert ways.do(kind) is not None
            wait_until(ways.tend, timeout=20, description="the frozen worker to be thawed")
            assert client.wait(lambda: not client.pending, 30)
        return ways.done

    done = chaos.run(chaos.Plan(1, 0, lease_s=1.0), tmp_path / "run", scene=one_after_the_other)

    assert not done.violations, report(done.violations)
    assert {fault.kind for fault in done.history.faults} >= set(COSTLY)
    for fault in [fault for fault in done.history.faults if fault.kind in COSTLY]:
        others = tuple(other for other in done.history.faults if other is not fault)
        found = {violation.rule for violation in judge(dataclasses.replace(done.history, faults=others))}
        assert "C7" in found, fault
