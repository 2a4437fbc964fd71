"""Functions of allowed modules: under which name they travel, and that nothing else is found under one."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest

from qworker.allowed import Allowed, Names, NotRunnable, importable_name, importing, permits
from qworker.config import Settings
from qworker.errors import BadCall, ConfigError
from support.apps import plain

HERE = "support.apps.plain"


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (plain.square, f"{HERE}.square"),
        (plain.alias, f"{HERE}.square"),
        (plain.later, f"{HERE}.later"),
        (plain.Box, f"{HERE}.Box"),
        (plain.Box.double, f"{HERE}.Box.double"),
        (plain.Box.named, f"{HERE}.Box.named"),
        (plain.SmallBox.named, f"{HERE}.SmallBox.named"),
        (math.factorial, "math.factorial"),
        (pow, "builtins.pow"),
        (str.upper, "builtins.str.upper"),
        (dict.fromkeys, "builtins.dict.fromkeys"),
        (asyncio.sleep, "asyncio.tasks.sleep"),
    ],
)
def test_a_function_that_can_be_imported_is_found_again_by_its_name(fn, name):
    assert importable_name(fn) == name
    assert Allowed(name, ("*",)).fn == fn


def test_a_function_of_the_running_script_is_named_after_its_file(monkeypatch):
    monkeypatch.setattr(plain.square, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/somewhere/sweep.py", raising=False)

    assert importable_name(plain.square) == "sweep.square"


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (lambda: 1, "cannot submit a lambda of "),
        (plain.make_inner(), f"cannot submit inner, defined inside another function, of {HERE}: a worker cannot"),
        (plain.box.weigh, "it is a method of one object, and only a name travels to the worker; define a function"),
        ([].append, "it is a method of one object"),
        (7, "cannot submit 7: it is of type int, not a function; nothing was queued"),
    ],
)
def test_what_no_worker_could_import_is_refused_at_once_and_says_why(fn, said):
    with pytest.raises(BadCall) as caught:
        importable_name(fn)

    assert said in str(caught.value)
    assert str(caught.value).endswith("nothing was queued")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (f"{HERE}.system", "what is found there is posix.system, of another name"),
        (f"{HERE}.shell", "what is found there is posix.system, of another name"),
        (f"{HERE}.alias", f"what is found there is {HERE}.square, of another name"),
        (f"{HERE}.os.system", "'os' is a module that support.apps.plain imported"),
        (f"{HERE}.square.__globals__", f"{HERE}.square has no function '__globals__'"),
        (f"{HERE}.square.__class__", f"{HERE}.square has no function '__class__'"),
        (f"{HERE}.box.weigh", f"{HERE}.box has no function 'weigh'"),
        (f"{HERE}.Box.__subclasses__", f"{HERE}.Box has no function '__subclasses__'"),
        (f"{HERE}.Box.size", "it is of type int, not a function"),
        (f"{HERE}.LIMIT", "it is of type int, not a function"),
        (f"{HERE}.nothing", f"{HERE} has no function 'nothing'"),
        (f"{HERE}.", "has no function ''"),
    ],
)
def test_a_name_leads_only_to_what_the_module_itself_defines(name, found):
    with pytest.raises(NotRunnable) as caught:
        Allowed(name, (HERE,)).fn()

    assert found in str(caught.value)
    assert str(caught.value).startswith(f"cannot run {name}: ")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere.at.all", "the worker finds no such module; start it where it is, or set PYTHONPATH"),
        ("support.apps.broken_import.f", "importing support.apps.broken_import failed: RuntimeError: not today"),
        ("__main__.f", "__main__ is another module in each process"),
        ("a\0b.f", "cannot run"),
        ("..f", "cannot run"),
    ],
)
def test_a_module_that_cannot_be_imported_is_said_to_be_so(name, found):
    with pytest.raises(NotRunnable) as caught:
        Allowed(name, ("*",)).fn()

    assert found in str(caught.value)


def test_a_module_outside_the_allowed_ones_is_not_even_imported():
    sys.modules.pop("support.apps.broken_import", None)

    with pytest.raises(NotRunnable, match="the worker finds no such module"):
        Allowed("support.apps.broken_import.f", (HERE,)).fn()


@pytest.mark.parametrize(
    ("allow", "name", "permitted"),
    [
        (("shop",), "shop.buy", True),
        (("shop",), "shop.cart.Cart.add", True),
        (("shop",), "shopping.buy", False),
        (("shop",), "shop", False),
        (("shop.cart",), "shop.buy", False),
        (("a", "shop.cart"), "shop.cart.add", True),
        (("*",), "os.system", True),
        (("*",), "buy", False),
        ((), "shop.buy", False),
    ],
)
def test_a_module_covers_its_functions_and_the_modules_in_it(allow, name, permitted):
    assert permits(allow, name) is permitted
    assert (name in Names.of({"registered"}, allow)) is permitted


def test_registered_names_stay_known_beside_the_allowed_ones():
    names = Names.of({"shop.buy"}, ("tools",))

    assert "shop.buy" in names
    assert "shop.sell" not in names
    assert "tools.saw" in names
    assert 3 not in names
    assert list(names) == ["shop.buy"]


def test_a_coroutine_function_is_known_for_one():
    assert Allowed(f"{HERE}.later", (HERE,)).is_async
    assert not Allowed(f"{HERE}.square", (HERE,)).is_async


def test_nobody_is_importing_when_nobody_is():
    Allowed(f"{HERE}.square", (HERE,)).fn(1)

    assert not importing()


def test_the_setting_is_a_list_of_modules(tmp_path):
    assert Settings.load({"allow": "shop, shop.cart,shop"}, environ={}, cwd=tmp_path).allow == ("shop", "shop.cart")
    assert Settings.load({}, environ={"QWORKER_ALLOW": "*"}, cwd=tmp_path).allow == ("*",)
    with pytest.raises(ConfigError, match="--allow a:b: expected names of modules, separated by commas, or \\*; 'a:b'"):
        Settings.load({"allow": "a:b"}, environ={}, cwd=tmp_path)
