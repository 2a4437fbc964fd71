"""The pure parts of the benchmarks: turns, figures, the ideal scheduler, comparisons, tables, the file of results."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import budget, comparison, environments, figures, ideal, noise, report, running, table
from benchmarks.adapter import FailedError
from benchmarks.alternation import grouped, turns
from benchmarks.results_file import ResultsFile
from benchmarks.scenarios import SCENARIOS, Figure, Scenario
from benchmarks.scenarios.base import Goal

RATE = {"name": "rate", "unit": "tasks/s", "best": "most"}
P50 = {"name": "p50", "unit": "ms", "best": "least"}


def cell(*values: float, figure: str = "rate", run: str = "r1", **more: object) -> dict[str, object]:
    return {"run": run, "rounds": [{figure: value} for value in values], **more}


# turns


def test_contestants_take_turns_and_the_order_turns_round():
    assert [turns("ABC", number) for number in (1, 2, 3)] == [["A", "B", "C"], ["C", "B", "A"], ["A", "B", "C"]]


def test_scenarios_that_share_a_worker_follow_each_other_and_what_is_late_is_last_there():
    one, two, three, four = (
        scenario("1"),
        scenario("2", shares="w", late=True),
        scenario("3"),
        scenario("4", shares="w"),
    )

    assert grouped([one, two, three, four]) == [[one], [four, two], [three]]


# the time of a run


def test_a_round_is_made_when_it_fits_into_the_time_that_is_left():
    now = 0.0
    ten_minutes = budget.Budget(10, clock=lambda: now)

    assert ten_minutes.allows(600)
    now = 500.0
    assert ten_minutes.allows(100)
    assert not ten_minutes.allows(101)
    assert budget.Budget(None).allows(1e9)


def test_a_goal_is_decided_by_us_and_the_best_of_those_it_is_held_against():
    held = scenario(goals=(Goal("rate", 3.0, "queue"), Goal("rate", 2.0, "local pool")))
    data = {
        "scenarios": {held.name: {"figures": [RATE]}},
        "cells": {held.name: {"qworker": cell(9), "a": cell(5), "b": cell(7), "c": cell(6), "pool": cell(1)}},
        "contestants": {"qworker": {}, "a": {}, "b": {}, "c": {}, "pool": {"local": True}},
    }

    assert budget.deciding(held, data) == {"qworker", "b", "c", "pool"}
    assert budget.deciding(scenario(), data) == set()


def test_what_hangs_fails():
    with pytest.raises(FailedError, match=r"not done within 0\.01 s"), budget.no_longer_than(0.01):
        threading.Event().wait(10)
    with budget.no_longer_than(0.01):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# figures


def test_a_percentile_lies_between_two_values_by_proportion():
    assert figures.percentile([10.0], 99) == 10.0
    assert figures.percentile([3, 1, 2], 50) == 2
    assert figures.percentile([0, 10], 95) == pytest.approx(9.5)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_a_percentile_is_never_outside_of_the_values(values, part):
    slack = 1e-9 * max(values)
    assert min(values) - slack <= figures.percentile(values, part) <= max(values) + slack


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (24_312.7, "24,300"), (999_950, "1,000,000"), (1_234, "1,230"), (612.4, "612"), (61.24, "61.2"),
        (6.124, "6.12"), (0.6124, "0.61"), (0.0612, "0.061"),
    ],
)  # fmt: skip
def test_a_number_is_written_with_the_digits_that_matter(value, text):
    assert figures.number(value) == text


def test_the_range_is_written_when_there_were_several_rounds():
    assert figures.range_of([5.0]) == "5.00"
    assert figures.range_of([3000, 1000, 2000]) == "2,000 (1,000-3,000)"


# the ideal scheduler


def test_the_ideal_scheduler_gives_the_first_free_slot_to_the_first_in_line():
    assert ideal.waits([5, 1, 1, 1, 9], slots=2) == [0, 0, 1, 2, 3]


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(1, 5))
def test_no_slot_of_the_ideal_scheduler_idles_while_a_task_waits(durations, slots):
    starts = ideal.waits(durations, slots)

    assert starts == sorted(starts), "first in, first out"
    for place, start in enumerate(starts):
        running = sum(one <= start < one + length for one, length in zip(starts[:place], durations, strict=False))
        assert running < slots, "a slot was free"
        just_before = start - 0.5
        busy = sum(one <= just_before < one + length for one, length in zip(starts, durations, strict=True))
        assert start == 0 or busy == slots, "it could have started earlier"


def test_what_ends_as_another_one_starts_does_not_overlap_it():
    assert ideal.most_at_once([(0, 1), (1, 2), (0.5, 3)]) == 2
    assert ideal.most_at_once([(0, 3), (1, 3), (2, 3)]) == 3
    assert ideal.most_at_once([]) == 0


# comparisons


def test_ours_is_compared_with_the_best_median_of_the_same_run():
    row = {"qworker": cell(300, 100, 200), "a": cell(90, 100, 110), "b": cell(50), "c": cell(900, run="r0")}

    assert comparison.beside(row, RATE, ["a", "b", "c"]) == comparison.Beside(
        200, "a", 100, 2.0, (300, 100, 200), (90, 100, 110)
    )


def test_a_ratio_over_one_means_better_also_where_less_is_better():
    row = {"qworker": cell(2.0, figure="p50"), "a": cell(5.0, figure="p50"), "b": cell(1.0, figure="p50")}

    found = comparison.beside(row, P50, ["a", "b"])

    assert found == comparison.Beside(2.0, "b", 1.0, 0.5, (2.0,), (1.0,))


def test_nothing_is_compared_with_those_that_have_no_figure():
    failed = cell(failed="it ended")

    assert comparison.beside({"qworker": cell(1.0), "a": failed}, RATE, ["a"]) is None
    assert comparison.beside({"qworker": failed, "a": cell(1.0)}, RATE, ["a"]) is None
    assert comparison.ranked({"b": failed, "a": cell(1.0), "c": cell(2.0)}, RATE) == ["c", "a", "b"]


def test_a_goal_is_held_against_the_best_of_its_group_or_against_a_number():
    goals = [
        {"figure": "rate", "by": 3.0, "of": "queue"},
        {"figure": "rate", "by": 10.0, "of": "pure Python queue"},
        {"figure": "rate", "by": 2.0, "of": "local pool"},
        {"figure": "rate", "by": 900.0, "of": None},
    ]
    data = {
        "scenarios": {"drain": {"figures": [RATE], "goals": goals}},
        "cells": {"drain": {"qworker": cell(1000.0), "rusty": cell(400.0), "slow": cell(90.0)}},
        "contestants": {"qworker": {}, "rusty": {"native": True}, "slow": {}, "pool": {"local": True}},
    }

    found = comparison.goals(data, "drain")

    assert [(one.target, one.met) for one in found] == [(1200.0, False), (900.0, True), (900.0, True)]
    assert [one.text for one in found] == [
        "3 x the best queue, rusty", "10 x the best pure Python queue, slow", "at least 900"
    ]  # fmt: skip


# tables


def test_a_table_is_markdown_and_keeps_bars_in_cells_apart():
    assert table.table(["", "rate"], [["a|b", "1"]]) == ["|  | rate |", "| --- | ---: |", "| a\\|b | 1 |"]


def test_figures_of_one_unit_share_a_column():
    scenario = {"title": "Idle", "figures": [P50, {**P50, "name": "p95"}, {"name": "pss", "unit": "MiB"}]}

    assert table.columns(scenario) == [("Idle: p50 / p95, ms", ["p50", "p95"]), ("Idle: MiB", ["pss"])]


def test_a_cell_says_why_it_has_no_figure():
    assert table.written(cell(1000, 3000, 2000), ["rate"]) == "2,000 (1,000-3,000) n=3"
    assert table.written(cell(1000, failed="…", failures=1), ["rate"]) == "1,000 n=1, failed once"
    assert table.written(cell(not_offered="not there", cannot="not there"), ["rate"]) == table.CANNOT
    assert table.written(cell(failed="…", failures=2), ["rate"], " [a]") == "failed [a]"
    assert table.written(cell(not_offered="no threads"), ["rate"]) == table.NOTHING
    assert table.written(None, ["rate"]) == ""


# noise


def test_noise_is_summed_up_by_its_median_and_its_ends():
    found = noise.spread([{"loop_ms": 2.0}, {"loop_ms": 1.0}, {"loop_ms": 4.0}])

    assert found == {"loop_ms": {"median": 2.0, "min": 1.0, "max": 4.0, "max_by_min": 4.0}}
    assert noise.spread([]) == {}


# environments


def test_qworker_comes_first_and_needs_no_environment_of_its_own():
    assert environments.names()[0] == "qworker"
    assert environments.make("qworker") == "needs no environment of its own"


def test_the_oldest_interpreter_that_is_new_enough_is_taken():
    found = [((3, 13), Path("c")), ((3, 11), Path("a")), ((3, 12), Path("b"))]

    assert environments.choose(found, environments.least_version("pebble==5\n")) == Path("a")
    assert environments.choose(found, environments.least_version("# python >= 3.12\nardiq==1\n")) == Path("b")
    with pytest.raises(environments.MissingError, match=r"no python3\.14 or later on PATH"):
        environments.choose(found, (3, 14))


def test_an_environment_that_is_not_there_or_could_not_be_made_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_VENVS", str(tmp_path))

    with pytest.raises(environments.MissingError, match="run `python -m benchmarks setup pebble`"):
        environments.python_of("pebble")

    monkeypatch.setattr(environments, "interpreters", list)
    with pytest.raises(environments.MissingError, match=r"no python3\.11"):
        environments.make("pebble")
    with pytest.raises(environments.MissingError, match=r"no python3\.11"):
        environments.python_of("pebble")


# the file of results


def scenario(name: str = "results", **more: Any) -> Scenario:
    return Scenario(name, "Results", (Figure("rate", "tasks/s"),), measure=lambda _: {}, **more)


FACTS = {
    "machine": {
        "cpu": "one", "cpus": 2, "memory_gib": 4, "system": "Linux", "python": "3.11", "commit": "abc", "load_before": 0
    },
    "server": {"redis": "7", "settings": '--save ""'},
    "rounds": 2,
    "quick": False,
    "minutes": None,
}  # fmt: skip


def write_run(path: Path, monkeypatch: pytest.MonkeyPatch, run: str, **rates: list[float]) -> None:
    """Add a run to a file of results as `running` does it."""
    file = ResultsFile(path)
    monkeypatch.setattr("benchmarks.results_file.run_id", lambda: run)
    assert file.start_run(FACTS) == run
    file.describe(scenario())
    for contestant, values in rates.items():
        file.data["contestants"][contestant] = {"versions": {}, "python": "3.11", "settings": "", "local": False}
        file.cell("results", contestant, run)["rounds"] += [{"rate": value} for value in values]
    file.note_noise(run, {"loop_ms": 1.234_5})
    file.save()


def test_a_second_run_replaces_its_own_cells_and_keeps_the_others(tmp_path, monkeypatch):
    path = tmp_path / "bench" / "results.json"

    write_run(path, monkeypatch, "r1", qworker=[1.0], huey=[2.0])
    write_run(path, monkeypatch, "r2", qworker=[3.0])

    data = json.loads(path.read_text())
    assert {name: one["run"] for name, one in data["cells"]["results"].items()} == {"qworker": "r2", "huey": "r1"}
    assert data["cells"]["results"]["qworker"]["rounds"] == [{"rate": 3.0}]
    assert set(data["runs"]) == {"r1", "r2"}
    assert data["runs"]["r2"]["noise"] == [{"loop_ms": 1.23}]

    write_run(path, monkeypatch, "r3", huey=[4.0])

    assert set(json.loads(path.read_text())["runs"]) == {"r2", "r3"}, "nothing of r1 is left"


def test_a_run_that_was_broken_off_goes_on_when_nothing_else_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "bench" / "results.json"
    write_run(path, monkeypatch, "r1", qworker=[1.0])
    later = {**FACTS, "rounds": 3, "machine": {**FACTS["machine"], "commit": "abc-dirty", "load_before": 7}}

    file = ResultsFile(path)

    assert file.go_on(later) == "r1"
    assert file.data["runs"]["r1"]["rounds"] == 3
    assert file.peek("results", "qworker", "r1")["rounds"] == [{"rate": 1.0}]
    assert file.peek("results", "qworker", "r2") == file.peek("results", "rq", "r1") == {}
    with pytest.raises(SystemExit, match="run r1 cannot go on, its machine was another one"):
        file.go_on({**FACTS, "machine": {**FACTS["machine"], "commit": "def"}})
    with pytest.raises(SystemExit, match="there is no run in"):
        ResultsFile(tmp_path / "none.json").go_on(FACTS)


def test_the_page_marks_figures_of_another_run_and_compares_them_with_nobodys(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_VENVS", str(tmp_path / "none"))
    results, page = tmp_path / "bench" / "results.json", tmp_path / "bench.md"
    write_run(results, monkeypatch, "r1", huey=[2_000.0], rq=[100.0], celery=[200.0])
    write_run(results, monkeypatch, "r2", qworker=[4_000.0], huey=[2_000.0])

    said = list(report.write(results, page))

    text = page.read_text()
    assert said[0].startswith("no plots: it has no environment")
    assert "[bench/results.json](bench/results.json)" in text
    assert "| Results: tasks/s | 4,000 n=1 | huey 2,000 n=1 | 2.00 |" in text
    assert "**Figures marked [a] are of another run**" in text
    assert {line for line in text.splitlines() if line.startswith(("| rq", "| **qworker", "| huey"))} == {
        "| **qworker** | 4,000 n=1 |",
        "| huey | 2,000 n=1 |",
        "| rq | 100 n=1 [a] |",
    }


def test_every_scenario_names_what_it_gives():
    assert len(SCENARIOS) > 20
    for one in SCENARIOS.values():
        assert one.figures
        assert len({figure.name for figure in one.figures}) == len(one.figures)


def test_a_run_measures_what_it_lacks_of_a_round(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results_file.run_id", lambda: "r1")
    file = ResultsFile(tmp_path / "results.json")
    one = object.__new__(running.Run)  # without a server: nothing is measured
    one.file, one.id = file, file.start_run(FACTS)

    assert one._lacks(scenario(), "qworker", 1)
    file.cell("results", "qworker", "r1")["turns"] = 1
    assert not one._lacks(scenario(), "qworker", 1)
    assert one._lacks(scenario(), "qworker", 2)
    assert not one._lacks(scenario(rounds=1), "qworker", 2)
    file.cell("results", "rq", "r1")["not_offered"] = "no threads"
    assert not one._lacks(scenario(), "rq", 1)
