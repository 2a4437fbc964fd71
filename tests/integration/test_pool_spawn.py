"""A fork server that was started before its worker is ready, and may lose it at any moment."""

from __future__ import annotations

import select
from pathlib import Path

from qworker.pool.spawn import spawn


def test_a_worker_that_ends_without_reading_what_it_was_told_leaves_no_server(tmp_path: Path) -> None:
    """The kernel then says "connection reset" instead of "end"; what is left below the server is ended all the same."""
    (tmp_path / "empty.py").write_text("from qworker import App\napp = App('redis://nowhere')\n")
    spawned = spawn({}, ["empty:app"], str(tmp_path), [])
    assert select.select([spawned.control], [], [], 30)[0]  # it told what it imported, and nobody reads it

    spawned.control.close()

    assert spawned.process.wait(10) == 0
