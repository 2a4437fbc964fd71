"""`qworker doctor`: look at the server and at this host, and say what is well, what is doubtful, and what to do.

    server_facts, host ─► judge_server, judge_host ─► findings ─► a line each, or --json; exit 3 when one is bad

The judges are pure: facts in, findings out. What a server forbids to be asked (CONFIG and INFO on managed services)
is doubtful, never bad.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from .. import durations
from ..config import Settings, usable_cpus
from ..errors import BrokerError
from ..log import escape
from . import EXIT_UNHEALTHY
from .shared import Json, Namespace, Url, open_broker, print_json, print_table

if TYPE_CHECKING:
    from ..broker.broker import Broker
    from ..broker.values import ServerFacts

Level = Literal["ok", "warn", "bad"]

_LOOKS = 3  # at the latency; the best one counts
_SLOW_S, _VERY_SLOW_S = 0.005, 0.050
_SKEW_S = 1.0
_FEW_FILES = 4096
_LITTLE_MEMORY = 512 * 1024 * 1024
_INDENT = " " * 18
_CGROUP = Path("/sys/fs/cgroup")

# The first release of each line in which CVE-2025-49844 is mended: a Lua script could run code in the server.
_PATCHED: dict[str, dict[tuple[int, int], int]] = {
    "redis": {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2},
    "valkey": {(7, 2): 11, (8, 0): 6, (8, 1): 4},
}
_OLDEST: dict[str, tuple[int, int]] = {"redis": (6, 2), "valkey": (7, 2)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: how it is, what was found, and what to do."""

    level: Level
    what: str
    found: str
    do: str = ""


def doctor(url: Url = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """Examine the server and this host, and say what to do. Exits 3 when something is bad."""
    findings = [*_ask_server(url, namespace), *judge_host(HostFacts.here())]
    if as_json:
        print_json({"healthy": not _is_bad(findings), "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
    if _is_bad(findings):
        raise typer.Exit(EXIT_UNHEALTHY)


def _is_bad(findings: list[Finding]) -> bool:
    return any(finding.level == "bad" for finding in findings)


def _print(findings: list[Finding]) -> None:
    from rich.text import Text

    styles: dict[Level, str] = {"ok": "green", "warn": "yellow", "bad": "bold red"}
    for finding in findings:
        line = Text()
        line.append(f"{finding.level:<5}", style=styles[finding.level])
        line.append(f"{finding.what:<13}", style="bold")
        line.append(_wrapped(finding.found))
        if finding.do:
            line.append("\n" + _INDENT + _wrapped(finding.do), style="dim")
        print_table(line)


def _width() -> int:
    """As wide as the terminal; in a pipe nobody wraps."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if known else 250


def _wrapped(text: str) -> str:
    width = max(20, _width() - len(_INDENT))
    return f"\n{_INDENT}".join(textwrap.wrap(escape(text), width, break_on_hyphens=False))


# ── the server ───────────────────────────────────────────────────────────────────────────────────────────────────


def _ask_server(url: str | None, namespace: str | None) -> Iterator[Finding]:
    with open_broker(url, namespace) as broker:
        try:
            looks = [broker.server_facts() for _ in range(_LOOKS)]
        except BrokerError as error:
            yield Finding("bad", "server", str(error), "start it, or correct the URL")
            return
        local_ms = time.time() * 1000
        refusal = _refusal(broker)
    is_embedded = Settings.load({"url": url}).url is None
    best = min(looks, key=lambda facts: facts.latency_s)
    skew_s = (looks[-1].now_ms - local_ms) / 1000
    yield from judge_server(best, skew_s=skew_s, is_embedded=is_embedded, refusal=refusal)


def _refusal(broker: Broker) -> str:
    """Why the server cannot write to its disk; empty when it can, or does not say. PING is refused as a write is."""
    from redis.exceptions import RedisError

    from ..broker.connection import code_of

    try:
        broker.client.ping()
    except RedisError as error:
        return str(error).removeprefix("MISCONF ") if code_of(error) == "MISCONF" else ""
    return ""


def judge_server(
    facts: ServerFacts, *, skew_s: float, is_embedded: bool = False, refusal: str = ""
) -> Iterator[Finding]:
    """Say what is to be said of a server.

    `skew_s` is how far its clock is ahead of ours; `refusal` is what it says when its disk cannot be written. The
    settings of an embedded one are ours, so nobody is told to change them.
    """
    yield _version(facts)
    if refusal:
        yield Finding(
            "bad", "disk", f"the server cannot write: {refusal}", "free space on its disk; it goes on by itself"
        )
    if facts.role in ("slave", "replica"):
        yield Finding("bad", "role", "a read-only replica", "give the URL of its primary")
    yield _eviction(facts)
    yield _persistence(facts)
    yield _memory(facts, is_embedded=is_embedded)
    yield _clock(skew_s)
    yield _latency(facts.latency_s)
    if facts.cluster:
        yield Finding(
            "warn",
            "cluster",
            "cluster mode is on",
            "its URL is redis+cluster://host:port,…; there are no task groups on it",
        )
    if facts.withheld:
        yield Finding("warn", "withheld", f"the server refused {', '.join(facts.withheld)}", "ask its operator instead")


def _version(facts: ServerFacts) -> Finding:
    shown = f"{facts.software.capitalize()} {facts.version or 'of unknown version'}"
    numbers = tuple(int(part) for part in facts.version.split(".")[:3] if part.isdigit())
    if len(numbers) < 3:
        return Finding("warn", "version", shown, "6.2 or newer is needed, or Valkey")
    line, patch = (numbers[0], numbers[1]), numbers[2]
    if line < _OLDEST.get(facts.software, (0, 0)):
        return Finding("bad", "version", f"{shown} is too old", "use Redis 6.2 or newer, or Valkey")
    patched = _PATCHED.get(facts.software, {})
    newest = max(patched, default=(0, 0))
    if line <= newest and patch < patched.get(line, 1 << 30):
        return Finding(
            "warn",
            "version",
            f"{shown} may let a Lua script run code in it (CVE-2025-49844), unless its distributor mended it",
            "use the newest patch release, and let nobody but your own processes connect",
        )
    return Finding("ok", "version", shown)


def _eviction(facts: ServerFacts) -> Finding:
    policy = facts.eviction_policy
    if policy is None:
        return Finding("warn", "eviction", "could not be asked", "make sure that maxmemory-policy is noeviction")
    if policy.startswith("allkeys-"):
        return Finding(
            "bad", "eviction", f"{policy}: a full server deletes queued tasks", "CONFIG SET maxmemory-policy noeviction"
        )
    if policy.startswith("volatile-"):
        return Finding(
            "warn",
            "eviction",
            f"{policy}: a full server deletes results before their time",
            "CONFIG SET maxmemory-policy noeviction",
        )
    return Finding("ok", "eviction", policy)


def _persistence(facts: ServerFacts) -> Finding:
    if facts.append_only is None:
        return Finding("warn", "persistence", "could not be asked", "make sure that its append-only file is on")
    if facts.append_only:
        return Finding("ok", "persistence", "append-only file")
    if facts.snapshots:
        return Finding(
            "warn",
            "persistence",
            f"snapshots only (save {facts.snapshots}): a restart loses what came since the last one",
            "CONFIG SET appendonly yes",
        )
    return Finding("warn", "persistence", "none: a restart of the server loses all tasks", "CONFIG SET appendonly yes")


def _memory(facts: ServerFacts, *, is_embedded: bool) -> Finding:
    if facts.used_memory is None:
        return Finding("warn", "memory", "could not be asked")
    used = _bytes(facts.used_memory)
    if not facts.max_memory and is_embedded:
        return Finding("ok", "memory", f"{used} used")
    if not facts.max_memory:
        return Finding(
            "warn",
            "memory",
            f"{used} used, and no maxmemory is set: a full queue may have the system kill the server",
            "set maxmemory; a full server then refuses submits, and work goes on",
        )
    share = facts.used_memory / facts.max_memory
    shown = f"{used} used of {_bytes(facts.max_memory)} ({share:.0%})"
    if share >= 0.95:
        return Finding("bad", "memory", f"{shown}: submits are about to be refused", "drain queues, or raise maxmemory")
    if share >= 0.8:
        return Finding("warn", "memory", shown, "drain queues, or raise maxmemory")
    return Finding("ok", "memory", shown)


def _clock(skew_s: float) -> Finding:
    # Leases go by the server's clock alone, so skew harms nothing but the times that are shown.
    if abs(skew_s) < _SKEW_S:
        return Finding("ok", "clock", f"within {durations.text(max(abs(skew_s), 0.001))} of this host's")
    side = "ahead of" if skew_s > 0 else "behind"
    return Finding(
        "warn",
        "clock",
        f"the server's is {durations.text(abs(skew_s))} {side} this host's",
        "synchronise both by NTP: leases are safe, but delays until a time of day are off by that much",
    )


def _latency(latency_s: float) -> Finding:
    shown = f"{durations.text(latency_s)} a round trip"
    if latency_s >= _VERY_SLOW_S:
        return Finding("warn", "latency", shown, "move the workers closer to the server; larger windows help, too")
    if latency_s >= _SLOW_S:
        return Finding("warn", "latency", shown, "fine for long tasks; short ones want the server closer")
    return Finding("ok", "latency", shown)


# ── this host ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What decides how well a worker can do its work here."""

    system: str
    release: str
    python: tuple[int, int, int]
    free_threaded: bool
    cpus: int
    files: int  # the soft limit of open files
    processes: int | None  # the soft limit of processes; None: none
    memory: int | None  # the cgroup's limit; None: none
    group_oom: bool  # the kernel kills the whole cgroup when it is out of memory
    pidfd: bool
    subreaper: bool
    uvloop: bool

    @classmethod
    def here(cls) -> HostFacts:
        """Look at this host."""
        from importlib.util import find_spec

        processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        memory = _read(_CGROUP / "memory.max")
        return cls(
            system=platform.system(),
            release=platform.release(),
            python=sys.version_info[:3],
            free_threaded=not getattr(sys, "_is_gil_enabled", lambda: True)(),
            cpus=usable_cpus(),
            files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            processes=None if processes == resource.RLIM_INFINITY else processes,
            memory=int(memory) if memory.isdigit() else None,
            group_oom=_read(_CGROUP / "memory.oom.group") == "1",
            pidfd=_has_pidfd(),
            subreaper=_has_subreaper(),
            uvloop=find_spec("uvloop") is not None,
        )


def judge_host(facts: HostFacts) -> Iterator[Finding]:
    """Say what is to be said of this host."""
    yield _python(facts)
    linux = facts.system == "Linux"
    yield Finding(
        "ok" if linux else "warn",
        "system",
        f"{facts.system} {facts.release}, {facts.cpus} CPU(s) to use" + (", uvloop" if facts.uvloop else ""),
        "" if linux else "for development only: children are spawned, and grandchildren may outlive a kill",
    )
    if linux:
        yield _kernel(facts)
    yield _files(facts)
    yield from _limits(facts)


def _python(facts: HostFacts) -> Finding:
    shown = f"Python {'.'.join(map(str, facts.python))}"
    if facts.free_threaded:
        return Finding("warn", "python", f"{shown}, without a GIL", "not supported yet: use the usual build")
    return Finding("ok", "python", shown)


def _kernel(facts: HostFacts) -> Finding:
    missing = [name for name, there in (("pidfd", facts.pidfd), ("subreaper", facts.subreaper)) if not there]
    if missing:
        return Finding(
            "bad",
            "kernel",
            f"no {' and no '.join(missing)}: children cannot be watched and reaped as qworker does it",
            "use Linux 5.3 or newer, and a seccomp profile that lets pidfd_open and prctl through",
        )
    return Finding("ok", "kernel", "pidfd and subreaper work")


def _files(facts: HostFacts) -> Finding:
    shown = f"{facts.files:,} open files allowed"
    if facts.files < _FEW_FILES:
        return Finding("warn", "open files", shown, f"each child takes a few: ulimit -n {_FEW_FILES} for many slots")
    return Finding("ok", "open files", shown)


def _limits(facts: HostFacts) -> Iterator[Finding]:
    if facts.processes is not None and facts.processes < 256:
        yield Finding("warn", "processes", f"{facts.processes} allowed", "raise ulimit -u for many slots")
    if facts.memory is None:
        yield Finding("ok", "memory here", "no limit for this container")
    elif facts.memory < _LITTLE_MEMORY:
        yield Finding("warn", "memory here", f"{_bytes(facts.memory)} allowed", "each child is a process of its own")
    else:
        yield Finding("ok", "memory here", f"{_bytes(facts.memory)} allowed")
    if facts.group_oom:
        yield Finding(
            "warn",
            "memory here",
            "out of memory, the kernel kills the whole container, not the child that took it",
            "clear memory.oom.group (Kubernetes: singleProcessOOMKill), or a poison task takes its worker along",
        )


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _has_subreaper() -> bool:
    import ctypes

    get_child_subreaper = 37  # PR_GET_CHILD_SUBREAPER, prctl(2)
    answer = ctypes.c_int()
    try:
        return bool(ctypes.CDLL(None).prctl(get_child_subreaper, ctypes.byref(answer), 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
