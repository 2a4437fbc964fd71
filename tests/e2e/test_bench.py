"""The benchmarks as a user runs them: quick, with few contestants, whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.adapter import Adapter, FailedError, NotOfferedError
from benchmarks.processes import Process
from support.processes import is_running
from support.waiting import wait_until

ROOT = Path(__file__).parents[2]


def bench(*arguments: str, within_s: float = 100.0, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=within_s, check=False
    )


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("redis_server")  # not that one: what it shows is that there is a redis-server to start
def test_a_quick_run_measures_and_its_page_is_written(tmp_path):
    results, page = tmp_path / "bench" / "results.json", tmp_path / "bench.md"

    ran = bench(
        "run", "--quick", "--rounds", "1", "--contestants", "qworker,processpool", "--scenarios", "results,drain-2",
        "--out", str(results), "--json",
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    cells = json.loads(ran.stdout)["cells"]
    assert cells["results"]["qworker"]["rounds"][0]["rate"] > 0
    assert cells["results"]["processpool"]["rounds"][0]["rate"] > 0
    assert cells["drain-2"]["qworker"]["rounds"][0]["rate"] > 0
    assert cells["drain-2"]["processpool"]["not_offered"] == "a local pool: there is no queue"

    reported = bench("report", "--results", str(results), "--page", str(page), BENCH_VENVS=str(tmp_path / "none"))

    assert reported.returncode == 0, reported.stderr
    assert "## qworker beside the best of the others" in page.read_text()
    assert "A quick run" in page.read_text()


def test_an_unknown_name_is_refused_with_those_that_there_are():
    ran = bench("run", "--contestants", "sidekiq")

    assert ran.returncode == 1
    assert ran.stderr.startswith("no contestant sidekiq; there are: qworker, ")


# What a contestant starts, in a process of its own: being a subreaper is for life.
STOPPED = """
import os, sys, time
from pathlib import Path
from benchmarks.processes import Process, become_subreaper, descendants, sweep
become_subreaper()
log = Path(sys.argv[1]) / "log"
process = Process(["sh", "-c", sys.argv[2]], env=dict(os.environ), cwd=log.parent, log=log)
while "ready" not in process.said():
    time.sleep(0.01)
tree = process.tree()
getattr(process, sys.argv[3])()
sweep()
print(*tree)
assert not descendants(os.getpid())
"""
# A worker as some are: its child leads a session of its own, and its grandchild was orphaned long ago.
WORKER = "setsid sh -c '(sleep 600 & echo ready) ; sleep 600' & wait"


def test_whatever_a_worker_started_ends_with_it(tmp_path):
    for how in ("stop", "kill"):
        (tmp_path / how).mkdir()
        command = [sys.executable, "-c", STOPPED, str(tmp_path / how), WORKER, how]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.split()) >= 3
        assert not any(is_running(int(pid)) for pid in ended.stdout.split())


# What a harness leaves that ends before it has noted what it started, or is killed.
LEFT = """
import os, signal, sys
from pathlib import Path
from benchmarks.processes import Process, become_subreaper, end_all
become_subreaper()
folder = Path(sys.argv[1])
process = Process(["sleep", "600"], env=dict(os.environ), cwd=folder, log=folder / "log")
print(process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "killed" else end_all()
"""


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_nothing_outlives_the_harness(tmp_path, how):
    command = [sys.executable, "-c", LEFT, str(tmp_path), how]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)

    wait_until(lambda: not is_running(int(ended.stdout)), description="the end of what it started")


ANSWERING = """
import json, sys
print("hello", file=sys.stderr, flush=True)
for line in sys.stdin:
    verb = json.loads(line)["verb"]
    if verb == "die":
        raise SystemExit("out of memory")
    answers = {"facts": {"local": False}, "none": {"not_offered": "no such thing"}, "bad": {"failed": "ValueError: 7"}}
    if verb in answers:
        print(json.dumps(answers[verb]), flush=True)
"""


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Adapter]:
    one = Adapter([sys.executable, "-c", ANSWERING], env=dict(os.environ), cwd=tmp_path, log=tmp_path / "log")
    yield one
    one.stop()


def test_what_an_adapter_answers_is_a_figure_or_the_reason_why_there_is_none(adapter):
    assert adapter.facts == {"local": False}
    with pytest.raises(NotOfferedError, match="no such thing"):
        adapter.order("none")
    with pytest.raises(FailedError, match=r"^bad: ValueError: 7$"):
        adapter.order("bad")


def test_an_adapter_that_does_not_answer_in_time_has_failed(adapter):
    with pytest.raises(FailedError, match=r"^no answer to think within 0\.1 s:\nhello$"):
        adapter.order("think", within_s=0.1)


def test_the_end_of_what_an_adapter_said_is_the_reason_of_its_failure(adapter):
    with pytest.raises(FailedError, match=r"^the adapter ended during die:\nhello\nout of memory$"):
        adapter.order("die")


def test_an_answer_is_not_awaited_from_a_worker_that_has_ended(adapter, tmp_path):
    worker = Process(["sh", "-c", "echo no such queue"], env={}, cwd=tmp_path, log=tmp_path / "worker.log")
    worker.popen.wait()

    with pytest.raises(FailedError, match=r"^the worker ended during think:\nno such queue$"):
        adapter.order("think", worker=worker)
