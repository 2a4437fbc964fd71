"""The account and the growth figures: what is computed and shown of what was measured."""

from __future__ import annotations

import os
import threading
import time

import pytest

from benchmarks import account, growth, growth_plots, parties


def cost(producer: float, wall_s: float = 1.0, **scripts: tuple[int, float]) -> parties.Cost:
    cpu = dict.fromkeys(parties.PARTIES, 0.0) | {"producer": producer, "Redis": 0.5}
    return parties.Cost(1000, cpu, wall_s, scripts)


def test_a_cost_is_told_for_one_task_in_microseconds():
    told = cost(1.5, 2.0, claim=(10, 0.25)).told()

    assert told["cpu_us"]["producer"] == 1500
    assert told["total_cpu_us"] == 2000
    assert told["wall_us"] == 2000
    assert told["scripts"]["claim"] == {"calls_per_task": 0.01, "us_per_task": 250}


def test_the_median_is_taken_of_each_field_also_of_those_that_a_round_lacks():
    told = account.median([cost(1.0, claim=(1, 0.1)), cost(9.0), cost(2.0)])

    assert told["cpu_us"]["producer"] == 2000
    assert told["scripts"]["claim"]["us_per_task"] == pytest.approx(100)


def test_the_table_has_a_line_for_each_party_and_the_scripts_of_each_load():
    shown = account.table({"drain": cost(1.0, settle=(4, 0.002)).told()})

    assert all(party in shown for party in parties.PARTIES)
    assert "settle 2.00 (0.004)" in shown


def test_the_hottest_functions_are_those_at_the_top_of_the_stacks():
    stacks = ["Inbox.wait (d.py:4) 500", "run (b.py:2) 30", "run (b.py:2);pack (c.py:3) 60", "end (b.py:9) 10"]
    raw = "".join(f"main (a.py:1);{stack}\n" for stack in stacks)

    assert account.hottest(raw, most=2) == [(0.6, "pack (c.py:3)"), (0.3, "run (b.py:2)")]


def test_the_threads_of_a_process_are_told_apart():
    over = threading.Event()
    idle = threading.Thread(target=over.wait)
    idle.start()
    try:
        ends = time.thread_time() + 0.05
        while time.thread_time() < ends:
            pass
        found = parties.threads(os.getpid())
    finally:
        over.set()
        idle.join()

    assert idle.native_id is not None
    assert found[threading.get_native_id()] >= 0.03
    assert found[idle.native_id] < 0.03
    assert parties.threads(2**22 + 1) == {}  # no process has such a pid


def test_a_series_is_shown_by_its_values():
    feature = {"on": {"total_cpu_us": 12.0}, "off": {"total_cpu_us": 10.0}, "cpu_ratio": 1.2}

    assert "claim_us_per_task 2.5" in growth.table({"1000": {"claim_us_per_task": 2.5, "scripts": {}}})
    assert "12.0 µs on, 10.0 off: 1.20 x" in growth.table({"retries=3": feature})


def test_a_plot_leaves_out_what_was_not_measured():
    series = {"0": {"claim_us_per_task": None}, "1000": {"claim_us_per_task": 2.5}}

    assert growth_plots.pairs(series, "claim_us_per_task") == [(1000.0, 2.5)]


def test_a_quick_run_leaves_out_the_large_values():
    assert growth.Scale(3, quick=True).upto((1, 10, 100), 10) == [1, 10]
    assert growth.Scale(3, quick=False).upto((1, 10, 100), 10) == [1, 10, 100]
