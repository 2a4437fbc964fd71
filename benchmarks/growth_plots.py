"""Draw the figures of growth.json, in the environment `plots`: `python growth_plots.py FILE` makes a PNG beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

# What is drawn: series, title, label of the axis, [(field, label, is on a logarithmic scale)].
LINES = (
    ("window", "Window", "tasks in a window", [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    ("depth", "Depth of the queue", "tasks queued", [("claim_us_per_task", "Redis, claim, per task")]),
    ("payload", "Payload", "bytes in, and out", [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    ("workers", "Workers on one Redis", "workers", [("total_cpu_us", "CPU, all parties"), ("wall_us", "wall")]),
    ("futures", "Futures waiting", "others awaited", [("total_cpu_us", "CPU of a round trip"), ("wall_us", "wall")]),
)


def main(file: Path) -> None:
    """Draw what the file has."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figures = json.loads(file.read_text())
    drawn, axes = plt.subplots(2, 3, figsize=(15, 8.5), constrained_layout=True)
    for axis, (name, title, label, fields) in zip(axes.flat, LINES, strict=False):
        axis.set_title(title)
        axis.set_xlabel(label)
        axis.set_ylabel("µs per task")
        series = figures.get(name, {}).get("series", {})
        for field, what in fields:
            points = pairs(series, field)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=what)
        if series:
            axis.set_xscale("symlog", linthresh=1)
            axis.set_ylim(bottom=0)
            axis.legend()
    _features(axes.flat[5], figures.get("features", {}).get("series", {}))
    drawn.savefig(file.with_suffix(".png"), dpi=110)


def pairs(series: dict[str, dict[str, Any]], field: str) -> list[tuple[float, float]]:
    """Return the points of one line; a value that was not measured has none."""
    return [(float(value), row[field]) for value, row in series.items() if row.get(field) is not None]


def _features(axis: Any, series: dict[str, dict[str, Any]]) -> None:
    axis.set_title("Features: CPU of a task with it / without it")
    names = list(series)[::-1]
    axis.barh(names, [series[name]["cpu_ratio"] for name in names])
    axis.axvline(1.0, color="black", linewidth=0.8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
