"""Draw one picture per family of scenarios. Runs alone, in the environment that has matplotlib.

python plots.py RESULTS.json FOLDER '{"picture": ["scenario", …], …}' '{"scenario": [[figure, goal, text], …], …}'
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, QUEUE, LOCAL, GOAL = "#c0392b", "#5d7d9a", "#b5b5b5", "#2e7d32"
PANELS_IN_A_ROW = 2
WIDE = 50  # times from the least to the most: beyond it, the scale is logarithmic
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}  # behind a number, where a line may be


def main() -> None:
    """Draw all."""
    results, folder, families, goals = sys.argv[1:]
    data = json.loads(Path(results).read_text())
    for picture, names in json.loads(families).items():
        measured = [name for name in names if any_figure(data["cells"].get(name, {}))]
        if measured:
            draw(data, measured, json.loads(goals), Path(folder) / f"{picture}.png")


def any_figure(row: dict[str, Any]) -> bool:
    """Whether a scenario has something to draw."""
    return any(cell["rounds"] for cell in row.values())


def shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return the cells that have a bar, or a reason in place of one."""
    return {who: cell for who, cell in row.items() if cell["rounds"] or "failed" in cell}


def draw(data: dict[str, Any], names: list[str], goals: dict[str, Any], path: Path) -> None:
    """Draw a panel for each scenario: its first figure, the best contestant on top."""
    pairs = [names[place : place + PANELS_IN_A_ROW] for place in range(0, len(names), PANELS_IN_A_ROW)]
    heights = [1.5 + 0.26 * max(len(shown(data["cells"][name])) for name in pair) for pair in pairs]
    figure = plt.figure(figsize=(7 * PANELS_IN_A_ROW, sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(pairs), PANELS_IN_A_ROW, height_ratios=heights)
    for row, pair in enumerate(pairs):
        for column, name in enumerate(pair):
            fill(figure.add_subplot(grid[row, column]), data, name, goals.get(name, []))
    figure.supxlabel(footer(data, names), fontsize=7, color="#555555", x=0.01, ha="left")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def footer(data: dict[str, Any], names: list[str]) -> str:
    """Say when, where and of what the figures are."""
    runs = sorted({cell["run"] for name in names for cell in data["cells"][name].values()})
    lines = []
    for run in runs:
        facts = data["runs"][run]
        machine = facts["machine"]
        quick = "; A QUICK RUN, WHOSE FIGURES MEAN NOTHING" if facts["quick"] else ""
        lines.append(
            f"{facts['started']}, {machine['cpus']} x {machine['cpu']}, {machine['system']}, "
            f"Python {machine['python']}, Redis {facts['server']['redis']}, "
            f"commit {machine['commit']}; medians, least to most of {facts['rounds']} rounds or fewer{quick}"
        )
    return "\n".join(lines)


def fill(panel: Any, data: dict[str, Any], name: str, goals: list[Any]) -> None:
    """Draw the bars of one scenario, with the least and the most as a whisker."""
    scenario, row = data["scenarios"][name], data["cells"][name]
    wanted = scenario["figures"][0]
    found = {who: [one[wanted["name"]] for one in cell["rounds"]] for who, cell in row.items() if cell["rounds"]}
    order = sorted(found, key=lambda who: statistics.median(found[who]), reverse=wanted["best"] == "least")
    failed = sorted(who for who, cell in row.items() if not cell["rounds"] and "failed" in cell)
    everyone = [*failed, *order]
    for place, who in enumerate(everyone):
        values = found.get(who, [0.0])
        median = statistics.median(values)
        whisker = [[median - min(values)], [max(values) - median]] if len(values) > 1 else None
        panel.barh(place, median, color=color(data, who), xerr=whisker, error_kw={"ecolor": "#333333", "capsize": 2})
        if who in failed:
            panel.text(0, place, f"  failed: {reason(row[who]['failed'])}", va="center", size=7, color=OURS)
        else:
            where = {"xytext": (6, 0), "textcoords": "offset points"}
            panel.annotate(number(median), (max(values), place), va="center", size=8, bbox=PAPER, **where)
    medians = [statistics.median(values) for values in found.values()]
    if wanted["best"] == "least" and medians and max(medians) > WIDE * min(medians) > 0:
        panel.set_xscale("log")  # one that polls would make all others look like nothing
    top = len(everyone) - 0.5
    for (figure, target, text), style in zip(goals, ("--", ":", "-."), strict=False):
        if figure == wanted["name"]:
            panel.axvline(target, color=GOAL, linestyle=style, linewidth=1, label=f"goal: {text}, {number(target)}")
    if panel.get_legend_handles_labels()[0]:
        corner = "lower right" if wanted["best"] == "most" else "upper right"  # where the bars are short
        panel.legend(loc=corner, fontsize=7, framealpha=0.9)
    panel.set_ylim(-0.7, top)
    panel.set_yticks(range(len(everyone)), [labelled(data, who) for who in everyone], fontsize=8)
    panel.set_title(scenario["title"], fontsize=9, loc="left")
    better = "more is better" if wanted["best"] == "most" else "less is better"
    name = "" if wanted["unit"].startswith(wanted["name"]) else f"{wanted['name']}, "
    scale = ", logarithmic" if panel.get_xscale() == "log" else ""
    panel.set_xlabel(f"{name}{wanted['unit']} ({better}{scale})", fontsize=8)
    panel.tick_params(axis="x", labelsize=8)
    panel.margins(x=0.18)
    panel.spines[["top", "right"]].set_visible(False)


def reason(failed: str) -> str:
    """Return the first and the last line of why, shortened."""
    lines = [line.strip().replace("$", "") for line in failed.splitlines() if line.strip()]
    ends = [textwrap.shorten(line, 60, placeholder="…") for line in dict.fromkeys([lines[0], lines[-1]])]
    return " ".join(ends)


def number(value: float) -> str:
    """Write a number in three digits, or in thousands."""
    return f"{value:,.3g}" if value < 999.5 else f"{value:,.0f}"


def labelled(data: dict[str, Any], who: str) -> str:
    """Return the name of a contestant with its version."""
    versions = list(data["contestants"][who].get("versions", {}).values())
    return f"{who} {versions[0]}" if versions else who


def color(data: dict[str, Any], who: str) -> str:
    """Return the color of a contestant: ours, a queue's, a local pool's."""
    return OURS if who == "qworker" else LOCAL if data["contestants"][who].get("local") else QUEUE


if __name__ == "__main__":
    main()
