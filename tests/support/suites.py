"""Run a user's own test suite, as a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path


def run_suite(directory: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest there as a user does. Where this project is not installed anew, the plugin is named."""
    known = [entry.name for entry in importlib.metadata.entry_points(group="pytest11")]
    plugin = () if "qworker" in known else ("-p", "qworker.testing.plugin")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("QWORKER_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-q", "-W", "error", "-p", "no:cacheprovider", *args],
        cwd=directory, env=environ, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
