"""qworker itself, by the same rules as every other contestant: its defaults, but for the log level."""

from __future__ import annotations

import sys
from typing import Any

import base
import work

from qworker import App, call, current

app = App(base.URL, namespace="bench")
ttl = {} if base.RESULTS else {"result_ttl": 0}
WRAPPED = {
    function.__name__: app.task(**ttl)(
        work.ASYNC_TASKS.get(function.__name__, function) if base.MODE == "async" else function
    )
    for function in work.TASKS
}


@app.task
def listening(body: str) -> str:
    """Look whether it was asked to end, as docs/stopping.md says for code that loops."""
    return work.listen(body, lambda: bool(current.asked))


if base.MODE != "async":
    WRAPPED["linger"] = listening


class QWorker(base.Peer):
    name = "qworker"
    distributions = ("qworker-redis", "redis", "hiredis", "msgpack", "uvloop")
    modes = ("process", "thread", "async")
    settings = (
        "defaults; uvloop installed; --log-level warning, as every contestant's log is quiet. stop: "
        "Future.stop(wait=0), and functions look at current.asked (docs/stopping.md). lease: --lease"
    )
    pace = 35_000
    lease = True

    def close(self) -> None:
        app.close()

    def submit(self, task: str, body: str) -> Any:
        return WRAPPED[task].submit(body)

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        return WRAPPED[task].submit_many([call(body) for body in bodies])

    async def asubmit(self, task: str, body: str) -> Any:
        return await WRAPPED[task].asubmit(body)

    def result(self, handle: Any) -> str:
        return handle.result(60)

    def cancel(self, handle: Any) -> None:
        handle.stop(wait=0)

    def command(self) -> list[str]:
        slots = f"{base.MODE}={base.SLOTS}"
        lease = ["--lease", f"{base.LEASE_S:g}"] if base.LEASE_S else []
        return [
            sys.executable, "-m", "qworker", "start", "peer_qworker:app", "-c", slots,
            "--pool", base.MODE, "--log-level", "warning", *lease,
        ]  # fmt: skip


if __name__ == "__main__":
    base.run(QWorker())
