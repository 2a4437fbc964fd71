"""The programs in `examples/`, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def run(script: str, *arguments: str, cwd: Path) -> str:
    """Run an example from another directory, and return what it printed."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
    environ["PYTHONPATH"] = str(ROOT / "src")
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
