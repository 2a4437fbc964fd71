"""The usual command line of `qworker start` is read without typer, and as typer would read it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from qworker.cli import start, start_flags
from qworker.errors import ConfigError

USUAL = [
    ["tasks:app"],
    ["tasks:app", "more:app", "-c", "8"],
    ["-c", "process=2,thread=20", "tasks:app", "--pool", "thread"],
    ["tasks:app", "--lease=15", "--url", "redis://x:1/0?a=b", "-q", "high,low"],
    ["tasks:app", "--burst", "--no-embedded", "--allow-eviction"],
    ["--embedded", "--name", "", "tasks"],
    [],
]
UNUSUAL = [
    ["--help"],
    ["-h"],
    ["tasks:app", "--no-such-flag"],
    ["tasks:app", "-c8"],
    ["tasks:app", "-c=8"],
    ["tasks:app", "-c"],
    ["tasks:app", "--window", "-1"],
    ["tasks:app", "--burst=1"],
    ["tasks:app", "--lease", "3", "--lease", "4"],
    ["--", "tasks:app"],
    ["-"],
]


def by_typer(argv):
    """What typer makes of it."""
    found = []

    def command(targets, flags):
        found.append((targets, flags))
        return 0

    app = typer.Typer(add_completion=False)
    app.command()(start_flags._with_flags(command))
    app(argv, standalone_mode=False)
    return found[0]


@pytest.mark.parametrize("argv", USUAL, ids=" ".join)
def test_it_is_read_as_typer_would_read_it(argv):
    assert start.read(argv) == by_typer(argv)


@pytest.mark.parametrize("argv", UNUSUAL, ids=" ".join)
def test_what_is_unusual_is_left_to_typer(argv):
    assert start.read(argv) is None


def test_a_worker_loads_nothing_that_only_the_command_line_needs():
    code = (
        "import sys; from qworker import cli; from qworker.worker import daemon\n"
        "daemon.serve = lambda settings, targets, spawned: print(*sorted(sys.modules)) or 0\n"
        "raise SystemExit(cli.run(['start', 'tasks:app', '-c', '2']))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert {"typer", "click", "rich", "difflib"}.isdisjoint(done.stdout.split())
    assert "qworker.worker.daemon" in done.stdout


def test_no_worker_is_started_in_a_working_directory_that_was_removed(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(ConfigError, match=r"the working directory is gone, .* Change into the project$"):
        start.run_worker(["tasks:app"], {})
