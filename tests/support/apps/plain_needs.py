"""An app whose tasks need no pool of their own."""

from __future__ import annotations

from qworker import App

app = App()


@app.task
def one() -> int:
    return 1


@app.task
async def two() -> int:
    return 2
