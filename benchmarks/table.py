"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .comparison import values
from .figures import range_of

NOTHING = "\N{EN DASH}"
CANNOT = "cannot"  # the page says why


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first column is text, the others are figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def columns(scenario: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return the heads of a scenario's columns and the figures in each: those of one unit share one."""
    by_unit: dict[str, list[str]] = {}
    for figure in scenario["figures"]:
        by_unit.setdefault(figure["unit"], []).append(figure["name"])
    return [(titled(scenario, unit, names if len(names) > 1 else []), names) for unit, names in by_unit.items()]


def titled(scenario: dict[str, Any], unit: str, names: Sequence[str]) -> str:
    """Return a scenario's title with the unit, and with the names of figures where the unit alone does not tell."""
    return f"{scenario['title']}: {', '.join([*([' / '.join(names)] if names else []), unit])}"


def written(cell: dict[str, Any] | None, figures: Sequence[str], mark: str = "") -> str:
    """Write a cell: the median and the range of each figure, and of how many rounds; or why there is none."""
    if cell is None:
        return ""
    found = [values(cell, figure) for figure in figures]
    if all(found):
        text = f"{' / '.join(range_of(one) for one in found)} n={len(found[0])}"
        return text + (", failed once" if cell.get("failures") else "") + mark
    return ("failed" if "failed" in cell else CANNOT if "cannot" in cell else NOTHING) + mark
