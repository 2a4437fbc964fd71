"""The code of the README, run as it stands: its quick start and its worked example, with the worker it names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qworker.broker import embedded
from support.daemon import start_worker
from support.suites import run_suite

README = Path(__file__).resolve().parents[2] / "README.md"


def blocks(section: str) -> list[str]:
    """The code blocks of a section of the README."""
    text = README.read_text()
    part = text.split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"```(?:python)?\n(.*?)```", part, re.DOTALL)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """An empty project of a user's, whose embedded server ends with the test."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    yield root
    embedded.stop(root)


def run(project: Path, code: str) -> str:
    """Run a script of the user's in the project and return what it printed."""
    (project / "script.py").write_text(code)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=project, capture_output=True, text=True, timeout=40, env=environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tasks_of_a_group_end_together(project: Path) -> None:
    (project / "tasks.py").write_text(blocks("A worked example")[0])
    [code] = blocks("Tasks that end together")
    worker = start_worker(None, "tasks:app", log_dir=project, cwd=project)
    try:
        assert run(project, code).splitlines() == ["TaskTimedOut", "2 True 0"]
    finally:
        worker.close()


def test_the_quick_start_answers_five(project: Path) -> None:
    _, tasks, command, session = blocks("Quick start")
    (project / "tasks.py").write_text(tasks)
    assert command.split() == ["qworker", "start", "tasks:app"]
    worker = start_worker(None, "tasks:app", log_dir=project, cwd=project)
    try:
        lines = [line[4:] for line in session.splitlines() if line.startswith(">>> ")]
        expected = [line for line in session.splitlines() if not line.startswith(">>> ")]

        said = run(project, "\n".join([*lines[:-1], f"print({lines[-1]})"]))

        assert said.split() == expected
    finally:
        worker.close()


def test_the_quick_start_is_short_and_names_both_commands() -> None:
    section = README.read_text().split("## Quick start\n", 1)[1].split("\n## ", 1)[0]

    assert len(section.split()) <= 200
    assert "make demo" in section
    assert "make test" in section


def test_the_worked_example_does_what_its_comments_say(project: Path) -> None:
    tasks, produce = blocks("A worked example")
    (project / "tasks.py").write_text(tasks)
    worker = start_worker(None, "tasks:app", log_dir=project, cwd=project)
    try:
        said = run(project, produce).splitlines()
    finally:
        worker.close()

    here, there, late, timed_out, receipt, *several = said
    assert here.split()[0] == there.split()[0] != "0"
    assert "running on" in late
    assert "attempt 1 of 1" in late
    assert "timeout 4.0 s" in timed_out
    assert "killed" in timed_out
    assert receipt == "cancelled False"
    assert len(several) == 4
    assert several[2:] == [here.split()[0]] * 2


def test_the_tests_of_the_worked_example_pass(project: Path) -> None:
    tasks, _ = blocks("A worked example")
    (suite,) = blocks("In your test suite")
    (project / "tasks.py").write_text(tasks)
    (project / "test_tasks.py").write_text(suite)

    done = run_suite(project)

    assert "3 passed" in done.stdout, done.stdout + done.stderr
