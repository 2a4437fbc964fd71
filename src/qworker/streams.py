"""The standard streams of a process that was started without some: they lead nowhere, instead of somewhere by chance.

A socket that gets the number of a closed stream would take whatever prints to that number, and libuv (uvloop) ends a
process that closes such a number.
"""

from __future__ import annotations

import os
import sys


def hold() -> None:
    """Open what is closed of descriptors 0, 1 and 2. Called before anything else is opened."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(fd, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
