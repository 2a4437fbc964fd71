"""The standard library's own tests for executors, on `qworker.Executor`: a script for an interpreter that has them.

    python3.13 tests/support/stdlib_executor.py          in a venv with what qworker needs

Its mixins (`test.test_concurrent_futures`: executor, as_completed, wait, shutdown) are taken as they are; each test
that is left out stands in EXCLUDED with the reason. Started by `make test-stdlib` (tests/e2e/test_stdlib_executor.py).
"""

from __future__ import annotations

import sys
import threading
import unittest
from pathlib import Path
from typing import Any

# The directory of this file would shadow nothing, but it is not where modules of the worker are.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]

from test.test_concurrent_futures import executor, test_as_completed, test_shutdown, test_wait, util  # noqa: E402

import qworker  # noqa: E402
from qworker import callbacks  # noqa: E402

EXCLUDED = {
    "test_no_stale_references": "submits a method of an object: only names of functions travel",
    "test_free_reference": "its function returns objects of a class of its own, which msgpack cannot carry",
    "test_max_workers_negative": "the parameter is called `workers`, and its ValueError says so",
    "test_interpreter_shutdown": "its script names a class of concurrent.futures; test_executor.py has its like",
    "test_submit_after_interpreter_shutdown": "as test_interpreter_shutdown",
    "test_hang_gh83386": "as test_interpreter_shutdown",
}


class Executor(qworker.Executor):
    """Ours, under the parameter that the tests give."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(workers=max_workers)


class OnQWorker(util.ExecutorMixin):
    executor_type = Executor


def suite_of(*mixins: type) -> unittest.TestSuite:
    """The tests of the mixins that are not excluded."""
    found = unittest.TestSuite()
    for mixin in mixins:
        case = type(f"QWorker{mixin.__name__}", (OnQWorker, mixin, util.BaseTestCase), {})
        names = unittest.defaultTestLoader.getTestCaseNames(case)
        found.addTests(case(name) for name in names if name not in EXCLUDED)
    return found


def main() -> int:
    # The standard library counts threads around each test; this one is the process's and stays.
    callbacks.run(type("Nothing", (), {"run_callbacks": lambda self: None})())
    mixins: tuple[Any, ...] = (
        executor.ExecutorTest, test_as_completed.AsCompletedTests, test_wait.WaitTests,
        test_shutdown.ExecutorShutdownTest,
    )  # fmt: skip
    known = {name for mixin in mixins for name in dir(mixin)}
    gone = sorted(set(EXCLUDED) - known)
    if gone:
        print(f"note: this Python has no {', '.join(gone)}")
    done = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(suite_of(*mixins))
    for name, reason in EXCLUDED.items():
        print(f"left out: {name}: {reason}")
    print(f"Python {sys.version.split()[0]}, threads left: {[thread.name for thread in threading.enumerate()]}")
    return 0 if done.wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
