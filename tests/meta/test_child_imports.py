"""What a child imports stays small: each of them pays for it in memory and in the time that a replacement takes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

HEAVY = ("redis", "asyncio", "typer", "rich", "click", "hashlib", "ssl", "uvloop")
VALUES = ("qworker.values", "qworker.faults", "qworker.codec", "qworker.context", "qworker.ids", "qworker.durations")
CHILD = "qworker.pool.child"


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, json; import {', '.join(modules)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("modules", [VALUES, (*VALUES, CHILD)], ids=["values", "child"])
def test_a_child_loads_nothing_that_only_workers_and_clients_need(modules):
    if CHILD in modules and find_spec(CHILD) is None:
        pytest.skip(f"{CHILD} does not exist")

    loaded = loaded_by(*modules)

    assert set(modules) <= loaded
    assert [name for name in HEAVY if name in loaded] == []
    assert not any(name.startswith(("qworker.broker", "qworker.worker", "qworker.cli")) for name in loaded)


def test_importing_qworker_itself_loads_no_redis():
    loaded = loaded_by("qworker")

    assert "redis" not in loaded
    assert "asyncio" not in loaded
