"""A long import that goes on where it was: rows of a CSV file into a SQLite database.

    qworker start resumable_import:app
    python resumable_import.py people.csv people.db

Stop the worker in the middle (Ctrl-C, or kill -9) and start one again: the import goes on after the last row that was
known to be done, and uses up no retry. The last moment may be done twice, so a row is written under its line number.
"""

from __future__ import annotations

import argparse
import csv
import sqlite3
from pathlib import Path

from qworker import App, current

app = App()


@app.task(timeout=3600)
def load(source: str, target: str, pause: float) -> int:
    """Load the rows; returns how many this attempt has read."""
    read = 0
    with Path(source).open(newline="") as stream, sqlite3.connect(target) as database:
        database.execute("CREATE TABLE IF NOT EXISTS rows (line INTEGER PRIMARY KEY, name TEXT, amount REAL)")
        rows = enumerate(csv.DictReader(stream), start=2)
        for line, row in current.iterate(rows, key=lambda numbered: numbered[0]):
            values = (line, row["name"], float(row["amount"]))
            database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", values)
            database.commit()
            read += 1
            current.progress(line)
            current.sleep(pause)
    return read


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a CSV file with the columns name and amount.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--pause", type=float, default=0.0, help="after each row, to see it happen")
    given = parser.parse_args()

    future = load.submit(str(given.source.resolve()), str(given.target.resolve()), given.pause)
    future.add_progress_callback(lambda progress: print(f"at line {progress.done:g}", flush=True))
    print(f"loaded; the last attempt read {future.result()} rows")


if __name__ == "__main__":
    main()
