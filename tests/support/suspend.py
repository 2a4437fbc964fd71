"""What a process sees of its host's suspension afterwards: `qworker.clock` has gone on, monotonic clocks have not."""

from __future__ import annotations

import pytest

from qworker import clock


def suspend(monkeypatch: pytest.MonkeyPatch, seconds: int = 3600) -> None:
    """Have this process wake up from it now."""
    now, now_ns = clock.now, clock.now_ns
    monkeypatch.setattr(clock, "now", lambda: now() + seconds)
    monkeypatch.setattr(clock, "now_ns", lambda: now_ns() + seconds * 10**9)
