"""Tasks of a host that falls asleep: one of them freezes its worker, the fork server and its own child as it begins.

All have one name, which is learned as short: so others wait behind that one in its child, and nobody takes them back.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from qworker import App

from .basic import note

app = App()


def _above(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@app.task
def step(bed: str = "") -> int:
    """Return the child's pid. With `bed`, a file that nobody has made yet, its worker and all that it has lie down."""
    note("start")
    if bed and not Path(bed).exists():
        family = (_above(os.getppid()), os.getppid(), os.getpid())
        Path(bed).write_text(" ".join(map(str, family)) + ".")
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
    note("end")
    return os.getpid()


@app.task(pool="async")
async def async_step(bed: str = "") -> int:
    return step(bed)
