"""Tasks that split themselves and wait for their parts: by each of the ways in which one can wait."""

from __future__ import annotations

import concurrent.futures
import os
import time
from pathlib import Path

from qworker import App, Executor, PoolExhausted, TaskInterrupt, current

app = App()


def _note(word: str) -> None:
    with Path(os.environ["EXECUTION_LOG"]).open("a") as log:
        log.write(f"{word} {current.id} {os.getpid()}\n")


@app.task
def by_result(levels: int) -> int:
    """Counts its leaves."""
    if levels == 0:
        return 1
    parts = [by_result.submit(levels - 1) for _ in range(2)]
    return sum(part.result() for part in parts)


@app.task(delivery="at_most_once")
def by_once(levels: int) -> int:
    """As `by_result`; the start of each is recorded first."""
    if levels == 0:
        return 1
    parts = [by_once.submit(levels - 1) for _ in range(2)]
    return sum(part.result() for part in parts)


@app.task
def by_wait(levels: int) -> int:
    if levels == 0:
        return 1
    parts = [by_wait.submit(levels - 1) for _ in range(2)]
    done, _ = concurrent.futures.wait(parts)
    return sum(part.result() for part in done)


@app.task
def by_as_completed(levels: int) -> int:
    if levels == 0:
        return 1
    parts = [by_as_completed.submit(levels - 1) for _ in range(2)]
    return sum(part.result() for part in concurrent.futures.as_completed(parts))


@app.task
def chain(levels: int) -> int:
    """Waits for one that waits for one …; says how deep it got."""
    return 1 + chain.submit(levels - 1).result() if levels else 0


@app.task
def chain_or_less(levels: int) -> int:
    """As `chain`, but is content with what there is room for."""
    if not levels:
        return 0
    try:
        return 1 + chain_or_less.submit(levels - 1).result()
    except PoolExhausted:
        return 0


@app.task
def by_executor() -> int:
    """Counts on the end of the block that it waits."""
    with Executor(app) as executor:
        part = executor.submit(leaf, 1)
    return part.result(timeout=0)


@app.task(queue="elsewhere")
def far_away(value: int, seconds: float) -> int:
    time.sleep(seconds)
    return value


@app.task
def ask_far_away(value: int, seconds: float = 0.0) -> int:
    return far_away.submit(value, seconds).result()


@app.task(max_crashes=2)
def dies_once(marker: str) -> int:
    """Takes its child with it, the first time."""
    path = Path(marker)
    if not path.exists():
        path.write_text(str(os.getpid()))
        os.kill(os.getpid(), 9)
    return os.getpid()


@app.task
def wait_for_mortal(marker: str) -> int:
    return dies_once.submit(marker).result()


@app.task(timeout=120)
def nap(seconds: float) -> float:
    _note("nap")
    time.sleep(seconds)
    return seconds


@app.task(timeout=120, grace=2)
def wait_for_nap(seconds: float, how: str = "result") -> str:
    """Tells what ended its wait, if the wait did not last."""
    part = nap.submit(seconds)
    _note("waits")
    try:
        if how == "result":
            part.result()
        elif how == "wait":
            concurrent.futures.wait([part])
        else:
            next(concurrent.futures.as_completed([part]))
    except TaskInterrupt as error:
        _note(f"interrupted:{error.reason}")
        raise
    return "ended"


@app.task
def many_parts(count: int) -> int:
    return sum(part.result() for part in concurrent.futures.as_completed([leaf.submit(n) for n in range(count)]))


@app.task
def leaf(n: int) -> int:
    return n


@app.task
def by_group(levels: int) -> int:
    """Counts its leaves; its parts end with the block."""
    if levels == 0:
        return 1
    with app.group() as group:
        parts = [group.submit(by_group, levels - 1) for _ in range(2)]
    return sum(part.result() for part in parts)


@app.task
def group_chain(levels: int) -> int:
    if levels == 0:
        return 0
    with app.group() as group:
        part = group.submit(group_chain, levels - 1)
    return 1 + part.result()


@app.task(timeout=60)
def waits_for_itself() -> None:
    app.future(current.id).result()


@app.task(timeout=60)
def waits_for(other: str) -> str:
    return str(app.future(other).result())


@app.task(timeout=60)
def waits_for_what_waits_for_it(grouped: bool) -> str:
    """Says what came of that."""
    if grouped:
        try:
            with app.group() as group:
                group.submit(waits_for, current.id)
        except ExceptionGroup as errors:
            return type(errors.exceptions[0]).__name__
    return type(waits_for.submit(current.id).exception()).__name__


@app.task
def by_threads(levels: int) -> int:
    """Waits in threads of its own, which know of no task where slots are threads."""
    if levels == 0:
        return 1
    parts = [by_threads.submit(levels - 1) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        return sum(threads.map(lambda part: part.result(), parts))
