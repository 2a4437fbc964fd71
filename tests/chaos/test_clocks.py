"""Clocks that are wrong, and step by an hour in the middle of a workload: judged by what the tasks wrote.

The clock is that of the machine of a worker, or of the server. No step makes anything start twice, and
workers tell those of the server.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from support.history import chaos, workload
from support.history.client import Batch, Recorder
from support.history.executions import now
from support.history.judge import report
from support.history.records import Fault, save
from support.machine import WrongClock
from support.servers import any_kind, start_server
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

HOUR_S = 3600
LEASE_S = 2.0
TASKS = 120
CALM = {kind: 0 if kind in ("hangs", "timed out", "dies") else share for kind, share in workload.SHARES.items()}


@pytest.fixture
def clock(tmp_path: Path) -> WrongClock:
    return WrongClock(tmp_path)


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workload, "SHARES", CALM)


def run(plan: chaos.Plan, tmp_path: Path, act: chaos.Scene, *, but: str = "-", **more: object) -> chaos.Done:
    """Judge a run; violations that end with `but` are none here."""
    done = chaos.run(plan, tmp_path / "run", scene=act, **more)  # type: ignore[arg-type]
    violations = [violation for violation in done.violations if not violation.text.endswith(but)]
    if violations:
        save(done.history, tmp_path / "history.jsonl")
    assert not violations, report(violations)
    return done


def scene(clock: WrongClock, steps: list[int]) -> chaos.Scene:
    """Step the clock while tasks run and wait; a long one, whose lease is renewed across each step, among them."""

    def act(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        client.submit(Batch("long", "nap", (2.0 * LEASE_S,), 1))
        producer = chaos.Producer(client, workload.plan(plan.seed, plan.tasks), fleet.log)
        producer.go_on_to(plan.tasks + 1)
        producer.start()
        done = []
        for n, seconds in enumerate(steps, 1):
            share = n * plan.tasks // (len(steps) + 2)
            assert client.wait(lambda share=share: client.done >= share, 30), f"{share} tasks to end"
            at = now()
            clock.set(seconds)
            stepped = time.monotonic()
            wait_until(lambda t=stepped: time.monotonic() > t + 0.7, description="a renewal or two after the step")
            done.append(Fault("clock step", at, now()))
        producer.join()
        if producer.error is not None:
            raise producer.error
        return done

    return act


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([HOUR_S], id="forward"),
        pytest.param([-HOUR_S, 0], id="back and forward again"),
    ],
)
def test_a_server_whose_clock_steps_by_an_hour_makes_nothing_start_twice(tmp_path, clock, steps):
    """What is scheduled follows the clock, and so do results: an hour forward is the end of theirs."""
    server = start_server(any_kind(), tmp_path / "server", env=clock.environ)
    plan = chaos.Plan(31, TASKS, workers=2, slots="process=2,thread=1", lease_s=LEASE_S)
    stepped: list[float] = []

    def act(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        done = scene(clock, steps)(plan, fleet, client)
        stepped.extend(event["step_s"] for worker in fleet.workers for event in worker.events("redis.clock_stepped"))
        return done

    done = run(plan, tmp_path, act, server=server, but="is not kept")

    assert not [event for event in done.history.events if event.name in ("claim.lost", "tasks.rescued")]
    first = steps[0]
    assert stepped, "a worker says it"
    assert abs(stepped[0] - first) < 5


def test_a_worker_whose_clock_steps_by_an_hour_notices_nothing(tmp_path, clock):
    plan = chaos.Plan(32, TASKS, workers=2, slots="process=2,thread=1", lease_s=LEASE_S, env=clock.environ)

    done = run(plan, tmp_path, scene(clock, [HOUR_S, -HOUR_S]))

    assert not [event for event in done.history.events if event.name in ("claim.lost", "tasks.rescued")]
