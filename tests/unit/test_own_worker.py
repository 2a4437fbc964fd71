"""The end of a worker that belongs to this process, which Ctrl-C may cut short and begin again."""

from __future__ import annotations

import subprocess
import sys

from qworker.own_worker import _say_end


def test_the_end_may_be_said_again_after_the_wait_for_it_was_interrupted() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as one:
        _say_end(one)
        _say_end(one)

        assert one.wait(10) is not None
