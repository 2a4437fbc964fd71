"""A small chaos run: real workers on a private server, faults of every kind, judged clean by what the tasks wrote."""

from __future__ import annotations

import dataclasses

import pytest

from support.history import chaos
from support.history.judge import judge, report
from support.history.records import save

KILLS = ("kill child", "kill worker", "kill child", "kill fork server", "kill worker")
STALLS = ("kill clients", "flush scripts", "freeze child", "freeze server", "restart server")
PLANS = {
    "kills": chaos.Plan(12, 300, KILLS),
    "stalls": chaos.Plan(13, 300, STALLS),
    "a frozen worker": chaos.Plan(14, 250, ("freeze worker",)),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_run_with_faults_ends_in_a_clean_history(name, tmp_path):
    plan = PLANS[name]
    done = chaos.run(plan, tmp_path / "run")

    if done.violations:
        save(done.history, tmp_path / "history.jsonl")
    assert not done.violations, report(done.violations)
    assert {fault.kind for fault in done.history.faults} == set(plan.faults)
    assert len({line.id for line in done.history.lines}) > 0.9 * plan.tasks
    if name != "stalls":  # those cost nothing; what the others cost has shown, and without the faults it is a crime
        assert "C7" in {violation.rule for violation in judge(dataclasses.replace(done.history, faults=()))}
    assert {"succeeded", "failed", "cancelled"} <= {end.state for end in done.history.ended}
