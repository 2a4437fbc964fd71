"""Durations as people write and read them.

`seconds` reads what options, flags and settings hold ("1h30m", 90, a timedelta); `text` writes what messages and the
command line show ("4.2 s", "3 min 5 s").
"""

from __future__ import annotations

import math
import re
from datetime import timedelta

from .errors import ConfigError

__all__ = ["check_wait", "milliseconds", "seconds", "text"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
# Up to which value which two units are shown.
_PAIRS = ((3600.0, "min", 60, "s", 1), (86400.0, "h", 3600, "min", 60), (math.inf, "d", 86400, "h", 3600))
_LONGEST = 100 * 365.25 * 86400
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|min|[smhdw])\s*")


def seconds(value: float | str | timedelta) -> float:
    """Return a duration in seconds: a number, a timedelta, or text such as "30", "30s", "10m", "1h30m", "250ms".

    Raises:
        ConfigError: it is none of those, negative, or longer than 100 years.
    """
    if isinstance(value, timedelta):
        found = value.total_seconds()
    elif isinstance(value, str):
        found = _parse(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
    else:
        raise ConfigError(f"{_quoted(value)} is not a duration: give seconds, a timedelta, or text such as '1h30m'")
    if not 0 <= found <= _LONGEST:
        raise ConfigError(f"{_quoted(value)} is not a duration: it must be between 0 and 100 years")
    return found


def milliseconds(value: float | str | timedelta) -> int:
    """Return a duration in whole milliseconds, rounded up, so that a positive one never becomes nothing."""
    return math.ceil(round(seconds(value) * 1000, 6))


def check_wait(timeout: object) -> None:
    """Refuse what cannot be the `timeout` of a wait, which is the standard library's: a number of seconds, or None.

    Raises:
        TypeError: it is something else, such as text, which durations of qworker's own may be.
    """
    if timeout is not None and not hasattr(timeout, "__float__"):
        raise TypeError(
            f"timeout={_quoted(timeout)}: expected a number of seconds, or None to wait for as long as it takes"
        )


def text(value: float) -> str:
    """Return a duration in seconds as people read it, with the two units that matter."""
    if not math.isfinite(value):
        return f"{value} s"  # whoever wrote that
    if value < 0:
        return "-" + text(-value)
    if 0 < value < 0.00095:
        return f"{value * 1e6:.0f} µs"
    if value < 0.0995:
        return f"{value * 1000:.0f} ms" if value >= 0.01 or value == 0 else f"{value * 1000:.1f} ms"
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 59.5:
        return f"{value:.0f} s"
    _, unit, size, smaller, smaller_size = next(pair for pair in _PAIRS if value < pair[0] - pair[4] / 2)
    rounded = round(value / smaller_size) * smaller_size
    big, rest = divmod(rounded, size)
    return f"{big} {unit} {rest // smaller_size} {smaller}" if rest else f"{big} {unit}"


def _parse(value: str) -> float:
    stripped = value.strip()
    try:
        return float(stripped)
    except ValueError:
        pass
    total, position = 0.0, 0
    while position < len(stripped):
        part = _PART.match(stripped, position)
        if part is None:
            break
        total += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if not stripped or position < len(stripped):
        raise ConfigError(f"{_quoted(value)} is not a duration: write it as 30, 30s, 10m, 1h30m or 250ms")
    return total


def _quoted(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
