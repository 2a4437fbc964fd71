"""A producer in a process of its own, so that a fault may come in the middle of a submit; see points.py.

python -m support.history.sender SEED TASKS ANSWERS      ANSWERS: a file that gets a JSON line for each answer
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from qworker import faultpoints

from . import executions, workload
from .client import Batch, Recorder
from .records import Submitted

KINDS = ("short", "thread", "coroutine", "flaky")
MOST_PER_BATCH = 16


def batches(seed: int, tasks: int) -> list[Batch]:
    """What it submits: given ids, so that whoever comes after it can submit the same again."""
    found = []
    for batch in workload.plan(seed, tasks):
        if batch.kind in KINDS:
            for first in range(0, batch.count, MOST_PER_BATCH):
                count = min(MOST_PER_BATCH, batch.count - first)
                ids = tuple(f"sent-{len(found)}-{n}" for n in range(count))
                found.append(dataclasses.replace(batch, count=count, ids=ids))
    return found


def main() -> None:
    """Submit all batches, and write down which were accepted."""
    from support.apps import history_tasks

    seed, tasks, answers = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    client = Recorder(history_tasks.app, history_tasks)
    fd = os.open(answers, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def tell(submits: Iterable[Submitted]) -> None:
        os.write(fd, "".join(json.dumps(dataclasses.asdict(submit)) + "\n" for submit in submits).encode())

    for batch in batches(seed, tasks):
        before = len(client.submitted)
        # What it asks for is written down first: nobody knows what becomes of it if it gets no further.
        asked = executions.now()
        tell(
            Submitted(f"default:{id_}", asked, asked, "unknown", pool=batch.pool, kind=batch.kind) for id_ in batch.ids
        )
        try:
            client.submit(batch)
        except faultpoints.FaultPoint:
            continue  # a program's own error in the middle of it, and it goes on
        tell(client.submitted[before:])
    os._exit(0)  # it leaves at once: its tasks are others' to wait for


if __name__ == "__main__":
    main()
