"""Registering tasks, finding them again, and what an app is before it is ever used."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qworker
from qworker import App, BadCall, BadOption, ConfigError, NotEncodable, TaskTooLarge, call
from qworker.task import CoroutineTask, Task


@pytest.fixture
def app() -> App:
    """An app whose server does not exist: whatever is refused is refused before it is needed."""
    return App("unix:///nowhere/at/all", connect_timeout=0.1)


def test_the_decorator_works_with_and_without_parentheses(app: App) -> None:
    @app.task
    def one(x: int) -> int:
        """Doc."""
        return x + 1

    @app.task(retries=3, timeout="5s")
    def two(x: int) -> int:
        return x + 2

    assert (one(1), two(1)) == (2, 3)
    assert app.tasks == {one.name: one, two.name: two}
    assert one.name.endswith(".one")
    assert (one.__doc__, one.__name__) == ("Doc.", "one")
    assert (two.settings.retries, two.settings.timeout_ms) == (3, 5000)
    assert one.fn(1) == 2
    assert not one.is_async


def test_coroutine_functions_are_known_as_such(app: App) -> None:
    @app.task
    async def wait() -> int:
        return 1

    assert isinstance(wait, CoroutineTask)
    assert wait.is_async
    assert wait.draft((), {}).line.pool == "async"


def test_a_class_and_a_name_with_spaces_are_refused_where_they_stand(app: App) -> None:
    with pytest.raises(ConfigError, match=r"@app\.task on the class .*\.Thing: expected a function"):

        @app.task
        class Thing: ...

    with pytest.raises(ConfigError, match="'x y' is not the name of a task"):
        app.task(name="x y")(print)

    with pytest.raises(ConfigError, match="'x y' is not the name of a task"):
        app.submit("x y")

    assert app.tasks == {}


def test_an_argument_that_does_not_exist_is_refused_with_what_could_be_meant(app: App) -> None:
    wrong: dict[str, Any] = {"urll": "redis://x"}
    with pytest.raises(
        BadOption, match=r"no option 'urll': did you mean url\? .* url, namespace, inline, connect_timeo"
    ):
        App(**wrong)

    with pytest.raises(BadOption, match=r"no option 'timout': did you mean timeout\?"):
        app.task(timout=3)  # type: ignore[call-overload]


INTERACTIVE = """
from qworker import App, BadCall
import asyncio
def add(a, b): return a + b
app = App("unix:///nowhere/at/all", connect_timeout=0.1)
loc = app.task(add)
print(loc(1, 2), App(inline=True).task(add).submit(1, 2).result())
for send in (lambda: loc.submit(1, 2), lambda: loc.submit_many([loc.call(1, 2)]), lambda: app.submit(add, 1, 2),
             lambda: asyncio.run(loc.asubmit(1, 2))):
    try:
        send()
    except BadCall as error:
        print(error)
"""


def test_a_task_of_an_interactive_session_runs_here_and_is_not_queued() -> None:
    done = subprocess.run([sys.executable, "-c", INTERACTIVE], capture_output=True, text=True, check=True)

    text = (
        "add is defined in an interactive session, where no worker can import it: put it into a module; "
        "nothing was queued"
    )
    assert done.stdout.splitlines() == ["3 3", *[text] * 4]


def test_options_of_the_app_are_defaults_of_its_tasks() -> None:
    app = App("redis://x", queue="mail", retries=2)

    @app.task(retries=0)
    def f() -> None: ...

    assert (f.settings.queue, f.settings.retries) == ("mail", 0)


def test_two_tasks_of_one_name_are_refused_with_both_places(app: App) -> None:
    app.task(name="tasks.f")(lambda: 1)

    with pytest.raises(ConfigError, match=r"two tasks are named 'tasks\.f': .*test_app\.py:\d+ and .*test_app\.py:\d+"):
        app.task(name="tasks.f")(lambda: 2)


def test_a_module_that_is_imported_again_registers_its_tasks_again(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "again_tasks.py").write_text(
        "import appholder\n@appholder.app.task\ndef f():\n    return appholder.count()\n"
    )
    (tmp_path / "appholder.py").write_text("from qworker import App\napp = App(inline=True)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("again_tasks")

    again = importlib.reload(module)

    assert again.appholder.app.tasks["again_tasks.f"] is again.f


def test_what_is_no_function_is_refused(app: App) -> None:
    with pytest.raises(ConfigError, match=r"@app\.task on 30: expected a function; options are given by keyword"):
        app.task(30)  # type: ignore[call-overload]


def test_a_wrong_option_is_refused_where_it_stands(app: App) -> None:
    with pytest.raises(BadOption, match="timeout"):
        app.task(timeout="soon")
    with pytest.raises(BadOption, match="queue"):
        App(queue="Not A Queue")
    with pytest.raises(ConfigError, match="namespace"):
        App(namespace="No!")


def test_a_task_is_found_by_name_by_function_and_by_itself(app: App) -> None:
    def f(x: int) -> int:
        return x

    task = app.task(f)

    assert app.named(task) is task
    assert app.named(f) is task
    assert app.named(task.name) is task


def test_a_name_that_is_not_known_here_is_taken_as_it_is(app: App) -> None:
    stranger = app.named("other.place").options(queue="mail")

    draft = stranger.draft((1,), {"any": "thing"})

    assert (draft.name, draft.queue) == ("other.place", "mail")
    with pytest.raises(ConfigError, match="is not the name of a task"):
        app.named("")


def test_a_plain_function_is_submitted_under_its_own_name_and_checked(app: App) -> None:
    assert app.named(subprocess.check_call).name == "subprocess.check_call"
    with pytest.raises(BadCall, match="plain_function"):
        app.submit(plain_function)  # type: ignore[arg-type]


def plain_function(x: int) -> int:
    return x


def test_hooks_for_children_are_kept_in_order(app: App) -> None:
    @app.on_child_start
    def first() -> None: ...

    @app.on_child_start
    def second() -> None: ...

    assert app.child_start_hooks == [first, second]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("args", "refusal", "text"),
    [
        ((), BadCall, "missing a required argument: 'x'"),
        ((1, 2), BadCall, "too many positional arguments"),
        ((object(),), NotEncodable, "args[0]"),
        ((deep(200),), TaskTooLarge, "100"),
        (("x" * 1_100_000,), TaskTooLarge, "1,048,576 is the limit"),
    ],
)
def test_what_cannot_run_is_refused_before_a_server_is_needed(
    app: App, args: tuple[Any, ...], refusal: type[Exception], text: str
) -> None:
    @app.task
    def f(x: Any) -> None: ...

    with pytest.raises(refusal) as caught:
        f.submit(*args)
    with pytest.raises(refusal):
        f.submit_many([call(1), call(*args)])

    assert text in str(caught.value)
    assert not app.connected


def test_one_id_is_refused_for_many_tasks(app: App) -> None:
    @app.task
    def f(x: int) -> None: ...

    with pytest.raises(BadOption, match="id='a' is the id of one task, but submit_many was given 2"):
        f.options(id="a").submit_many([call(1), call(2)])


def test_the_options_of_submit_many_hold_for_calls_of_the_same_task(app: App) -> None:
    @app.task
    def f(x: int) -> None: ...

    urgent = f.options(priority="high", queue="fast")

    draft = f.call(1).draft(urgent)

    assert (draft.queue, draft.line.priority) == ("fast", "high")


def test_a_call_of_another_task_is_refused(app: App) -> None:
    @app.task
    def f(x: int) -> None: ...

    @app.task
    def g(x: int) -> None: ...

    with pytest.raises(BadCall, match=r"cannot submit a call of .*f through .*g\.submit_many; app\.submit_many takes"):
        g.submit_many([f.call(1)])


def test_what_is_no_task_and_what_is_no_call_are_refused_with_what_to_write(app: App) -> None:
    add = app.task(lambda x, y: x + y, name="add")

    with pytest.raises(BadCall, match=r"cannot submit 3: .* submit\(task, 1, 2\), not submit\(task\(1, 2\)\)"):
        app.submit(add(1, 2))
    for many in (app.submit_many, add.submit_many):
        with pytest.raises(BadCall, match=r"cannot submit \(1, 2\): submit_many takes calls, as task\.call\(1, 2\)"):
            many([(1, 2)])
    with pytest.raises(NotEncodable, match=r"cannot submit add: cannot encode args\[1\]: .*; nothing was queued"):
        add.submit(1, object())


def test_a_call_without_a_task_says_what_to_do(app: App) -> None:
    with pytest.raises(TypeError, match=r"call\(…\) does not say of which task; use task\.call"):
        app.submit_many([call(1)])


def test_nothing_to_submit_needs_no_server(app: App) -> None:
    assert app.submit_many([]) == []


def test_a_handle_needs_an_id(app: App) -> None:
    with pytest.raises(ConfigError, match="is not a task id: expected queue:local"):
        app.future("01J")
    assert app.future("mail:01J").id == "mail:01J"


def test_the_url_comes_from_the_argument_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWORKER_URL", "redis://env")
    monkeypatch.setenv("QWORKER_NAMESPACE", "elsewhere")

    assert (App("redis://arg", namespace="here").url, App().url) == ("redis://arg", "redis://env")
    assert (App(namespace="here").namespace, App().namespace) == ("here", "elsewhere")


def test_without_a_url_and_with_the_embedded_server_forbidden_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("QWORKER_URL", raising=False)
    monkeypatch.setenv("QWORKER_EMBEDDED", "0")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ConfigError, match="QWORKER_URL is not set, and QWORKER_EMBEDDED=0 forbids"):
        App().named("tasks.f").submit()


def test_importing_an_app_brings_in_neither_redis_nor_asyncio() -> None:
    code = (
        "import sys, qworker\n"
        "from qworker import App, current, call, Future, TaskInterrupt\n"
        "app = App('redis://nowhere')\n"
        "@app.task(timeout=3)\n"
        "def f(x): ...\n"
        "print(sorted({'redis', 'asyncio', 'ssl', 'socket'} & set(sys.modules)))\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves_and_no_other_does() -> None:
    for name in qworker.__all__:
        assert getattr(qworker, name) is not None
    assert set(qworker.__all__) <= set(dir(qworker))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = qworker.Nothing
    assert isinstance(Task, type)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: App(3), r"^App\(3\): expected the server's URL as text"),  # type: ignore[arg-type]
        (lambda: App("unix:///x", connect_timeout="x"), r"^connect_timeout: 'x' is not a duration"),
        (lambda: App("unix:///x").future(3), r"^app\.future\(3\): expected the id of a task as text"),  # type: ignore[arg-type]
        (lambda: App("unix:///x").stop(3), r"^app\.stop\(3\): expected ids of tasks, queue:local, or futures"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_the_wrong_type_is_refused_with_what_is_expected(make: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()


def test_how_long_to_try_is_a_duration_as_others_are() -> None:
    assert App("unix:///x", connect_timeout="250ms")._connect_timeout_s == 0.25
