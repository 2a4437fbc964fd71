"""Exceptions on the wire: whatever a task raises can be told, and comes back as what it was or as TaskFailed."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from concurrent.futures import CancelledError

import msgpack
import pytest

from qworker.codec import describe_error, pack_error, rebuild_error, unpack_error
from qworker.errors import DecodeError, TaskCrashed, TaskFailed
from qworker.faults import RemoteTraceback
from qworker.model import ErrorInfo
from qworker.options import Options


class Plain(Exception):
    pass


class Formats(Exception):
    """Makes its text of other arguments than it passes on."""

    def __init__(self, code: int) -> None:
        super().__init__(f"failed with {code}")


class NeedsTwo(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Rude(Exception):
    def __str__(self) -> str:
        raise ValueError("no")

    @property
    def args(self):  # type: ignore[override]
        raise ValueError("no")


class Namespace:
    class Inner(Exception):
        pass


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def round_trip(error: BaseException) -> Exception:
    return rebuild_error(unpack_error(pack_error(describe_error(raised(error)))), id="default:1")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad", 1),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "a.txt"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ZeroDivisionError(),
        Plain("x"),
        Formats(3),
        NeedsTwo("a", "b"),
        Namespace.Inner("deep"),
        CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_task_raised_comes_back_as_its_own_class(error):
    back = round_trip(error)

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert getattr(back, "filename", None) == getattr(error, "filename", None)


def test_the_remote_traceback_is_the_cause_and_names_the_line():
    back = round_trip(Plain("x"))

    assert isinstance(back.__cause__, RemoteTraceback)
    assert "in raised\n    raise error\n" in str(back.__cause__)
    assert str(back.__cause__).startswith('\n"""\nTraceback (most recent call last):')


def test_causes_stand_in_the_traceback():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as error:
        info = describe_error(error)

    assert "KeyError: 'first'" in info.traceback
    assert "The above exception was the direct cause" in info.traceback


def test_frames_of_qworker_above_the_task_are_left_out():
    script = types.ModuleType("qworker.pool.fake")
    exec("def run(fn):\n    fn()\n", script.__dict__)

    def task() -> None:
        raise Plain("x")

    try:
        script.run(task)
    except Plain as error:
        error.__traceback__ = error.__traceback__.tb_next  # this test's own frame
        text = describe_error(error).traceback

    assert "in task" in text
    assert "in run" not in text


def test_notes_are_kept():
    error = ValueError("x")
    error.add_note("first")
    error.add_note("second")

    assert round_trip(error).__notes__ == ["first", "second"]


def test_arguments_that_cannot_be_carried_leave_the_class_and_the_text():
    back = round_trip(Plain(object))

    assert type(back) is Plain
    assert str(back) == "<class 'object'>"
    assert describe_error(Plain(object)).args is None


def test_a_class_that_is_not_imported_here_becomes_task_failed():
    info = ErrorInfo("somewhere.Else", ("x", 1), "x 1", "Traceback …", ("a note",))

    back = rebuild_error(info, id="default:1")

    assert type(back) is TaskFailed
    assert (str(back), back.kind, back.id) == ("somewhere.Else: x 1", "somewhere.Else", "default:1")
    assert back.__notes__ == ["a note"]
    assert str(back.__cause__) == '\n"""\nTraceback …\n"""'


def test_nothing_is_imported_to_rebuild_an_error(tmp_path, monkeypatch):
    (tmp_path / "never_imported_by_qworker.py").write_text("class Boom(Exception): pass")
    monkeypatch.syspath_prepend(tmp_path)

    back = rebuild_error(ErrorInfo("never_imported_by_qworker.Boom", (), "", ""))

    assert type(back) is TaskFailed
    assert "never_imported_by_qworker" not in sys.modules


def test_a_modules_own_getattr_is_not_asked(monkeypatch):
    lazy = types.ModuleType("lazy_module")
    asked = []
    lazy.__getattr__ = lambda name: asked.append(name)  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)

    assert type(rebuild_error(ErrorInfo("lazy_module.Boom", (), "", ""))) is TaskFailed
    assert asked == []


@pytest.mark.parametrize(
    "kind",
    ["builtins.print", "builtins.KeyboardInterrupt", "builtins.SystemExit", "builtins.StopIteration", "os.system",
     "os.path", "builtins.int", "", ".", "builtins", "builtins.ValueError.args", "sys.modules"],
)  # fmt: skip
def test_what_is_no_ordinary_exception_class_becomes_task_failed(kind):
    assert type(rebuild_error(ErrorInfo(kind, ("echo never",), "echo never", ""))) is TaskFailed


def test_an_alias_of_a_class_is_not_taken_for_it():
    assert type(rebuild_error(ErrorInfo("os.error", ("x",), "x", ""))) is TaskFailed


def test_a_tasks_error_of_ours_carries_the_id():
    back = round_trip(TaskCrashed("it died"))

    assert (type(back), back.id) == (TaskCrashed, "default:1")


def test_interrupts_can_be_told_too():
    back = round_trip(KeyboardInterrupt())

    assert (type(back), str(back)) == (TaskFailed, "builtins.KeyboardInterrupt")


def test_an_exception_that_raises_when_asked_can_be_told():
    info = describe_error(raised(Rude()))

    assert info.kind.endswith(".Rude")
    assert info.text == "<its __str__ raised ValueError>"
    assert info.args is None
    assert type(rebuild_error(info)) is TaskFailed


def test_huge_errors_are_cut_in_their_middle():
    error = ValueError("begin" + "x" * 100_000 + "end")
    error.__notes__ = ["n" * 10_000] * 100
    info = describe_error(error)

    assert info.text.startswith("begin")
    assert info.text.endswith("end")
    assert "83,624 characters left out" in info.text
    assert info.args is None
    assert len(pack_error(info)) < 256 * 1024


class Coded(Exception):
    """What a library raises: its text is made of an attribute, and its `args` are not those of its `__init__`."""

    def __init__(self, doc: str, *, code: int) -> None:
        super().__init__("coded")
        self.doc, self.code, self.response = doc, code, object()

    def __str__(self) -> str:
        return f"code {self.code}"


def test_attributes_that_can_be_encoded_come_along():
    back = round_trip(Coded("a document", code=7))

    assert type(back) is Coded
    assert str(back) == "code 7"
    assert (back.args, back.doc, back.code) == (("coded",), "a document", 7)
    assert not hasattr(back, "response")


def test_what_the_standard_library_keeps_in_attributes_comes_along():
    with pytest.raises(json.JSONDecodeError) as decoding:
        json.loads("{")
    back = round_trip(decoding.value)

    assert isinstance(back, json.JSONDecodeError)
    assert (back.pos, back.lineno, back.doc) == (1, 1, "{")
    called = round_trip(subprocess.CalledProcessError(3, "make", output="out", stderr="err"))
    assert isinstance(called, subprocess.CalledProcessError)
    assert (called.returncode, called.cmd, called.stdout, called.stderr) == (3, "make", "out", "err")


def test_of_the_attributes_what_is_too_large_stays_behind_alone():
    assert describe_error(Coded("x" * 100_000, code=7)).attributes == {"code": 7}

    many = ValueError()
    vars(many).update((f"part_{n}", "x" * 1000) for n in range(1000))
    assert list(describe_error(many).attributes) == [f"part_{n}" for n in range(64)]
    assert len(pack_error(describe_error(many))) < 70_000


def test_no_attribute_from_the_wire_is_one_of_the_language():
    names = {"__notes__": [1], "add_note": 1, "with_traceback": 2, "args": 3, "code": 3}
    back = rebuild_error(ErrorInfo("builtins.ValueError", ("x",), "x", "", attributes=names))
    assert vars(back) == {"code": 3}

    noted = rebuild_error(ErrorInfo("builtins.ValueError", ("x",), "x", "", ("a note",), attributes=names))
    assert noted.__notes__ == ["a note"]


def test_what_a_task_hung_on_its_exception_in_the_place_of_a_method_is_not_carried():
    error = ValueError("x")
    error.add_note = error.code = 3

    assert describe_error(error).attributes == {"code": 3}


def test_a_class_of_the_running_script_is_found_under_the_name_that_a_worker_imports_it_by(monkeypatch):
    script, twin = types.ModuleType("__main__"), types.ModuleType("orders")
    script.__file__ = "/srv/orders.py"
    script.OutOfStock = type("OutOfStock", (ValueError,), {"__module__": "__main__"})
    twin.OutOfStock = type("OutOfStock", (ValueError,), {"__module__": "orders"})
    twin.Other = type("Other", (ValueError,), {"__module__": "orders"})
    monkeypatch.setitem(sys.modules, "__main__", script)

    assert Options().merged({"retry_for": [script.OutOfStock]}).retry_for == ("orders.OutOfStock",)
    assert describe_error(script.OutOfStock("none left")).kind == "orders.OutOfStock"
    for _ in range(2):
        back = rebuild_error(ErrorInfo("orders.OutOfStock", ("none left",), "none left", ""))
        assert type(back) is script.OutOfStock
        monkeypatch.setitem(sys.modules, "orders", twin)  # the script was imported as well, or another of this name
    assert type(rebuild_error(ErrorInfo("orders.Other", ("x",), "x", ""))) is twin.Other


def test_text_without_a_utf8_form_is_told_escaped():
    assert unpack_error(pack_error(describe_error(OSError("a\udcff.txt")))).text == "a\\udcff.txt"


def test_the_names_of_all_its_bases_are_told_for_retry_for():
    assert describe_error(FileNotFoundError()).bases == (
        "builtins.OSError",
        "builtins.Exception",
        "builtins.BaseException",
    )


def test_an_exception_group_becomes_task_failed_with_all_tracebacks():
    back = round_trip(ExceptionGroup("two", [ValueError("first"), KeyError("second")]))

    assert type(back) is TaskFailed
    assert "ValueError: first" in str(back.__cause__)
    assert "KeyError: 'second'" in str(back.__cause__)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb([2, "a.B", None, "", "", [], []]),
        msgpack.packb([1, "a.B", None, "", "", [], [], 1]),
        msgpack.packb([1, "a.B", None, "", "", [1], []]),
        msgpack.packb([1, "a.B", "args", "", "", [], []]),
        msgpack.packb([1, "a.B", b"\x80", "", "", [], []]),
        msgpack.packb([1, "a.B", b"\xc1", "", "", [], []]),
        msgpack.packb([1, 2, None, "", "", [], []]),
        msgpack.packb([1, "a.B", None, "", "", [], [], b"\x80", None]),
        msgpack.packb([1, "a.B", None, "", "", [], [], b"\x90"]),
        msgpack.packb([1, "a.B", None, "", "", [], [], b"\x81\x01\x01"]),
    ],
    ids=[
        *("nothing", "reserved", "version", "attributes", "notes", "args type", "args shape", "args bytes", "kind"),
        *("long", "attributes shape", "attribute name"),
    ],
)
def test_bytes_that_are_no_error_are_a_decode_error(data):
    with pytest.raises(DecodeError, match=r"^cannot decode "):
        unpack_error(data)
