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
FAULTS = (
    "kill child", "kill worker", "freeze worker", "kill fork server", "kill clients", "flush scripts", "freeze child",
    "freeze server", "restart server", "pause server", "freeze server", "restart server", "freeze server",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)  # half a minute, and much more on a machine that does other things
@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_a_run_with_faults_on_a_cluster_ends_in_a_clean_history(kind, tmp_path: Path) -> None:
    need(kind)
    cluster = Cluster(kind, tmp_path / "cluster")
    assert len({cluster.primary_of(queue).port for queue in QUEUES}) == 3
    plan = chaos.Plan(31, 600, FAULTS, workers=3, queues=QUEUES)

    done = chaos.run(plan, tmp_path / "run", server=Primaries(cluster))

    if done.violations:
        save(done.history, tmp_path / "history.jsonl")
    assert not done.violations, report(done.violations)
    assert {fault.kind for fault in done.history.faults} >= set(FAULTS) - {"kill child", "kill fork server"}
    assert {line.id.partition(":")[0] for line in done.history.lines} == set(QUEUES)
