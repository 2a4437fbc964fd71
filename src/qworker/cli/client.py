"""Verbs on single tasks: submit, result, show, cancel, stop.

Thin: they turn words into a call of `App`, `Future` or `Broker`, and what comes of it into lines or JSON.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future as Answer
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .. import durations, ids
from ..errors import BrokerError, ConfigError
from . import EXIT_ERROR
from .shared import (
    TIMES,
    Json,
    Namespace,
    Url,
    escape_lines,
    moment,
    open_app,
    open_broker,
    print_json,
    print_rows,
    said,
)

if TYPE_CHECKING:
    from ..future import Future
    from ..views import StopReceipt

T = TypeVar("T")
R = TypeVar("R")
_AT_ONCE = 16  # stops that are awaited side by side
_SHOWN = 60  # characters of an argument, in an error

Duration = str  # as durations.seconds reads it
TaskId = Annotated[str, typer.Argument(metavar="ID", help="The id of a task: queue:local.", show_default=False)]
TaskIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of tasks: queue:local.", show_default=False)]


def _option(text: str, metavar: str | None = None, *flags: str) -> Any:
    return typer.Option(*flags, help=text, metavar=metavar, show_default=False)


def submit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The task's name: module.function.", show_default=False)],
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARG]...", help="Its arguments, as JSON; what is no JSON is text.", show_default=False),
    ] = None,
    kwargs: Annotated[str, _option("Its named arguments, as one JSON object.", "JSON")] = "{}",
    queue: Annotated[str | None, _option("Its queue.", "NAME", "--queue", "-q")] = None,
    timeout: Annotated[Duration | None, _option("Run time of one attempt, or none.", "DURATION")] = None,
    grace: Annotated[Duration | None, _option("From being asked to end to being forced.", "DURATION")] = None,
    deadline: Annotated[str | None, _option(f"Until when it must have ended: {TIMES}.", "DURATION|TIME")] = None,
    retries: Annotated[int | None, _option("How often it is run again after it failed.", "N")] = None,
    backoff: Annotated[Duration | None, _option("The pause before the first retry.", "DURATION")] = None,
    jitter: Annotated[bool | None, _option("Spread the pauses at random.", None, "--jitter/--no-jitter")] = None,
    delay: Annotated[str | None, _option(f"Do not start it before that: {TIMES}.", "DURATION|TIME")] = None,
    priority: Annotated[str | None, _option("high, normal or low.", "WORD")] = None,
    pool: Annotated[str | None, _option("The kind of slot it needs: process, thread, async.", "WORD")] = None,
    local_id: Annotated[str | None, _option("The local part of its id.", "ID", "--id")] = None,
    result_ttl: Annotated[Duration | None, _option("How long its outcome is kept.", "DURATION")] = None,
    delivery: Annotated[str | None, _option("at_least_once or at_most_once.", "WORD")] = None,
    max_crashes: Annotated[int | None, _option("How many deaths of its process it may cause.", "N")] = None,
    wait: Annotated[Duration | None, _option("Wait so long for its end, and print its value.", "DURATION")] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Queue a task by its name, and print its id.

    The task's module is not imported here, so its arguments are not checked against its signature, and options that
    are not given are qworker's defaults, not those of its @app.task. Arguments that begin with a dash go behind --.
    """
    given = {
        "queue": queue,
        "timeout": timeout,
        "grace": grace,
        "deadline": moment("--deadline", deadline),
        "retries": retries,
        "backoff": backoff,
        "jitter": jitter,
        "delay": moment("--delay", delay),
        "priority": priority,
        "pool": pool,
        "id": local_id,
        "result_ttl": result_ttl,
        "delivery": delivery,
        "max_crashes": max_crashes,
    }
    options: dict[str, Any] = {option: value for option, value in given.items() if value is not None}
    if timeout is not None and timeout.strip().lower() == "none":
        options["timeout"] = None
    wait_s = None if wait is None else _seconds("--wait", wait)
    named = _named_arguments(kwargs)
    with open_app(url, namespace) as app:
        task = app.named(name).options(**options)
        call = task.call(*map(_argument, args or ()), **named)
        task.draft(call.args, call.kwargs)  # what is refused is refused before the server is asked for anything
        before = None
        if local_id is not None:
            before = app.future(ids.join_id(task.settings.queue, local_id)).status().state
        [future] = task.submit_many([call])
        if before is not None:
            state = before.replace("_", " ")
            print(f"{future.id} was already there ({state}): nothing was queued", file=sys.stderr)
        if wait_s is None:
            if as_json:
                print_json({"id": future.id})
            else:
                print(future.id)
            return
        try:
            print_result(future, wait_s, as_json=as_json)
        except KeyboardInterrupt:
            print(f"{future.id} is left alone: it goes on; qworker result {future.id}", file=sys.stderr)
            raise


def result(
    task: TaskId,
    timeout: Annotated[Duration | None, _option("Wait at most so long; else until it ends.", "DURATION")] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Wait for a task and print its value as JSON. Exits 1 when it ended in another way, and says how."""
    timeout_s = None if timeout is None else _seconds("--timeout", timeout)
    with open_app(url, namespace) as app:
        print_result(app.future(task), timeout_s, as_json=as_json)


def show(
    task: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a task, or of a group (g-…).", show_default=False)
    ],
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Show everything that is known of a task, or draw the tree of a group. Exits 1 when nothing is known."""
    from .details import facts_of, rows_of
    from .groups import is_group, show_group

    if is_group(task):
        show_group(task, url, namespace, as_json=as_json)
        return
    queue, local = ids.split_id(task)
    with open_broker(url, namespace) as broker:
        facts = facts_of(task, broker.inspect(queue, local), broker.workers)
    if as_json:
        print_json(facts)
    else:
        print_rows(rows_of(facts))
    if facts["state"] is None:
        raise typer.Exit(EXIT_ERROR)


def cancel(tasks: TaskIds, url: Url = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """See to it that tasks never start; running ones are left alone (see stop).

    Exits 1 when one of them may run, has run, or is unknown.
    """
    _check_ids(tasks)
    answers: list[dict[str, Any]] = []
    with open_app(url, namespace) as app:
        for task in tasks:
            future = app.future(task)
            cancelled = future.cancel()
            answers.append({"id": task, "cancelled": cancelled, "note": "" if cancelled else str(future.status())})
    if as_json:
        print_json(answers)
    else:
        for answer in answers:
            said_of = "cancelled: it never starts" if answer["cancelled"] else f"left alone: {answer['note']}"
            print_rows([(answer["id"], said_of)])
    if not all(answer["cancelled"] for answer in answers):
        raise typer.Exit(EXIT_ERROR)


def stop(
    tasks: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of tasks: queue:local.", show_default=False)
    ] = None,
    group: Annotated[str | None, _option("Stop all that is in this group instead (g-…).", "ID")] = None,
    wait: Annotated[Duration, _option("Wait so long for each to end (2s).", "DURATION")] = "2s",
    grace: Annotated[Duration | None, _option("From being asked to being forced; else its own.", "DURATION")] = None,
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """End tasks wherever they are, and print a receipt for each: its outcome, and whether its code still runs.

    Exits 1 unless the code of all of them is known not to run. A group is stopped by one write, and not waited for.
    """
    grace_s = None if grace is None else _seconds("--grace", grace)
    if (group is None) == (not tasks):
        raise ConfigError("expected ids of tasks, or --group with the id of one. See: qworker stop --help")
    if group is not None:
        from .groups import stop_group

        stop_group(group, grace_s, url, namespace, as_json=as_json)
        return
    assert tasks is not None
    _check_ids(tasks)
    wait_s = _seconds("--wait", wait)
    with open_app(url, namespace) as app:
        if len(tasks) > 1:
            app.client()  # connected once, not by each thread
        found = _side_by_side(lambda task: _stop(app.future(task), wait_s, grace_s), tasks)
    if as_json:
        print_json([_receipt_facts(receipt) for receipt, _ in found])
    else:
        for receipt, had_ended in found:
            print_rows([(receipt.id, _receipt_text(receipt, had_ended=had_ended))])
    if not all(receipt for receipt, _ in found):
        raise typer.Exit(EXIT_ERROR)


def _stop(future: Future[Any], wait_s: float, grace_s: float | None) -> tuple[StopReceipt, bool]:
    """Stop a task. Also return whether it had ended before: its receipt would say the same of another's stop."""
    had_ended = future.status().ended
    return future.stop(wait_s, grace_s), had_ended


def _side_by_side(do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Do something for each of them, some at once. Ctrl-C is not kept waiting: it leaves to themselves what goes on.

    An executor's threads would be waited for, here and again at the end of the process.
    """
    answers: list[Answer[R]] = [Answer() for _ in items]
    left = deque(zip(items, answers, strict=True))

    def work() -> None:
        while True:
            try:
                item, answer = left.popleft()
            except IndexError:
                return
            try:
                answer.set_result(do(item))
            except BaseException as error:
                answer.set_exception(error)

    threads = [Thread(target=work, daemon=True) for _ in range(min(_AT_ONCE, len(items)))]
    for thread in threads:
        thread.start()
    try:
        return [answer.result() for answer in answers]
    except BaseException as error:
        left.clear()  # what was not begun is not begun any more
        if isinstance(error, Exception):
            for thread in threads:
                thread.join()
        raise


# ── words into values ────────────────────────────────────────────────────────────────────────────────────────────


def _argument(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word
    except RecursionError:
        raise _too_deep("the argument", word) from None


def _named_arguments(text: str) -> dict[str, Any]:
    try:
        named = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--kwargs {text}: not JSON: {error}") from None
    except RecursionError:
        raise _too_deep("--kwargs", text) from None
    if not isinstance(named, dict):
        raise ConfigError(f"--kwargs {text}: expected one JSON object, such as '{{\"size\": 64}}'")
    return named


def _too_deep(what: str, text: str) -> ConfigError:
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return ConfigError(f"{what} {shown}: nested too deeply to be read as JSON; a task's arguments may be 100 deep")


def _seconds(flag: str, text: str) -> float:
    try:
        return durations.seconds(text)
    except ConfigError as error:
        raise ConfigError(f"{flag} {text}: {error}") from None


def _check_ids(tasks: Sequence[str]) -> None:
    for task in tasks:
        ids.split_id(task)


# ── values into words ────────────────────────────────────────────────────────────────────────────────────────────


def print_result(future: Future[Any], timeout_s: float | None, *, as_json: bool) -> None:
    """Wait for a task and print its value; when it ended in another way, print how and exit 1."""
    try:
        if timeout_s is not None and not future.wait(timeout_s):
            _refuse_late(future, timeout_s)
        value = future.result()
    except Exception:
        if future.outcome is None:
            raise  # the waiter's trouble: its time is up, no such task, no server
        _print_failure(future, as_json=as_json)
        raise typer.Exit(EXIT_ERROR) from None
    if as_json:
        print_json({"id": future.id, "state": "succeeded", "value": value})
    else:
        print(said(value))


def _refuse_late(future: Future[Any], timeout_s: float) -> None:
    """Say what the task is doing, unless it has just ended: the push of an outcome may be late or lost.

    `Future.result` does the same, and tells the time that it took with the question; here that would be read as wrong.
    """
    from ..status import wait_timeout

    try:
        status = future.status()
    except BrokerError as error:
        trouble = f"what it is doing is not known, because {error}"
        raise wait_timeout(None, shown=future.shown, waited_s=timeout_s, trouble=trouble) from None
    if not future.done():
        raise wait_timeout(status, shown=future.shown, waited_s=timeout_s)


def _print_failure(future: Future[Any], *, as_json: bool) -> None:
    from .. import sightings
    from ..status import describe_outcome
    from .details import error_facts

    outcome = future.outcome
    assert outcome is not None
    error = error_facts(outcome.error)
    if as_json:
        print_json(
            {"id": future.id, "state": outcome.state, "how": outcome.how, "reason": outcome.reason, "error": error}
        )
        return
    lines = [f"task {future.id} {describe_outcome(outcome)}"]
    if error is not None:
        lines.append(error["traceback"].rstrip() or f"{error['kind']}: {error['text']}")
    lines += sightings.told(outcome.flight)
    print(escape_lines("\n".join(lines)), file=sys.stderr)


_RUNS: dict[bool | None, str] = {
    True: "its code still runs",
    False: "its code does not run",
    None: "whether its code runs is not known",
}


def _receipt_text(receipt: StopReceipt, *, had_ended: bool = False) -> str:
    head = receipt.outcome or receipt.state or "unknown"
    how = f" ({receipt.how.replace('_', ' ')})" if receipt.how else ""
    if had_ended and receipt.outcome is not None:
        text = f"had already ended: {head.replace('_', ' ')}{how}; {_RUNS[receipt.still_running]}"
        return text if receipt else f"{text}\n{receipt.note}"
    took = f"after {durations.text(receipt.took)}"
    return f"{head.replace('_', ' ')}{how}; {_RUNS[receipt.still_running]}, {took}" + (
        f"\n{receipt.note}" if receipt.note else ""
    )


def _receipt_facts(receipt: StopReceipt) -> dict[str, Any]:
    return {
        "id": receipt.id,
        "outcome": receipt.outcome,
        "how": receipt.how,
        "still_running": receipt.still_running,
        "took_s": round(receipt.took, 4),
        "state": receipt.state,
        "note": receipt.note,
    }
