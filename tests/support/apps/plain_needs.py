"""An app whose tasks need no pool beside that of processes: the coroutine function names it."""

from __future__ import annotations

from qworker import App

app = App()


@app.task
def one() -> int:
    return 1


@app.task(pool="process")
async def two() -> int:
    return 2
