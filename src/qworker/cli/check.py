"""`qworker check`: are this host's workers live, are they ready? For health checks of containers and supervisors.

Reads the files that the workers write (health.py), and asks no server: a server that is down must not have every
worker restarted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from .. import durations, health
from ..errors import ConfigError
from ..health import LIVE_WITHIN_S, READY_WITHIN_S, Health
from . import EXIT_UNHEALTHY
from .shared import Json, print_json, print_rows


def check(
    live: Annotated[bool, typer.Option("--live", help="Its loop turned within 10 s.")] = False,
    ready: Annotated[
        bool, typer.Option("--ready", help="And a claim, renewal or settle succeeded within 30 s.")
    ] = False,
    pid: Annotated[
        int | None, typer.Option("--pid", metavar="PID", help="Only this worker; else all of this user and host.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether this host's workers are live or ready, without asking the server. Exits 3 when one is not.

    A worker that was killed and is gone does not count while another one runs.
    """
    if live == ready:
        raise ConfigError("give either --live or --ready")
    found = [one for one in health.read_all() if pid is None or one.pid == pid]
    workers = [one for one in found if one.exists]
    healthy = bool(workers) and all(one.ready if ready else one.live for one in workers)
    if as_json:
        print_json({"healthy": healthy, "asked": "ready" if ready else "live", "workers": list(map(_facts, workers))})
    elif workers:
        print_rows((one.worker, _words(one, ready=ready)) for one in workers)
    else:
        print(_nobody(found, pid))
    if not healthy:
        raise typer.Exit(EXIT_UNHEALTHY)


def _facts(one: Health) -> dict[str, Any]:
    return {
        "worker": one.worker,
        "pid": one.pid,
        "live": one.live,
        "ready": one.ready,
        "turned_s_ago": round(one.turned_s_ago, 3),
        "succeeded_s_ago": None if one.succeeded_s_ago is None else round(one.succeeded_s_ago, 3),
    }


def _words(one: Health, *, ready: bool) -> str:
    if not one.live:
        return f"not live: its loop last turned {durations.text(one.turned_s_ago)} ago ({LIVE_WITHIN_S:g} s allowed)"
    if not ready:
        return f"live: its loop turned {durations.text(one.turned_s_ago)} ago"
    if one.succeeded_s_ago is None:
        return "not ready: it had no answer from the server yet"
    ago = durations.text(one.succeeded_s_ago)
    return (
        f"ready: the server answered {ago} ago"
        if one.ready
        else (f"not ready: the server last answered {ago} ago ({READY_WITHIN_S:g} s allowed)")
    )


def _nobody(gone: Sequence[Health], pid: int | None) -> str:
    which = "no worker of this user runs on this host" if pid is None else f"no worker with pid {pid} runs on this host"
    return f"{which}; {gone[-1].worker} is gone" if gone else which
