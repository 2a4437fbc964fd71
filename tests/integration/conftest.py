"""Fixtures of the tests of the command line: `qworker …` in this process, on the test's server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qworker import cli


@pytest.fixture
def run(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`run(*argv)`: its exit code, output and errors."""
    monkeypatch.setenv("QWORKER_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*argv: str) -> tuple[int, str, str]:
        code = cli.run(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return call
