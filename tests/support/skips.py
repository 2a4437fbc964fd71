"""Why a test may be skipped in CI: the whole list. Every other skip is a failure there; pytest's last lines show each.

At home a test is skipped for whatever is missing.
"""

from __future__ import annotations

import os
import re

import pytest

# What the test says nothing about, so that nothing is missed.
_APART = (
    r"fakeredis has no (limit|users)",
    r"it has no limit of its memory",
    r"this Redis can tell",  # Redis before 7.2 cannot, and has a test for that
    r"the (redis|valkey)-server here was built without TLS",  # the other one was
)
# What CI does not install, or what only root of a whole machine has.
_MISSING = (
    r"(adaptive|scipy) is not installed: pip install 'qworker-redis\[interop\]'",
    r"systemd-analyze is not installed",
    r"no openssl here",
    r"no C compiler",
    r"none of .* has test\.test_concurrent_futures as CPython 3\.12 and later have it",
    r".* needs root",
    r"no tmpfs can be mounted here",
    r"no network namespace can be made here",
    r"no control groups? .*here",
)


def may_skip(reason: str) -> bool:
    """Say whether a test may be skipped in CI for this."""
    return any(re.match(known, reason) for known in (*_APART, *_MISSING))


def hold_to(report: pytest.TestReport) -> None:
    """In CI, make a failure of a skip that nobody has named."""
    if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if not may_skip(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped: {reason} (CI=true: only what tests/support/skips.py names may be skipped)"
