"""What a worker says while its server does not answer."""

from __future__ import annotations

from qworker.worker.outage import Outage


class Health:
    def succeeded(self) -> None:
        pass


def notes(*answers: bool) -> list[object]:
    """What is said when calls end so, one after the other."""
    said: list[object] = []

    def emit(name: str, /, *, level: str = "info", **fields: object) -> None:
        said.append(fields["note"] if name == "redis.unreachable" else name)

    outage = Outage(emit, Health(), None)  # type: ignore[arg-type]
    for ok in answers:
        outage.call(ok, "refused")
    return said


def test_before_the_first_answer_nothing_runs_and_the_note_says_what_is_waited_for() -> None:
    assert notes(False, False, True) == ["waiting for the server; the worker starts when it answers", "redis.back"]


def test_after_an_answer_the_note_says_that_running_tasks_go_on() -> None:
    assert notes(True, False) == ["trying again with the same calls; running tasks go on"]
