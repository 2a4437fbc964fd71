"""What long runs are summed up by: tallies of judged histories, and trends of what is sampled."""

from __future__ import annotations

import pytest

from support.history import soak
from support.history.judge import judge
from support.history.records import Ended, Fault, History, Line, Stopped, Submitted
from support.history.tally import CANCEL, STOP, TIMEOUT, figures, tally


def test_a_level_is_told_from_a_slope_and_the_warm_up_does_not_count():
    level = soak.trend([0.0] * 20 + [50.0, 51.0] * 40, every_s=6.0)
    slope = soak.trend([float(n) for n in range(100)], every_s=6.0)  # one more each six seconds

    assert level["per_10_minutes"] == 0
    assert slope["per_10_minutes"] == pytest.approx(100, rel=0.05)


def test_a_tally_counts_losses_repeats_and_how_long_they_took():
    def ended(name: str, state: str, at: float, fence: int | None, value: str | None, attempt: int = 1) -> Ended:
        return Ended(name, state, "returned" if value else "killed", attempt, at, fence, value)

    submitted = [
        Submitted(name, 1.0, 1.1, "accepted", timeout_s=0.5 if name == "slow" else None)
        for name in ("lost", "again", "slow", "cancelled", "stopped")
    ]
    history = History(
        lines=(
            Line("start", "again", 1, 1, 7, "w", 2.0),
            Line("start", "again", 2, 2, 8, "w", 4.5),
            Line("end", "again", 2, 2, 8, "w", 4.6, "returned", "2.2.8"),
            Line("start", "slow", 1, 3, 9, "w", 5.0),
            Line("start", "stopped", 1, 4, 9, "w", 6.0),
            Line("end", "stopped", 1, 4, 9, "w", 7.25, "asked"),
        ),
        submitted=tuple(submitted),
        stopped=(
            Stopped("cancelled", "cancel", 2.0, 2.125, "cancelled"),
            Stopped("stopped", "stop", 7.0, 7.1, "asked"),
        ),
        ended=(
            ended("again", "succeeded", 4.7, 2, "2.2.8", 2),
            ended("slow", "timed_out", 5.75, None, None),
            ended("cancelled", "cancelled", 2.2, None, None),
            ended("stopped", "cancelled", 7.3, None, None),
        ),
        faults=(Fault("kill child", 3.0, 3.0, 7, "w"),),
    )

    found = tally(history, judge(history), took_s=2.0)
    found.add(tally(history, [], took_s=3.0))
    shown = found.as_json()

    assert (shown["tasks"], shown["lost"], shown["starts"], shown["took_s"]) == (10, 2, 8, 5.0)
    assert (shown["duplicates"], shown["longest_recovery_s"]) == ({"kill child": 2}, {"kill child": 1.5})
    assert shown["violations"]["C1"] == 1
    assert {what: seen["max_ms"] for what, seen in shown["latencies"].items()} == {CANCEL: 125, STOP: 250, TIMEOUT: 250}


def test_figures_are_those_of_the_worst():
    assert figures([n / 1000 for n in range(1, 101)]) == {"count": 100, "p50_ms": 51, "p99_ms": 100, "max_ms": 100}
    assert figures([]) == {"count": 0}
