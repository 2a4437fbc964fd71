"""Calls are checked as the function itself would check them, and tasks are named after their functions."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qworker.binding import Binder, check_name, name_of
from qworker.errors import BadCall, ConfigError


def plain(a: int, b: int = 2) -> None: ...
def none() -> None: ...
def keyword_only(a: int, *, b: int, c: int = 3) -> None: ...
def positional_only(a: int, /, b: int) -> None: ...
def variadic(a: int, *rest: int, b: int = 1, **more: int) -> None: ...


FUNCTIONS: list[Callable[..., None]] = [plain, none, keyword_only, positional_only, variadic]
ARGS = [(), (1,), (1, 2), (1, 2, 3)]
KWARGS = [dict.fromkeys(names, 1) for n in range(4) for names in itertools.combinations("abcx", n)]


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_what_binds_is_decided_as_the_signature_decides_it(fn: Callable[..., None]) -> None:
    binder = Binder(fn, fn.__name__)

    for args, kwargs in itertools.product(ARGS, KWARGS):
        try:
            inspect.signature(fn).bind(*args, **kwargs)
            expected = True
        except TypeError:
            expected = False
        assert binds(binder, args, kwargs) == expected, (args, kwargs)


def binds(binder: Binder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        binder.check(args, kwargs)
    except BadCall:
        return False
    return True


def test_the_refusal_shows_the_signature_and_what_is_wrong() -> None:
    with pytest.raises(BadCall) as caught:
        Binder(plain, "tasks.plain").check((), {"b": 1})

    assert str(caught.value) == (
        "cannot submit tasks.plain(a: 'int', b: 'int' = 2) -> 'None': missing a required argument: 'a'; "
        "nothing was queued"
    )
    assert isinstance(caught.value, TypeError)


def test_a_builtin_without_a_signature_is_left_to_itself() -> None:
    Binder(max, "max").check((), {})


def test_a_task_is_named_by_module_and_function() -> None:
    def inner() -> None: ...

    assert name_of(plain) == f"{__name__}.plain"
    assert name_of(inner) == f"{__name__}.test_a_task_is_named_by_module_and_function.inner"


@pytest.mark.parametrize("name", ["", "x y", "x\ny", "x\x1b", 3])
def test_a_name_that_nobody_could_write_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not the name of a task: expected module\.function, without spaces"):
        check_name(name)

    assert check_name("tasks.größe") == "tasks.größe"


def test_a_lambda_has_no_name_to_be_found_by() -> None:
    with pytest.raises(ConfigError, match=r"a lambda in .* has no name to be found by; give it one: app\.task"):
        name_of(lambda: None)


SCRIPT = "from qworker import App\napp = App(inline=True)\n@app.task\ndef f(): ...\nprint(f.name)\n"


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_task_of_the_running_script_has_the_name_that_a_worker_would_import_it_by(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(SCRIPT)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "jobs.py").write_text(SCRIPT)

    assert run("tasks.py", cwd=tmp_path) == "tasks.f"
    assert run("-m", "tasks", cwd=tmp_path) == "tasks.f"
    assert run("-m", "pack.jobs", cwd=tmp_path) == "pack.jobs.f"
    assert run("-c", SCRIPT, cwd=tmp_path) == "__main__.f"
    with (tmp_path / "tasks.py").open() as piped:
        done = subprocess.run([sys.executable, "-"], stdin=piped, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "__main__.f", "what was piped in has no file that a worker could import"
