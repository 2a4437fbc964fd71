"""Draw the figures of growth.json, in the environment `plots`: `python growth_plots.py FILE` makes a PNG beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# What is drawn: series, title, label of the axes, [(field, label)].
US = "µs per task"
LINES = (
    ("window", "Window", "tasks in a window", US, [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    ("depth", "Depth of the queue", "tasks queued", US, [("claim_us_per_task", "Redis, claim, per task")]),
    ("payload", "Payload", "bytes in, and out", US, [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    ("workers", "Workers on one Redis", "workers", US, [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    (
        "futures",
        "Futures waiting",
        "others awaited",
        US,
        [("total_cpu_us", "CPU of a round trip"), ("wall_us", "wall")],
    ),
    ("idle", "Idle workers", "workers", "per second and worker", [("redis_calls_per_worker", "calls to Redis")]),
)
# Series of bars: title, label of the axis, field, where a line is drawn and what it is.
BARS = (
    ("features", "Features: CPU of a task with it / without it", "ratio", "cpu_ratio", 1.0, "no difference"),
    ("memory", "Redis memory of a task", "bytes", "bytes", None, ""),
    (
        "kill",
        "A kill, by its steps (kill.py)",
        "ms, median",
        "median_ms",
        10.0,
        "goal of `next`",
    ),
)
LOGARITHMIC = ("payload",)  # upwards, too


def main(file: Path) -> None:
    """Draw what the file has."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figures = json.loads(file.read_text())
    drawn, axes = plt.subplots(3, 3, figsize=(15, 12.5), constrained_layout=True)
    panels = list(axes.flat)
    for axis, line in zip(panels, LINES, strict=False):
        _line(axis, figures.get(line[0], {}).get("series", {}), *line)
    for axis, bars in zip(panels[len(LINES) :], BARS, strict=True):
        _bars(axis, figures.get(bars[0], {}).get("series", {}), *bars[1:])
    drawn.supxlabel(footer(figures), fontsize=8, color="#555555", x=0.01, ha="left")
    drawn.savefig(file.with_suffix(".png"), dpi=100)


def footer(figures: dict[str, Any]) -> str:
    """Say when and where the series were measured."""
    seen = dict.fromkeys(
        f"{one['at']}, {one['machine']['cpus']} x {one['machine']['cpu']}, {one['machine']['system']}, "
        f"Python {one['machine']['python']}, commit {one['machine']['commit']}"
        + ("; A QUICK RUN, WHOSE FIGURES MEAN NOTHING" if one.get("quick") else "")
        for one in figures.values()
    )
    return "\n".join(seen)


def pairs(series: dict[str, dict[str, Any]], field: str) -> list[tuple[float, float]]:
    """Return the points of one line; a value that was not measured has none."""
    return [(float(value), row[field]) for value, row in series.items() if row.get(field) is not None]


def _line(axis: Any, series: dict[str, Any], name: str, title: str, x: str, y: str, fields: list[Any]) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    for field, what in fields:
        points = pairs(series, field)
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=what)
    if series:
        values = [int(value) for value in series]
        axis.margins(y=0.1)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks(values, [short(value) for value in values])
        axis.minorticks_off()
        if name in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, axis.get_ylim()[1])
        axis.legend()


def short(value: int) -> str:
    """Write 1,000 as 1k and a million as 1M."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if value >= unit and value % unit == 0:
            return f"{value // unit}{letter}"
    return str(value)


def _bars(axis: Any, series: dict[str, Any], title: str, x: str, field: str, mark: float | None, what: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    names = list(series)[::-1]
    bars = axis.barh(names, [series[name][field] for name in names])
    axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axis.margins(x=0.12)
    if mark is not None and names:
        axis.axvline(mark, color="black", linewidth=0.8, linestyle="--", label=what)
        axis.legend(loc="lower right", fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
