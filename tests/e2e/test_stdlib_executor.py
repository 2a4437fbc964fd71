"""The standard library's own tests for executors pass on `qworker.Executor`; what is left out says why.

They come with CPython, but not with every build of it: an interpreter that has them is looked for, and gets a venv of
its own with what qworker needs, which is kept for the next time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SUITE = ROOT / "tests" / "support" / "stdlib_executor.py"
VENVS = ROOT / ".venv-stdlib"
# With older ones the tests are one module, `test.test_concurrent_futures`.
NAMES = ("python3.14", "python3.13", "python3.12")
MIXINS = "import sys, test.test_concurrent_futures.executor as _; print(sys.version_info[:2])"


def interpreters() -> list[str]:
    """Every interpreter on the path, or beside it as pyenv keeps them, that may have the tests."""
    kept = sorted(Path.home().glob(".pyenv/versions/3.1[2-9]*/bin/python3"), reverse=True)
    found = [sys.executable, *(shutil.which(name) for name in NAMES), *map(str, kept)]
    return [path for path in found if path]


def has_the_tests(python: str) -> bool:
    return subprocess.run([python, "-c", MIXINS], capture_output=True, check=False, timeout=60).returncode == 0


def python_with_qworker(python: str) -> str:
    """Return the interpreter of a venv of that one, with the packages that qworker needs; made if it is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *project["optional-dependencies"]["embedded"]]
    name = hashlib.sha256(repr([python, *needs]).encode()).hexdigest()[:12]
    venv = VENVS / name
    inside = venv / "bin" / "python"
    if not (venv / "complete").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(venv)], check=True, capture_output=True, timeout=120)
        pip = [str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needs]
        subprocess.run(pip, check=True, capture_output=True, timeout=300)
        (venv / "complete").touch()
    return str(inside)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_standard_librarys_tests_for_executors_pass() -> None:
    chosen = next((python for python in interpreters() if has_the_tests(python)), None)
    if chosen is None:
        pytest.skip(f"none of {interpreters()} has test.test_concurrent_futures as CPython 3.12 and later have it")
    try:
        python = python_with_qworker(chosen)
    except subprocess.SubprocessError as error:
        pytest.skip(f"no venv with qworker's dependencies for {chosen}: {error}")

    environ = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
    done = subprocess.run(
        [python, str(SUITE)], env={**environ, "PYTHONPATH": str(ROOT / "src")}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=800,
    )  # fmt: skip

    print(done.stdout)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Warning" not in done.stdout
