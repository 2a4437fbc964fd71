"""The settings of a worker and of the command line: one frozen object in which each lives once.

    flags > QWORKER_… variables > [tool.qworker] of the nearest pyproject.toml > defaults ──► Settings.load()

A field's metadata says how it is parsed, explained and flagged; its variable and its key in the file follow from its
name. Every value is parsed by the same function wherever it came from, and an error names it as the user wrote it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from . import durations
from .errors import ConfigError
from .ids import check_namespace, check_queue
from .model import PoolKind

__all__ = ["Settings", "Slots", "children_for", "default_slots", "most_lent", "usable_cpus", "working_directory"]

_MOST_SLOTS = 10_000
EVERYTHING = "*"  # of --allow
_MOST_IN_CHILD = 4_096  # the tokens of what a child may be given fit its pipe, and more loops are better than that
_WORTH_A_LOOP = 50  # with fewer coroutines to each, a second loop costs more memory than it brings
_MOST_WINDOW = 100_000
_CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, and its container's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cpus = os.cpu_count() or 1
    try:
        quota, period = _CGROUP_CPU.read_text("ascii").split()
        cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2, or "max": no quota
    return max(1, cpus)


def default_slots(kind: PoolKind) -> int:
    """Return how many slots a pool has when nobody says."""
    return {"process": usable_cpus(), "thread": 16, "async": 100}[kind]


class Slots(int):
    """A number of slots. `children` says how many processes share them; None: as many as suit the pool."""

    children: int | None

    def __new__(cls, total: int, children: int | None = None) -> Slots:
        """Return `total` slots in that many children."""
        slots = super().__new__(cls, total)
        slots.children = children
        return slots


def children_for(kind: PoolKind, slots: int) -> int:
    """Return how many children a pool of `slots` slots has."""
    if kind == "process":
        return slots
    given = slots.children if isinstance(slots, Slots) else None
    if given is not None:
        return given
    least = -(-slots // _MOST_IN_CHILD)
    return least if kind == "thread" else max(least, min(usable_cpus(), -(-slots // _WORTH_A_LOOP)))


def most_lent(kind: PoolKind, given: int | None) -> int:
    """Return how many tasks a pool runs at most in places that waiting tasks lend; `given` is `--max-lent`."""
    return {"process": 64, "thread": 512, "async": 4096}[kind] if given is None else given


# ── parsers: from what a flag, a variable or TOML holds, or ValueError ───────────────────────────────────────────


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError("expected text without control characters")
    return value.strip()


def _whole(least: int, most: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if type(number) is not int or not least <= number <= most:
            raise ValueError(f"expected a whole number from {least} to {most}")
        return number

    return parse


def _duration(least: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        found = durations.seconds(cast("Any", value))
        if found < least:
            raise ValueError(f"expected at least {durations.text(least)}")
        return found

    return parse


def _yes_no(value: object) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, (str, int)) and str(value).strip().lower() in words:
        return words[str(value).strip().lower()]
    raise ValueError("expected 1 or 0, true or false, yes or no")


def _one_of(*words: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value.strip().lower() not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return value.strip().lower()

    return parse


def _queues(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError("expected names of queues, separated by commas")
    return tuple(dict.fromkeys(check_queue(name.strip() if isinstance(name, str) else name) for name in names))


def _modules(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise ValueError("expected names of modules, separated by commas")
    found = tuple(dict.fromkeys(name.strip() if isinstance(name, str) else "" for name in names))
    for name in found:
        if name != EVERYTHING and not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"expected names of modules, separated by commas, or *; {name!a} is none")
    return found


def _window(value: object) -> Literal["auto"] | int:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return _whole(1, _MOST_WINDOW)(value)
    except ValueError:
        raise ValueError(f"expected auto, or a whole number from 1 to {_MOST_WINDOW}") from None


def _slots(value: object) -> int | Mapping[PoolKind, int]:
    """Parse `8`, `process=2,thread=20`, or a TOML table; which pool a bare number means is known later."""
    if isinstance(value, Mapping):
        pairs = [(str(kind), count) for kind, count in value.items()]
    elif isinstance(value, str) and "=" in value:
        pairs = [(kind.strip(), count) for kind, _, count in (part.partition("=") for part in value.split(","))]
    else:
        return _count(value)
    found: dict[PoolKind, int] = {}
    for kind, count in pairs:
        if kind not in get_args(PoolKind) or kind in found:
            raise ValueError(f"expected each of process, thread, async at most once, not {kind!a}")
        found[cast("PoolKind", kind)] = _count(count)
    if not found:
        raise ValueError("expected a number of slots, or process=2,thread=20")
    return MappingProxyType(found)


def _count(value: object) -> int:
    """Parse how many slots a pool has: `200`, or `4x50` for 50 in each of four children."""
    children, times, each = value.partition("x") if isinstance(value, str) else ("", "", "")
    if not times:
        return _whole(1, _MOST_SLOTS)(value)
    count = Slots(_whole(1, _MOST_SLOTS)(children) * _whole(1, _MOST_IN_CHILD)(each), int(children))
    _whole(1, _MOST_SLOTS)(int(count))
    return count


_POOL = _one_of(*get_args(PoolKind))
_LOG_FORMAT = _one_of("console", "json")
_LOG_LEVEL = _one_of("debug", "info", "warning", "error")


def _setting(
    default: Any, parse: Callable[[object], Any], flag: str, explained: str, metavar: str | None = None
) -> Any:
    return field(default=default, metadata={"parse": parse, "flag": flag, "help": explained, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What can be set, once. Field `drain_timeout_s` is `--drain-timeout`, QWORKER_DRAIN_TIMEOUT, `drain-timeout`."""

    url: str | None = _setting(
        None,
        _text,
        "--url",
        "The server: redis://, rediss:// or unix://; else QWORKER_URL, else the app's own, else the embedded server.",
    )
    namespace: str | None = _setting(
        None, lambda value: check_namespace(_text(value)), "--namespace", "Keeps projects on one server apart."
    )
    queues: tuple[str, ...] = _setting(("default",), _queues, "-q", "Queues to serve, in strict order.", "HIGH,LOW")
    pool: PoolKind = _setting(  # noqa: RUF009 - it returns a field()
        "process", _POOL, "--pool", "Where tasks run that name no pool themselves."
    )
    concurrency: Mapping[PoolKind, int] = _setting(
        None, _slots, "-c", "Slots: 8 (of --pool), or process=2,async=200; async=4x50: 4 children, 50 each.", "SLOTS"
    )
    allow: tuple[str, ...] = _setting(
        (), _modules, "--allow", "Modules whose functions may run without being registered.", "MODULE,MODULE"
    )
    window: Literal["auto"] | int = _setting("auto", _window, "--window", "Tasks to hold at once: auto, or a number.")
    drain_timeout_s: float = _setting(
        20.0, _duration(0), "--drain-timeout", "After TERM: how long what runs may go on before it is asked to stop."
    )
    burst: bool = _setting(False, _yes_no, "--burst", "End when nothing is left to do.")
    lease_s: float = _setting(
        12.0, _duration(1), "--lease", "How long a claim holds without a renewal; a dead worker's tasks run again then."
    )
    max_tasks_per_child: int | None = _setting(
        None, _whole(1, 10**9), "--max-tasks-per-child", "Replace a child after so many tasks."
    )
    max_survivors: int = _setting(
        4, _whole(1, _MOST_SLOTS), "--max-survivors", "Replace a child in which so many tasks ignore their end."
    )
    max_lent: int | None = _setting(
        None,
        _whole(0, _MOST_SLOTS),
        "--max-lent",
        "Tasks to run, per pool, in the slots of tasks that wait for them: else process 64, thread 512, async 4096.",
    )
    recycle_timeout_s: float = _setting(
        30.0, _duration(0), "--recycle-timeout", "How long healthy tasks of a replaced child may go on."
    )
    log_format: Literal["console", "json"] = _setting(
        "console", _LOG_FORMAT, "--log-format", "Lines for people, or JSON lines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", _LOG_LEVEL, "--log-level", "The least level that is logged."
    )
    name: str | None = _setting(None, _text, "--name", "The first part of this worker's id; else the host's name.")
    embedded: bool = _setting(
        True, _yes_no, "--embedded/--no-embedded", "Without a url: start or share this project's embedded server."
    )
    allow_eviction: bool = _setting(
        False, _yes_no, "--allow-eviction", "Start although the server may evict queued tasks."
    )

    def __post_init__(self) -> None:
        given = self.concurrency or default_slots(self.pool)
        slots = MappingProxyType({self.pool: given}) if isinstance(given, int) else given
        if self.pool not in slots:
            kinds = ",".join(f"{kind}={count}" for kind, count in slots.items())
            raise ConfigError(
                f"--pool {self.pool}: the slots {kinds} leave that pool none, and tasks that name no pool run there; "
                f"add {self.pool}=N, or choose another --pool"
            )
        if isinstance(slots.get("process"), Slots):
            raise ConfigError("-c process=…x…: a process has one slot, so that it can be killed alone; give one number")
        object.__setattr__(self, "concurrency", slots)

    def for_tasks(self) -> dict[str, str]:
        """Return what tasks must find in their environment, so that what they submit comes to the worker's server."""
        found = {"QWORKER_URL": self.url, "QWORKER_NAMESPACE": self.namespace}
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def load(
        cls,
        flags: Mapping[str, object] = MappingProxyType({}),
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Settings:
        """Return the settings as flags, environment, project file and defaults say, in this order.

        `flags` has field names, with or without `_s`; a None is a flag that was not given.

        Raises:
            ConfigError: a value cannot be used; the message names it as the user wrote it.
        """
        environ = os.environ if environ is None else environ
        path, table = _project_table(working_directory() if cwd is None else cwd)
        known = {_short(setting): setting for setting in fields(cls)}
        _refuse_unknown(path, table, known)
        found: dict[str, Any] = {}
        for short, setting in known.items():
            flag = flags.get(setting.name, flags.get(short))
            variable, key = f"QWORKER_{short.upper()}", short.replace("_", "-")
            if flag is not None:
                found[setting.name] = _parse(setting, flag, f"{setting.metadata['flag']} {_shown(flag)}")
            elif environ.get(variable, "").strip():
                found[setting.name] = _parse(setting, environ[variable], f"{variable}={_shown(environ[variable])}")
            elif key in table:
                written = f"{path} [tool.qworker] {key} = {_shown(table[key], quoted=True)}"
                found[setting.name] = _parse(setting, table[key], written)
        return cls(**found)


def _short(setting: Field[Any]) -> str:
    return setting.name.removesuffix("_s")


def _parse(setting: Field[Any], value: object, written: str) -> object:
    try:
        return setting.metadata["parse"](value)
    except ValueError as error:  # ConfigError is one
        raise ConfigError(f"{written}: {error}") from None


def _shown(value: object, *, quoted: bool = False) -> str:
    try:
        text = value if isinstance(value, str) and not quoted else repr(value)
    except ValueError:
        return "a number of very many digits"
    return text if text.isprintable() and len(text) <= 200 else ascii(text)[:200]


def working_directory() -> Path | None:
    """Return the working directory; None: it was removed, so no project is around it."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _project_table(start: Path | None) -> tuple[Path | None, Mapping[str, object]]:
    """Return `[tool.qworker]` of the nearest pyproject.toml, and where that is."""
    for directory in () if start is None else (start, *start.parents):
        path = directory / "pyproject.toml"
        try:
            text = path.read_text("utf-8")
            import tomllib  # a worker far from any project does without it

            data = tomllib.loads(text)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"cannot read {path}: {_shown(str(error))}") from None
        tools = data.get("tool", {})
        table = tools.get("qworker", {}) if isinstance(tools, dict) else {}
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: [tool.qworker] is not a table")
        return path, {str(key).replace("_", "-"): value for key, value in table.items()}
    return None, {}


def _refuse_unknown(path: Path | None, table: Mapping[str, object], known: Mapping[str, object]) -> None:
    keys = {short.replace("_", "-") for short in known}
    for key in table:
        if key not in keys:
            import difflib

            close = difflib.get_close_matches(key, keys, 1)
            meant = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(keys))}"
            raise ConfigError(f"{path} [tool.qworker] {_shown(key)}: no such setting{meant}")
