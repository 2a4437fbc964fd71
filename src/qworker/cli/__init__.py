"""The command `qworker`: a table of verbs, and the one place where an error becomes a line and an exit code.

    main ─► run(argv) ─► VERBS[verb] ─► its module, imported now ─► typer parses the rest ─► the verb
                                   └─ start ─► start.read(), without typer ─► the worker

One file per family of verbs; each verb is a function that typer reads, and raises QWorkerErrors. Nothing is imported
for a verb that is not run, so `qworker --help` needs neither typer nor redis.

Exit codes: 0 done, 1 error, 2 usage or configuration, 3 unhealthy, 4 drained but work was killed, 128+n ended by
signal n.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NamedTuple, NoReturn

from .. import streams
from ..errors import ConfigError, QWorkerError

__all__ = ["EXIT_ERROR", "EXIT_UNHEALTHY", "EXIT_USAGE", "VERBS", "Verb", "main", "run"]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_UNHEALTHY = 3
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 128 + signal.SIGPIPE


class Verb(NamedTuple):
    """Where a verb is (`module:function`, or `module:app` for a typer app with verbs of its own), and what it does."""

    target: str
    does: str
    family: str


VERBS: dict[str, Verb] = {
    # Workers and servers.
    "start": Verb("start_flags:start", "Run a worker.", "Run"),
    "demo": Verb("demo:demo", "See it work on real input: hang, stop, kill, and the ledger.", "Run"),
    "embedded": Verb("embedded:app", "Look at, or stop, this project's embedded server.", "Run"),
    # Single tasks.
    "submit": Verb("client:submit", "Queue a task by its name.", "Tasks"),
    "result": Verb("client:result", "Wait for a task and print its value.", "Tasks"),
    "watch": Verb("watch:watch", "Follow a task until it has ended.", "Tasks"),
    "show": Verb("client:show", "Show everything that is known of a task or group.", "Tasks"),
    "cancel": Verb("client:cancel", "See to it that tasks never start; leave running ones alone.", "Tasks"),
    "stop": Verb("client:stop", "End tasks wherever they are, and tell what came of it.", "Tasks"),
    # The whole.
    "status": Verb("status:status", "Show queues, workers, and what runs since when.", "Look"),
    "dessert": Verb("dessert:dessert", "List code that still runs after its outcome was recorded.", "Look"),
    "check": Verb("check:check", "Say whether this host's workers are live or ready.", "Look"),
    "doctor": Verb("doctor:doctor", "Examine the server and this host, and say what to do.", "Look"),
}
_LIMITS = {
    errno.EMFILE: "Allow this process more open files (ulimit -n)",
    errno.ENFILE: "Allow this host more open files (sysctl fs.file-max)",
    errno.EAGAIN: "Allow this user more processes (ulimit -u), or this container (pids.max)",
    errno.ENOMEM: "Leave it more memory, or allow it more (ulimit -v, memory.max)",
}
_FAMILIES = {"Run": "Run", "Tasks": "Single tasks", "Look": "Look"}


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    streams.hold()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an encoding that cannot say it is no reason to fail
    raise SystemExit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run a command line and return its exit code. A user's mistake is one line on stderr, never a traceback."""
    verb = argv[0] if argv else ""
    try:
        try:
            return _dispatch(verb, argv[1:])
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is still handled
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return EXIT_PIPE
    except QWorkerError as error:  # before OSError, which some of them are
        _say(verb, error)
        return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR
    except OSError as error:
        refusal = _refusal()
        if refusal is not None:
            _drop_stdout()
        elif (refusal := _shortage(error)) is None:
            raise
        _say(verb, refusal)
        return EXIT_ERROR


def _dispatch(verb: str, rest: Sequence[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print(_help())
        return 0
    if verb in ("-V", "--version"):
        print(f"qworker {_version()}")
        return 0
    if not verb:
        print(_help(), file=sys.stderr)
        return EXIT_USAGE
    if verb not in VERBS:
        raise ConfigError(_unknown(verb, rest))
    return _invoke(verb, list(rest))


def _invoke(verb: str, rest: list[str]) -> int:
    """Have typer parse the rest of the command line and call the verb; a worker does without it, if it can."""
    if verb == "start":
        from . import start

        if (given := start.read(rest)) is not None:
            return start.run_worker(*given)
    module, _, name = VERBS[verb].target.partition(":")
    target = getattr(import_module(f"{__name__}.{module}"), name)

    import typer

    if not isinstance(target, typer.Typer):
        only = typer.Typer(add_completion=False, rich_markup_mode=None)
        only.command(name=verb, context_settings={"help_option_names": ["-h", "--help"]})(target)
        target = only
    target.rich_markup_mode = None  # plain help: our texts have brackets that are no markup
    command: Any = typer.main.get_command(target)
    try:
        # Not command.main(): that has ideas of its own about Ctrl-C, broken pipes and how errors look.
        with command.make_context(f"qworker {verb}", rest) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.Abort:
        return EXIT_INTERRUPTED
    except Exception as error:
        # Wrong flags and arguments, by whichever click typer brings: old ones depend on it, new ones carry their own.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        _keep_close_ones(error)
        text: str = error.format_message()
        if text.startswith("Usage:"):  # a family of verbs without a verb
            print(text, file=sys.stderr)
            return EXIT_USAGE
        raise ConfigError(f"{text.rstrip('.')}. See: qworker {verb} --help") from None
    return 0


def _keep_close_ones(error: Any) -> None:
    """Of the options that the parser suggests, keep those that are alike without their dashes, too."""
    import difflib

    if getattr(error, "possibilities", None):
        bare = {name.lstrip("-"): name for name in error.possibilities}
        close = difflib.get_close_matches(error.option_name.lstrip("-"), bare, cutoff=0.65)
        error.possibilities = [bare[name] for name in close]


def _say(verb: str, error: QWorkerError) -> None:
    from ..log import escape  # what a task raised, or what it is named, may be anybody's text

    text = " ".join(str(error).split("\n"))
    print(escape(f"qworker {verb}: {text}" if verb in VERBS else f"qworker: {text}"), file=sys.stderr)


def _unknown(verb: str, rest: Sequence[str]) -> str:
    import difflib

    if verb.startswith("-"):
        meant = next((word for word in rest if word in VERBS), "VERB")
        return f"options come after the verb: qworker {meant} {ascii(verb)[1:-1]} …"
    close = difflib.get_close_matches(verb, VERBS, 1)
    meant = f"did you mean {close[0]}?" if close else "qworker --help lists them"
    return f"there is no verb {verb!a}: {meant}"


def _help() -> str:
    lines = [
        "Usage: qworker VERB [OPTIONS]",
        "",
        "A task queue that never says a task has stopped when it has not.",
        "",
    ]
    for family, title in _FAMILIES.items():
        lines.append(f"{title}:")
        lines += [f"  {name:<10}{verb.does}" for name, verb in VERBS.items() if verb.family == family]
        lines.append("")
    lines.append("qworker VERB --help says more; qworker --version says which this is.")
    return "\n".join(lines)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("qworker-redis")
    except PackageNotFoundError:
        return "(not installed)"


def _refusal() -> QWorkerError | None:
    """Return that standard output takes nothing more; None: it does, so an error was one of something else."""
    try:
        if getattr(sys.stdout, "write_through", False):
            sys.stdout.write("\n")  # a buffer keeps what it could not write; without one, something has to be tried
        sys.stdout.flush()
    except OSError as error:
        return QWorkerError(
            f"cannot write to standard output: {error.strerror or error}. The answer is lost, but what was asked "
            "for may be done: look (qworker status, show) before you repeat it"
        )
    return None


def _shortage(error: OSError) -> QWorkerError | None:
    """Return that this process is not allowed what it needs, and by what; None: that is not it."""
    advice = _LIMITS.get(error.errno or 0)
    return QWorkerError(f"cannot go on: {error.strerror}. {advice}") if advice else None


def _drop_stdout() -> None:
    # Nobody gets our output any more: what the interpreter still flushes at its end goes nowhere, and quietly.
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # stdout is no file
