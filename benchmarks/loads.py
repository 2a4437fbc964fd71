"""The producer of the account and of the growth figures: one process that does what it is told, one JSON line each.

    {"verb": "submit", "count": 1000, "size": 16, "how": "many" | "one", "options": {…}, "task": "noop"}
    {"verb": "collect"}        wait for the results of all that was submitted
    {"verb": "trips", "count": 100}        submit one, wait for it, and so on
    {"verb": "forget"}         let go of the futures

It holds the futures until it is told to forget them. The answer says how long it took; what it cost is read from
outside (parties.py).
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from typing import Any

from qworker import App, ResultExpired, current

app = App(namespace="bench")


@app.task
def noop(body: str) -> str:
    """Return what it was given."""
    return body


@app.task
def progressing(body: str) -> str:
    """Tell of one step, too."""
    current.progress(1, 2, "half")
    return body


@app.task
def checking(body: str) -> str:
    """Look whether it is to end, too."""
    current.check()
    return body


@app.task
def nap(body: str) -> str:
    """Be held for a while."""
    time.sleep(3)
    return body


TASKS = {task.name.rpartition(".")[2]: task for task in (noop, progressing, checking, nap)}
_futures: list[Any] = []


def submit(
    count: int, size: int = 16, how: str = "many", task: str = "noop", options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Submit so many tasks and hold their futures. Of the options, `given_id` and `grouped` are made here."""
    given = dict(options or {})
    with_ids, grouped = given.pop("given_id", False), given.pop("grouped", False)
    body, chosen = "x" * size, TASKS[task].options(**given) if given else TASKS[task]
    started = time.perf_counter()
    if with_ids:
        calls = [chosen.options(id=uuid.uuid4().hex).call(body) for _ in range(count)]
    else:
        calls = [chosen.call(body)] * count
    if grouped:
        with app.group() as group:
            _futures.extend(group.submit_many(calls))
    elif how == "many":
        _futures.extend(app.submit_many(calls))
    else:
        _futures.extend(chosen.submit(body) for _ in range(count))
    return {"seconds": time.perf_counter() - started}


def collect() -> dict[str, Any]:
    """Wait for all results."""
    started = time.perf_counter()
    for future in _futures:
        try:
            future.result(120)
        except ResultExpired:
            pass  # result_ttl=0: it succeeded, and its value was not to be kept
    _futures.clear()
    return {"seconds": time.perf_counter() - started}


def forget() -> dict[str, Any]:
    """Let go of the futures; the tasks stay where they are."""
    _futures.clear()
    return {}


def trips(count: int) -> dict[str, Any]:
    """Round trips, one at a time."""
    took = []
    for _ in range(count):
        started = time.perf_counter()
        noop.submit("x" * 16).result(60)
        took.append(time.perf_counter() - started)
    return {"seconds": sum(took), "each": took}


def serve() -> None:
    """Answer until stdin ends."""
    verbs: dict[str, Any] = {"submit": submit, "collect": collect, "trips": trips, "forget": forget, "facts": dict}
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(verbs[order.pop("verb")](**order)), flush=True)
    app.close()


if __name__ == "__main__":
    from benchmarks import loads  # under its own name: the tasks are those that a worker imports

    loads.serve()
