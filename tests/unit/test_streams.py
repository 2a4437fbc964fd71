"""A process that was started with closed streams has some that lead nowhere."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HOLD = """
import os, sys
from qworker import streams
streams.hold()
first = os.open("/dev/zero", os.O_RDONLY)
print("to stdout"); print("to stderr", file=sys.stderr); sys.stdout.flush()
with open(sys.argv[1], "w") as told:
    told.write(" ".join([str(first), *(os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2))]))
"""


@pytest.mark.parametrize(("closed", "first"), [("<&- >&- 2>&-", 3), (">&-", 3), ("2>&-", 3), ("<&-", 3)])
def test_what_is_closed_leads_nowhere_and_no_file_gets_its_number(tmp_path, closed, first) -> None:
    told = tmp_path / "told"
    command = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", HOLD, str(told)]

    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True, timeout=30)

    assert done.returncode == 0, done.stderr
    number, *leads_to = told.read_text().split(" ")
    assert int(number) == first
    for fd, sign in enumerate(("<&-", " >&-", "2>&-")):
        assert (leads_to[fd] == os.devnull) == (sign.strip() in closed.split())
