"""The task that benchmarks/drain.py drains: nothing, so that what is measured is everything around it."""

from __future__ import annotations

from qworker import App

app = App(namespace="bench")


@app.task
def noop() -> None:
    """Do nothing."""


def nothing(_number: int) -> None:
    """The same for the ProcessPoolExecutor, which wants an argument to map over."""
