"""The execution log and the faults: lines survive a kill in the middle of one, and a seed is a run."""

from __future__ import annotations

import os

import pytest

from support.history import faults, workload
from support.history.executions import MARK, Tail, now, parse, read, text_of, worker_of, write
from support.history.records import Fault, Line

LINE = Line("end", "default:a b;", 2, 7, 11, "w 1", 1.25, "raised", "x y;\nz")


def test_a_line_comes_back_as_it_was_written(tmp_path):
    log = tmp_path / "log"
    before = now()
    write(log, "start", id="default:a", attempt=1, fence=3)
    write(log, "end", id="default:a", attempt=1, fence=3, how="returned", value="1.3.9; all of it")

    start, end = read(log).lines
    assert (start.what, start.id, start.attempt, start.fence, start.pid) == ("start", "default:a", 1, 3, os.getpid())
    assert before <= start.at <= end.at <= now()
    assert (end.how, end.value) == ("returned", "1.3.9; all of it")
    assert start.worker == worker_of(os.getpid())
    assert parse(text_of(LINE)).lines == (LINE,)


def test_a_log_that_nobody_wrote_is_empty(tmp_path):
    assert read(tmp_path / "none") == ((), ())
    assert Tail(tmp_path / "none").read() == ()


@pytest.mark.parametrize("length", range(1, len(text_of(LINE))))
def test_a_line_torn_anywhere_spoils_no_neighbour_and_is_known_for_what_it_is(length):
    whole = text_of(LINE)

    found = parse(whole + whole[:length] + whole)

    assert found.lines == (LINE, LINE)
    assert found.torn == ((whole[1:length],) if length > 1 else ())


@pytest.mark.parametrize("length", range(len(text_of(LINE)) + 1))
def test_a_tail_gives_each_line_once_however_it_comes_in(tmp_path, length):
    whole = text_of(LINE)
    log = tmp_path / "log"
    tail = Tail(log)
    found = []
    for part in (whole + whole[:length], whole[length:] + whole[:3], whole):
        with log.open("a") as file:
            file.write(part)
        found += tail.read()

    assert found == [LINE] * 3
    assert whole.endswith(MARK)


def test_a_seed_draws_the_same_work_and_the_same_faults():
    assert workload.plan(5, 500) == workload.plan(5, 500)
    assert workload.plan(5, 500) != workload.plan(6, 500)
    assert sum(batch.count for batch in workload.plan(5, 500)) == 500
    assert {batch.kind for batch in workload.plan(5, 3000)} == set(workload.SHARES)
    assert all(len(batch.ids) in (0, batch.count) for batch in workload.plan(5, 500))

    slow = [n for n, batch in enumerate(workload.plan(5, 9000)) if batch.kind in ("hangs", "dies", "stopped", "long")]
    half = len(workload.plan(5, 9000)) / 2
    assert 0.4 < sum(n < half for n in slow) / len(slow) < 0.6, "no kind is left over for the end"

    planned = faults.plan(5, faults.KINDS, 30)
    assert planned == faults.plan(5, faults.KINDS, 30)
    assert {fault.kind for fault in planned} == set(faults.KINDS)
    assert [fault.share for fault in planned] == sorted(fault.share for fault in planned)


def test_a_worker_that_got_no_processor_time_was_frozen_by_the_machine_unless_it_was_by_a_fault():
    frozen = Fault("freeze worker", 10.0, 13.0, worker="w1")

    found = faults.by_the_machine([("w1", 13.1, 2.0), ("w1", 20.0, 2.0), ("w2", 13.0, 2.0)], [frozen])

    assert found == [Fault("stood still", 18.0, 20.0, worker="w1"), Fault("stood still", 11.0, 13.0, worker="w2")]
