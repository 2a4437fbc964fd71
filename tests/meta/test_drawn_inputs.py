"""What hypothesis draws for the tests is new in each run, wherever they run."""

from __future__ import annotations

from hypothesis import settings


def test_no_two_runs_draw_the_same() -> None:
    assert not settings().derandomize
    assert settings().deadline is None
    assert settings().print_blob
