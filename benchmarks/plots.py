"""Draw one picture per family of scenarios. Runs alone, in the environment that has matplotlib.

python plots.py RESULTS.json FOLDER '{"picture": ["scenario", …], …}'
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS, QUEUE, LOCAL = "#c0392b", "#5d7d9a", "#b5b5b5"
PANELS_IN_A_ROW = 2


def main() -> None:
    """Draw all."""
    results, folder, families = sys.argv[1:]
    data = json.loads(Path(results).read_text())
    for picture, names in json.loads(families).items():
        measured = [name for name in names if any_figure(data["cells"].get(name, {}))]
        if measured:
            draw(data, measured, Path(folder) / f"{picture}.png")


def any_figure(row: dict[str, Any]) -> bool:
    """Whether a scenario has something to draw."""
    return any(cell["rounds"] for cell in row.values())


def draw(data: dict[str, Any], names: list[str], path: Path) -> None:
    """Draw a panel for each scenario: its first figure, the best contestant on top."""
    rows = -(-len(names) // PANELS_IN_A_ROW)
    bars = max(len(data["cells"][name]) for name in names)
    size = (7 * PANELS_IN_A_ROW, rows * (1.2 + 0.28 * bars))
    figure, grid = plt.subplots(rows, PANELS_IN_A_ROW, figsize=size, squeeze=False)
    panels = list(grid.flat)
    for panel, name in zip(panels, names, strict=False):
        fill(panel, data, name)
    for panel in panels[len(names) :]:
        panel.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def fill(panel: Any, data: dict[str, Any], name: str) -> None:
    """Draw the bars of one scenario, with the least and the most as a whisker."""
    scenario, row = data["scenarios"][name], data["cells"][name]
    wanted = scenario["figures"][0]
    found = {who: [one[wanted["name"]] for one in cell["rounds"]] for who, cell in row.items() if cell["rounds"]}
    order = sorted(found, key=lambda who: statistics.median(found[who]), reverse=wanted["best"] == "least")
    failed = sorted(who for who, cell in row.items() if not cell["rounds"] and "failed" in cell)
    for place, who in enumerate([*failed, *order]):
        values = found.get(who, [0.0])
        median = statistics.median(values)
        whisker = [[median - min(values)], [max(values) - median]]
        panel.barh(place, median, color=color(data, who), xerr=whisker, error_kw={"ecolor": "#333333", "capsize": 2})
        if who in failed:
            panel.text(0, place, "  failed", va="center", size=8, color=OURS)
        else:
            text = f"  {median:,.3g}" if median < 1000 else f"  {median:,.0f}"
            panel.text(max(values), place, text, va="center", size=8)
    panel.set_yticks(range(len(failed) + len(order)), [*failed, *order], fontsize=8)
    panel.set_title(scenario["title"], fontsize=9, loc="left")
    better = "more is better" if wanted["best"] == "most" else "less is better"
    panel.set_xlabel(f"{wanted['name']}, {wanted['unit']} ({better})", fontsize=8)
    panel.tick_params(axis="x", labelsize=8)
    panel.margins(x=0.18)
    panel.spines[["top", "right"]].set_visible(False)


def color(data: dict[str, Any], who: str) -> str:
    """Return the color of a contestant: ours, a queue's, a local pool's."""
    return OURS if who == "qworker" else LOCAL if data["contestants"][who].get("local") else QUEUE


if __name__ == "__main__":
    main()
