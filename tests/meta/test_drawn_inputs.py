"""What is drawn for the tests is new in each run at home, and new for each tree in CI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

CI = Path(__file__).resolve().parents[2] / ".ci" / "run"
GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")


def test_no_two_runs_at_home_draw_the_same() -> None:
    assert not settings().derandomize
    assert settings().deadline is None
    assert settings().print_blob


@pytest.fixture
def drawn(tmp_path: Path) -> Callable[[], list[str]]:
    """`drawn()`: what CI would say and run in a project with a copy of its script; make only says what it was given."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(CI.read_text())
    (tmp_path / "Makefile").write_text(
        "%:\n\t@echo $@ '$(ARGS)' of '$(value QWORKER_TEST_SEED) $(value QWORKER_SIM_SEED)'\n"
    )

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "redis-server").write_text("#!/bin/sh\n")  # or the script would install one
    (tmp_path / "bin" / "redis-server").chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def run() -> list[str]:
        seen = subprocess.run(
            ["bash", ".ci/run"],
            cwd=tmp_path,
            capture_output=True,
            check=True,
            text=True,
            env={**os.environ, "PATH": path},
        )
        return [line for line in seen.stdout.splitlines() if line.startswith(("the seed", "chaos", "test"))]

    return run


def test_ci_draws_the_same_for_one_tree_and_anew_for_the_next(drawn, tmp_path: Path) -> None:
    def commit(text: str) -> None:
        (tmp_path / "file").write_text(text)
        subprocess.run([*GIT, "add", "-A"], cwd=tmp_path, check=True)
        subprocess.run([*GIT, "commit", "-qm", "a"], cwd=tmp_path, check=True)

    subprocess.run([*GIT, "init", "-q"], cwd=tmp_path, check=True)
    commit("one")
    first, again = drawn(), drawn()
    commit("two")
    other = drawn()
    commit("one")

    seed = first[0].rpartition(" ")[2]
    assert int(seed) >= 0
    assert f"chaos --seed {seed} of {seed} {seed}" in first
    assert any(
        line.startswith(f"test --hypothesis-seed={seed} ") and line.endswith(f"of {seed} {seed}") for line in first
    )
    assert first == again == drawn()
    assert first != other


def test_ci_draws_something_where_there_is_no_history(drawn) -> None:
    assert int(drawn()[0].rpartition(" ")[2]) >= 0
