"""The guard of the hot paths: what it reads, what it judges, and that it fails when a count grows."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from benchmarks import counting, guard
from qworker import codec
from qworker.pool import patrol
from support.servers import find_server, missing

ROOT = Path(__file__).parents[2]

STRACE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 11.92    0.000632           0       736         7 read
  0.99    0.000061           0       129           sendto
  0.10    0.000000           0        64           poll
  2.14    0.000131           1        81        10 futex
------ ----------- ----------- --------- --------- ----------------
100.00    0.006142           1      1010        17 total
"""

# One small scenario without system calls: the guard itself is the same.
SMALL = """
import sys
from benchmarks import counting, guard
from benchmarks.__main__ import main
counting.strace_works = lambda: False
guard.SCENARIOS = {"submit one by one": (32, guard.submit_one)}
sys.argv[1:] = ["guard", "--only", "submit one", "--rounds", "1", *sys.argv[1:]]
sys.exit(main())
"""
MORE_COMMANDS = """
from qworker.broker.sending import Sending
before = Sending.submit
def submit(self, drafts, futures):
    self.pinging = getattr(self, "pinging", None) or __import__("redis").Redis.from_url(self._broker.url)
    self.pinging.ping()
    return before(self, drafts, futures)
Sending.submit = submit
"""


def test_the_table_of_strace_is_read_by_what_calls_do():
    assert counting.summed(STRACE) == {"reads and writes": 736 + 129, "waits": 64}


def test_code_is_told_apart_by_its_file():
    assert counting.whose(codec.__file__) == counting.OURS
    assert counting.whose(redis.client.__file__) == counting.LIBRARY
    assert counting.whose(patrol.__file__) == ""
    assert counting.whose(asyncio.events.__file__) is None
    assert counting.whose("/srv/qworker/benchmarks/rig.py") is None


def test_what_runs_by_the_clock_is_there():
    assert all(Path(name).is_file() for name in counting.BY_THE_CLOCK)


def test_a_counter_counts_the_same_for_the_same_work():
    from qworker import durations

    def counted(times: int) -> int:
        counter = counting.Counter()
        counter.start()
        for _ in range(times):
            durations.text(90)
        counter.stop()
        return counter.counts["MainThread: instructions in qworker"]

    assert counted(1) > 0
    assert counted(6) - counted(3) == counted(5) - counted(2) == 3 * counted(1)


def test_a_figure_is_judged_by_its_bound():
    rows = guard.judged({"a": 1.0, "b": 1.2, "c": 3.0}, {"a": 1.0, "b": 1.1})

    assert [row.verdict for row in rows] == ["ok", "GREW", "skipped: no bound is recorded"]
    assert all(word in guard.table(rows) for word in ("GREW", "skipped", "1.100"))


def test_a_bound_is_a_little_above_what_was_measured():
    assert guard.bound_for("submit: commands", 8.0) == 8.42
    assert guard.bound_for("submit: instructions", 1779.0) == 1870
    assert guard.bound_for("idle worker: calls", 2.0) == 2.5


def test_the_least_of_several_looks_counts():
    assert guard.least({"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 3.0}) == {"a": 1.0, "b": 1.0}


@pytest.mark.skipif(find_server("redis") is None, reason=missing("redis"))
@pytest.mark.timeout(240)  # three whole runs of the command, which takes its time on a busy machine
def test_it_passes_while_nothing_grows_and_fails_when_a_submit_sends_one_command_more(tmp_path: Path):
    bounds = tmp_path / "bounds.json"

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", SMALL, "--bounds", str(bounds), *arguments],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=75, check=False,
        )  # fmt: skip

    recorded = run("--record")
    assert recorded.returncode == 0, recorded.stderr
    assert any(name.endswith("Redis commands") for name in json.loads(bounds.read_text())["bounds"])

    # What else is counted varies with what the threads of a busy machine do when; `judged` has tests of its own.
    kept = {name: bound for name, bound in json.loads(bounds.read_text())["bounds"].items() if "Redis commands" in name}
    bounds.write_text(json.dumps({"bounds": kept}))

    unchanged = run()
    assert unchanged.returncode == 0, unchanged.stdout

    inject = tmp_path / "inject.py"
    inject.write_text(MORE_COMMANDS)
    grown = run(RIG_INJECT=str(inject))
    assert grown.returncode == 1
    grew = [line for line in grown.stdout.splitlines() if line.endswith("GREW")]
    assert any("Redis commands" in line for line in grew), grown.stdout
