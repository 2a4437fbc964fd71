"""Chaos runs on a cluster of three primaries, its queues spread over all of them, judged like any other.

Also where the cluster itself changes: a slot moves while its queue is worked on, a replica takes over. What lags may
lose what it had not heard (docs/guarantees.md): that, and nothing else, is excused, by what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import need
from support import cluster_scenes as scenes
from support.cluster_excuses import Gap, touched, unexcused
from support.clusters import Cluster, Primaries
from support.history import chaos, workload
from support.history.executions import now
from support.history.judge import Violation, report
from support.history.records import Ended, History, Submitted, save

QUEUES = ("default", "qa", "qd")  # one on each primary
ALL = (
    "kill child", "kill worker", "freeze worker", "kill fork server", "kill clients", "flush scripts", "freeze child",
    "freeze server", "restart server", "pause server", "freeze server", "restart server", "freeze server",
)  # fmt: skip
# One primary is away, for longer than a lease at times, while the others answer: nothing of that may start twice.
AWAY = ("freeze server", "restart server", "pause server") * 4
# All speak to each server through its proxy, and all connections to all servers are killed.
WIRES = (
    "cut calls", "reset links", "kill clients", "half-open links", "slow wire", "stalled wire", "refused links",
)  # fmt: skip
PLANS = {
    "faults of all kinds": chaos.Plan(31, 600, ALL, workers=3, queues=QUEUES),
    "one primary away": chaos.Plan(2, 500, AWAY, workers=3, queues=QUEUES),
    "wires cut": scenes.OnCluster(5, 900, WIRES * 3, workers=3, queues=QUEUES),
}
QUICK = scenes.OnCluster(
    9, 240, ("kill clients", "cut calls", "reset links", "kill worker", "restart server", "flush scripts", "slow wire"),
    workers=2, queues=QUEUES,
)  # fmt: skip
# Something runs at any time, and nothing hangs or dies: that has its own plans.
CALM = {**workload.SHARES, "hangs": 0, "timed out": 0, "dies": 0, "long": 300}

KINDS = [pytest.param("redis", marks=pytest.mark.slow), pytest.param("valkey", marks=pytest.mark.valkey)]

pytestmark = pytest.mark.timeout(300)  # some seconds, half a minute if slow; more on a machine that does other things


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    made: list[Cluster] = []

    def make(kind, **options: bool) -> Cluster:
        need(kind)
        cluster = Cluster(kind, tmp_path / "cluster", **options)
        made.append(cluster)
        assert len({cluster.primary_of(queue).port for queue in QUEUES}) == 3
        return cluster

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., chaos.Done]:
    """Run a plan on a cluster; what is wrong with its history, and not excused, fails the test."""

    def judged(plan: chaos.Plan, cluster: Cluster, scene: chaos.Scene, gaps: list[Gap] | None = None) -> chaos.Done:
        done = chaos.run(plan, tmp_path / "run", scene=scene, server=Primaries(cluster))
        left = done.violations
        for gap in gaps or []:
            left = unexcused(done.history, left, gap)
        if left:
            save(done.history, tmp_path / "history.jsonl")
        assert not left, report(left)
        assert {line.id.partition(":")[0] for line in done.history.lines} == set(QUEUES)
        return done

    return judged


def running(history: History, queue: str, at: float) -> set[str]:
    """The tasks of a queue that ran at an instant, by their own account."""
    mine = [line for line in history.lines if line.id.startswith(f"{queue}:")]
    begun = {line.id for line in mine if line.what == "start" and line.at <= at}
    return begun & {line.id for line in mine if line.what == "end" and line.at > at}


@pytest.mark.valkey
def test_a_short_run_with_faults_of_workers_wires_and_a_primary_ends_in_a_clean_history(make, judged) -> None:
    cluster = make("valkey", wired=True)

    done = judged(QUICK, cluster, scenes.wired(cluster))

    assert {fault.kind for fault in done.history.faults} >= set(QUICK.faults)
    assert all(wire.accepted for wire in cluster.wires), "all servers are reached through their wires alone"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
@pytest.mark.parametrize("name", PLANS)
def test_a_run_with_faults_on_a_cluster_ends_in_a_clean_history(make, judged, kind, name) -> None:
    plan = PLANS[name]
    cluster = make(kind, wired=isinstance(plan, scenes.OnCluster))

    done = judged(plan, cluster, scenes.wired(cluster) if cluster.wires else chaos.disturb)

    assert {fault.kind for fault in done.history.faults} >= set(plan.faults) - {"kill child", "kill fork server"}


@pytest.mark.parametrize("kind", KINDS)
def test_slots_that_move_while_their_tasks_run_cost_nothing(make, judged, monkeypatch, kind) -> None:
    """Twice each, and one of them stays half-way for longer than a lease: its keys are on two servers meanwhile."""
    monkeypatch.setattr(workload, "SHARES", CALM)
    cluster = make(kind)
    plan = chaos.Plan(11, 400, workers=2, queues=QUEUES)

    done = judged(plan, cluster, scenes.moved(cluster, 6, half_way_s=1.3 * plan.lease_s))

    moves = [fault for fault in done.history.faults if fault.kind == "failover"]
    ran = [running(done.history, QUEUES[n % 3], move.at) for n, move in enumerate(moves)]
    assert len(ran) == 6
    assert sum(map(bool, ran)) >= 2, "tasks run while the slot of their queue moves"
    assert not [event for event in done.history.events if event.name in ("claim.lost", "tasks.rescued")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_takes_over_and_only_what_it_had_not_heard_is_lost_or_doubled(
    make, judged, monkeypatch, kind
) -> None:
    monkeypatch.setattr(workload, "SHARES", CALM)
    cluster, gaps = make(kind, replicas=True), list[Gap]()
    plan = chaos.Plan(12, 300, workers=2, queues=QUEUES)

    done = judged(plan, cluster, scenes.failed_over(cluster, "default", gaps), gaps)

    (fault,) = (fault for fault in done.history.faults if fault.kind == "failover")
    assert running(done.history, "default", fault.at), "tasks run while their primary is killed"
    assert gaps[0].killed - gaps[0].known < 1.0, "the replica followed closely"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_a_replica_that_lags_takes_over_and_what_is_lost_is_explained_by_that(make, judged, monkeypatch, kind) -> None:
    # A stop that is lost makes a task of a minute run to its end.
    monkeypatch.setattr(workload, "SHARES", {**CALM, "stopped": 0})
    cluster, gaps = make(kind, replicas=True), list[Gap]()
    plan = chaos.Plan(13, 400, workers=2, queues=QUEUES)

    done = judged(plan, cluster, scenes.failed_over(cluster, "default", gaps, lagging=True), gaps)

    lost = touched(done.history, gaps[0])
    assert done.violations, "it did lose something"
    assert scenes.LOST <= len(lost) < len({submit.id for submit in done.history.submitted}) / 2


def test_only_what_a_replica_cannot_have_heard_is_excused() -> None:
    """Of the queues of its primary, and in the gap: other tasks, and other counts, stay wrong."""
    at = now()

    def submitted(id_: str, ago_s: float) -> Submitted:
        return Submitted(id_, at - ago_s, at - ago_s + 0.1, "accepted")

    history = History(
        submitted=(submitted("qa:in", 5), submitted("qa:before", 9), submitted("qd:in", 5), submitted("qa:after", 1)),
        ended=(Ended("qd:in", "succeeded", "returned", 1, at),),
    )
    gap = Gap(frozenset({"qa"}), at - 6, at - 4)
    wrong = [
        Violation("C1", id_, "accepted, and has no outcome") for id_ in ("qa:in", "qa:before", "qa:after", "qd:in")
    ]
    books = [Violation("C8", "", f"counter succeeded is {count}, and 1 tasks have ended so") for count in (0, 1, 2, 3)]

    assert touched(history, gap) == {"qa:in"}
    assert [violation.id for violation in unexcused(history, wrong, gap)] == ["qa:before", "qa:after", "qd:in"]
    assert [violation.text[21:22] for violation in unexcused(history, books, gap)] == ["3"]
    kept = [Violation("C8", "", f"the outcome of {id_} is not kept") for id_ in ("qa:in", "qd:in")]
    assert unexcused(history, kept, gap) == kept[1:]
