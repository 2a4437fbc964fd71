"""The yardstick of the window tests is itself right."""

from __future__ import annotations

import pytest

from support.schedule import Span, cost_between, longest_idle, makespan, percentile


def test_the_makespan_goes_from_the_first_start_to_the_last_end() -> None:
    assert makespan([0.0, 0.0, 0.1, 0.2], [1.0, 0.1, 0.1, 2.0]) == pytest.approx(2.2)


def test_a_slot_that_is_free_while_a_task_waits_is_found() -> None:
    spans = [Span("a", 0.0, 1.0), Span("a", 1.0, 2.0), Span("a", 2.0, 3.0)]

    assert longest_idle(spans, {"a": 1, "b": 1}, submitted=0.0, serving=0.5) == pytest.approx(1.5)


def test_a_slot_that_is_free_when_nothing_waits_is_nobodys_fault() -> None:
    spans = [Span("a", 0.0, 5.0), Span("b", 0.1, 0.2), Span("b", 0.2, 0.3)]

    assert longest_idle(spans, {"a": 1, "b": 1}, submitted=0.0, serving=0.0) == pytest.approx(0.1)


def test_short_gaps_between_tasks_do_not_add_up() -> None:
    spans = [Span("a", n, n + 0.9) for n in range(10)]

    assert longest_idle(spans, {"a": 1}, submitted=0.0, serving=0.0) == pytest.approx(0.1)


def test_what_the_machine_costs_is_told_from_what_the_scheduler_wastes() -> None:
    starts = [n * 1.1 for n in range(20)] + [100.0 + n * 1.1 for n in range(20)]

    assert cost_between(Span("a", start, start + 1.0, slot=7) for start in starts) == pytest.approx(0.1)


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(100), 0.95) == 95
