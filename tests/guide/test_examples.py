"""The programs in `examples/`, run as a user runs them."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.daemon import Worker, start_worker
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def environment(url: str | None) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
    environ["PYTHONPATH"] = str(ROOT / "src")
    return environ | ({} if url is None else {"QWORKER_URL": url})


@pytest.fixture
def serve(url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers for an example, which end with the test."""
    workers: list[Worker] = []

    def serve(example: str, *args: str) -> Worker:
        path = os.pathsep.join([str(ROOT / "src"), str(EXAMPLES)])
        workers.append(start_worker(url, f"{example}:app", *args, log_dir=tmp_path, env={"PYTHONPATH": path}))
        return workers[-1]

    yield serve
    for worker in workers:
        worker.close()


def run(script: str, *arguments: str, cwd: Path, url: str | None = None) -> str:
    """Run an example from another directory, and return what it printed."""
    environ = environment(url)
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=50, env=environ, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_cpu_sweep_measures_every_compressor_at_every_level(tmp_path: Path) -> None:
    said = run("cpu_sweep.py", "--files", "4", "--workers", "2", cwd=tmp_path)

    measured = re.findall(r"^ +(\w+) -(\d) +([\d.]+)% +[\d.]+ s$", said, re.MULTILINE)
    assert {(name, level) for name, level, _ in measured} == {
        (name, level) for name in ("zlib", "bz2", "lzma") for level in "1369"
    }
    assert all(0 < float(ratio) < 100 for _, _, ratio in measured)
    assert "12 measurements of 4 files" in said
    assert re.search(r"^worth their time: \w+ -\d", said, re.MULTILINE)


def make_site(folder: Path, pages: int) -> Path:
    """Pages that link to the next two, back to the first, to nothing, and out into the world."""
    for n in range(pages):
        links = "".join(
            f'<a href="page{other}.html#top">{other}</a>' for other in (2 * n + 1, 2 * n + 2, 0) if other < pages
        )
        world = '<a href="https://example.com/x.html">x</a><a href="missing.html">y</a>'
        (folder / f"page{n}.html").write_text(f"<title>Page {n}</title><p>{links}{world}</p>")
    return folder / "page0.html"


def test_the_crawler_visits_every_page_once(serve, url: str, tmp_path: Path) -> None:
    serve("crawler", "-c", "2")

    said = run("crawler.py", str(make_site(tmp_path, 40)), cwd=tmp_path, url=url)

    assert said.startswith("40 pages\n")
    assert f"  Page 0  {tmp_path}/page0.html\n" in said
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == 40


def test_the_crawler_ends_at_its_deadline_and_nothing_of_it_goes_on(serve, url: str, tmp_path: Path) -> None:
    serve("crawler", "-c", "1")

    said = run("crawler.py", str(make_site(tmp_path, 60)), "--pause", "0.2", "--seconds", "2", cwd=tmp_path, url=url)

    pages = int(re.match(r"(\d+) pages, stopped at the deadline\n", said)[1])  # type: ignore[index]
    assert 1 <= pages < 20
    assert len((tmp_path / "index.jsonl").read_text().splitlines()) == pages


def test_map_reduce_counts_all_words_of_all_files(serve, url: str, tmp_path: Path) -> None:
    serve("map_reduce", "-c", "2")
    texts = tmp_path / "texts"
    texts.mkdir()
    for n in range(100):
        (texts / f"{n}.txt").write_text("the end " * n + "of days")

    said = run("map_reduce.py", str(texts), "--top", "3", cwd=tmp_path, url=url)

    assert said.split() == ["4950", "end", "4950", "the", "100", "days"]


def test_the_splitter_ends_on_one_slot(serve, url: str, tmp_path: Path) -> None:
    serve("splitter", "-c", "1")

    said = run("splitter.py", "20000", "--depth", "5", cwd=tmp_path, url=url)

    assert said == "2262 primes below 20000, by 63 tasks\n"


def test_the_import_goes_on_where_a_killed_worker_left_it(serve, url: str, tmp_path: Path) -> None:
    rows = 300
    (tmp_path / "in.csv").write_text("name,amount\n" + "".join(f"n{n},{n}.5\n" for n in range(rows)))
    target = tmp_path / "out.db"
    first = serve("resumable_import", "-c", "1")
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "resumable_import.py"), "in.csv", "out.db", "--pause", "0.01"],
        cwd=tmp_path, env=environment(url), stdout=subprocess.PIPE, text=True,
    ) as program:  # fmt: skip
        # So many that a renewal, which comes each second, has passed the cursor on.
        wait_until(lambda: loaded(target) > 150, timeout=20, description="half of the rows")
        first.kill()

        serve("resumable_import", "-c", "1")

        said, _ = program.communicate(timeout=40)
    assert program.returncode == 0
    again = int(re.search(r"the last attempt read (\d+) rows", said)[1])  # type: ignore[index]
    assert again < rows - 20
    assert loaded(target) == rows


def loaded(database: Path) -> int:
    """How many rows are there, and committed."""
    if not database.exists():
        return 0
    connection = sqlite3.connect(database)
    try:
        return int(connection.execute("SELECT count(*) FROM rows").fetchone()[0])
    except sqlite3.OperationalError:
        return 0  # no table yet, or it is being written
    finally:
        connection.close()
