"""What the command line says where nothing is known of a worker, and what a wait that was interrupted leaves behind."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from qworker.views import WorkerRecord
from support.fake_worker import FakeWorker
from support.waiting import wait_until

NOTHING = "nothing lingers"
LEFT = {"id": "default:1", "name": "tasks.nap", "child": 9, "slot": 2, "outcome": "timed_out", "since_s": 1, "ran_s": 2}


@pytest.fixture
def worker(url):
    worker = FakeWorker(url)
    yield worker
    worker.broker.close()


def record(worker: FakeWorker, **changes) -> WorkerRecord:
    fields = {
        "id": worker.id, "host": "box-2", "pid": 4711, "boot_id": "b", "pid_ns": "n", "start_time": 1,
        "queues": ("default",), "state": "running", "started_ms": 0, "slots": {"thread": 2},
    }  # fmt: skip
    return WorkerRecord(**(fields | changes))


def fall_silent(worker: FakeWorker) -> None:
    """It told of itself, and what it told is kept no longer: it was frozen, killed or cut off half a minute ago."""
    worker.broker.beat(record(worker, survivors=(LEFT,)), ttl_ms=1)
    wait_until(lambda: not worker.broker.workers(), description="its record to lapse")


def test_dessert_does_not_say_that_nothing_lingers_on_a_worker_that_is_silent(run, worker):
    fall_silent(worker)

    code, out, _ = run("dessert")

    assert code == 0
    assert NOTHING not in out
    assert out == f"{worker.id}: silent; whether code of its ended tasks runs is not known\n"
    assert json.loads(run("dessert", "--json")[1]) == [
        {"worker": worker.id, "still_running": None, "silent_for_s": None}
    ]


@pytest.mark.parametrize(("survivors", "what"), [((LEFT,), "this still runs"), ((), "code of its ended tasks runs")])
def test_what_a_worker_told_before_it_fell_silent_is_told_as_that(run, worker, survivors, what):
    told = record(worker, survivors=survivors)
    worker.broker.beat(told)
    heard_ms = worker.broker.workers()[0].beat_ms
    worker.broker.beat(replace(told, beat_ms=heard_ms - 20_000), listed=True)

    out = run("dessert")[1]
    facts = json.loads(run("dessert", "--json")[1])

    assert f"{worker.id}: silent for 20 s; whether {what} is not known\n" in out
    assert NOTHING not in out
    assert ("tasks.nap" in out) is bool(survivors)
    assert [(one["worker"], one["still_running"], one["silent_for_s"] >= 20) for one in facts] == [
        (worker.id, None, True)
    ]


def test_a_worker_that_ended_in_good_order_is_not_silent(run, worker):
    worker.broker.beat(record(worker))
    worker.broker.retire(worker.id)

    assert NOTHING in run("dessert")[1]
    assert json.loads(run("dessert", "--json")[1]) == []
    assert "silent" not in run("status")[1]


def test_status_tells_of_a_worker_that_is_silent_and_of_what_it_had_claimed(run, worker):
    assert run("submit", "tasks.add", "1")[0] == 0
    worker.claim_one()
    fall_silent(worker)

    out = run("status")[1]

    assert f"{worker.id}: silent: killed, frozen or cut off; whether code of its tasks runs is not known" in out
    assert (
        "default: 1 claimed, and no worker of it tells of itself; once the lease ended, another worker takes over: "
        "qworker start MODULE:APP -q default"
    ) in out
    assert json.loads(run("status", "--json")[1])["silent_workers"] == [worker.id]


def test_status_has_no_such_remark_while_a_worker_tells_of_itself(run, worker):
    assert run("submit", "tasks.add", "1")[0] == 0
    worker.claim_one()
    worker.broker.beat(record(worker))

    out = run("status")[1]

    assert worker.id in out
    assert "tells of itself" not in out
    assert "silent" not in out


def test_who_interrupts_the_wait_of_a_submit_gets_the_id_of_the_task_that_goes_on(run, worker, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qworker.cli.client.print_result", interrupted)

    code, out, err = run("submit", "tasks.add", "1", "--wait", "60")

    task = worker.claim_one()
    assert (code, out) == (130, "")
    assert err == f"{task.id} is left alone: it goes on; qworker result {task.id}\n"
