"""What `qworker status` makes of what queues and workers tell: rates, remarks, facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qworker.cli.status import Snapshot, _facts, _parts, _rates, _spaced
from qworker.cli.terminal import Console
from qworker.views import QueueStats, WorkerRecord

QUEUE = QueueStats(
    queue="mail", ready=1200, claimed=3, scheduled=4, suspects=0, oldest_wait_s=75.0, lines={"default:normal": 1200},
    counters={"succeeded": 10, "failed": 2, "cancelled": 1, "submitted": 99}, now_ms=1_000_000,
)  # fmt: skip
WORKER = WorkerRecord(
    id="box:7:ab", host="box", pid=7, boot_id="b", pid_ns="n", start_time=1, queues=("mail",), state="running",
    started_ms=910_000, slots={"process": 2, "thread": 8}, beat_ms=999_000,
    running=({"id": "mail:1", "name": "tasks.work", "ran_s": 4.2, "asked": "timeout", "child": 70, "slot": 1},),
    survivors=({"id": "mail:0"},), unknown={"tasks.new": 5},
)  # fmt: skip


def snapshot(*, taken: float = 0.0, queue: QueueStats = QUEUE, worker: WorkerRecord | None = WORKER) -> Snapshot:
    return Snapshot(taken, (queue,), () if worker is None else (worker,))


def shown(seen: Snapshot, rates: dict[str, float] | None = None) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        for part in _spaced(_parts(seen, rates or {})):
            console.print(part, markup=False)
    return capture.get()


def words(line: str) -> str:
    return " ".join(line.split())


def test_everything_is_on_the_tables():
    lines = [words(line) for line in shown(snapshot(), {"mail": 12.34}).splitlines()]

    assert "mail 1,200 3 4 1 min 15 s 12.3/s 10 3" in lines
    assert "box:7:ab running mail process=2 thread=8 1 1 min 30 s" in lines
    assert "mail:1 tasks.work 4.2 s asked to end: timeout box:7:ab 70 1" in lines
    assert "tasks.new 5" in lines
    assert "1 survivor(s) of ended tasks still run: see qworker dessert" in lines


def test_a_name_that_nobody_knows_is_told_with_what_it_may_be():
    assert "that a worker does not know → a typing mistake, or start a worker that has it\n" in shown(snapshot())


def test_an_id_stays_in_one_piece_on_80_columns():
    task_id = "default:01JC2M6Q8V4K1ZP0X3T5R7W9YB"
    running = ({**WORKER.running[0], "id": task_id, "name": "tasks.of_some_length"},)
    console = Console(width=80)

    with console.capture() as capture:
        for part in _parts(snapshot(worker=replace(WORKER, running=running)), {}):
            console.print(part, markup=False)

    assert task_id in capture.get()


def test_a_queue_that_nobody_serves_is_said_with_what_to_do():
    text = shown(snapshot(worker=None))

    assert "mail: 1,204 wait, and no worker serves it: qworker start MODULE:APP -q mail" in text
    assert "no worker serves it" not in shown(snapshot())


def test_slots_that_tasks_need_and_no_worker_has_are_said():
    waiting = replace(QUEUE, lines={"thread:high": 1, "async:normal": 0, "default:normal": 2, "process:low": 3})
    text = shown(snapshot(queue=waiting, worker=replace(WORKER, queues=("mail",), slots={"process": 2})))

    assert "mail: tasks wait for thread slots, and no worker of it has any: -c thread=8" in text
    assert text.count("tasks wait for") == 1


def test_suspects_are_said():
    assert "mail: 2 suspect(s) wait to run alone in a worker" in shown(snapshot(queue=replace(QUEUE, suspects=2)))


def test_a_worker_that_fell_silent_is_said():
    assert "running, silent for 25 s" in shown(snapshot(worker=replace(WORKER, beat_ms=975_000)))


def test_nothing_at_all_is_said_in_a_line():
    assert shown(Snapshot(0.0, (), ())) == "no queue was ever used in this namespace, and no worker runs\n"


def test_names_cannot_rule_the_terminal_and_are_no_markup():
    text = shown(snapshot(worker=replace(WORKER, unknown={"\x1b[31m[red]x[/red]": 1})))

    assert "\\x1b[31m[red]x[/red]" in text
    assert "\x1b[31m" not in text


@pytest.mark.parametrize(("later", "rate"), [(33, 10.0), (13, 0.0), (0, 0.0)])
def test_the_rate_is_of_ended_tasks_and_never_negative(later, rate):
    after = snapshot(taken=2.0, queue=replace(QUEUE, counters={"succeeded": later, "submitted": 10**6}))

    assert _rates(snapshot(), after) == {"mail": rate}


def test_a_queue_that_is_new_has_no_rate_yet():
    assert _rates(Snapshot(0.0, (), ()), snapshot(taken=1.0)) == {"mail": 0.0}


def test_the_facts_for_machines():
    facts = _facts(snapshot(), {"mail": 1.234})

    assert facts["queues"][0] | {"lines": None, "counters": None} == {
        "queue": "mail", "ready": 1200, "claimed": 3, "scheduled": 4, "suspects": 0, "oldest_wait_s": 75.0,
        "rate": 1.23, "lines": None, "counters": None,
    }  # fmt: skip
    assert facts["workers"][0]["told_s_ago"] == 1.0
    assert facts["workers"][0]["running"][0]["id"] == "mail:1"


def test_survivors_on_a_worker_that_is_silent_are_not_said_to_run():
    text = shown(snapshot(worker=replace(WORKER, beat_ms=980_000)))

    assert "1 survivor(s) of ended tasks ran when their worker was heard last: see qworker dessert" in text
    assert "still run" not in text
