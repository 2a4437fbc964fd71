"""A chaos run on a cluster of three primaries, its queues spread over all of them, judged like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import need
from support.clusters import Cluster, Primaries
from support.history import chaos
from support.history.judge import report
from support.history.records import save

QUEUES = ("default", "qa", "qd")  # one on each primary
ALL = (
    "kill child", "kill worker", "freeze worker", "kill fork server", "kill clients", "flush scripts", "freeze child",
    "freeze server", "restart server", "pause server", "freeze server", "restart server", "freeze server",
)  # fmt: skip
# One primary is away, for longer than a lease at times, while the others answer: nothing of that may start twice.
AWAY = ("freeze server", "restart server", "pause server") * 4
PLANS = {
    "faults of all kinds": chaos.Plan(31, 600, ALL, workers=3, queues=QUEUES),
    "one primary away": chaos.Plan(2, 500, AWAY, workers=3, queues=QUEUES),
}


@pytest.mark.slow
@pytest.mark.timeout(300)  # half a minute, and much more on a machine that does other things
@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
@pytest.mark.parametrize("name", PLANS)
def test_a_run_with_faults_on_a_cluster_ends_in_a_clean_history(kind, name, tmp_path: Path) -> None:
    need(kind)
    plan = PLANS[name]
    cluster = Cluster(kind, tmp_path / "cluster")
    assert len({cluster.primary_of(queue).port for queue in QUEUES}) == 3

    done = chaos.run(plan, tmp_path / "run", server=Primaries(cluster))

    if done.violations:
        save(done.history, tmp_path / "history.jsonl")
    assert not done.violations, report(done.violations)
    assert {fault.kind for fault in done.history.faults} >= set(plan.faults) - {"kill child", "kill fork server"}
    assert {line.id.partition(":")[0] for line in done.history.lines} == set(QUEUES)
