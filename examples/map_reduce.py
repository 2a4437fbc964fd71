"""Map and reduce: the commonest words of all text files below a folder.

    qworker start map_reduce:app -c 4
    python map_reduce.py ~/notes --suffix .md

`count.map` takes the files as fast as workers count them and no faster, so a folder of millions needs no more memory
here than one of hundreds; the partial counts are merged by workers, too, some at a time.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from qworker import App

app = App()
AT_ONCE = 16  # partial counts in one merge


@app.task
def count(path: str) -> dict[str, int]:
    """Count the words of one file."""
    return dict(Counter(re.findall(r"[a-z']{3,}", Path(path).read_text(errors="replace").lower())))


@app.task
def merge(parts: list[dict[str, int]]) -> dict[str, int]:
    """Add counts up."""
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return dict(total)


def batches(parts: Iterable[dict[str, int]]) -> Iterator[list[dict[str, int]]]:
    """Gather parts into lists."""
    rest = iter(parts)
    while batch := list(islice(rest, AT_ONCE)):
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description="Count the words of many files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suffix", default=".txt")
    parser.add_argument("--top", type=int, default=10)
    given = parser.parse_args()

    files = (str(path.resolve()) for path in given.folder.rglob(f"*{given.suffix}"))
    counted = count.map(files, ordered=False)
    total: Counter[str] = Counter()
    for part in merge.map(batches(counted), window=8, ordered=False):
        total.update(part)
    for word, times in sorted(total.items(), key=lambda found: (-found[1], found[0]))[: given.top]:
        print(f"{times:6} {word}")


if __name__ == "__main__":
    main()
