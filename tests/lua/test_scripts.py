"""The scripts as files: their headers, how they are loaded, and the rules that each of them keeps."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest
import redis

from qworker.broker import keys, scripts
from qworker.broker.keys import Keyspace
from qworker.lifecycle import ARROWS, CODES, KEPT_FOR_RETRY, OUTCOMES, TRANSITIONS
from qworker.model import POOL_NEEDS, Line
from support.servers import Server

FOLDER = resources.files("qworker.broker").joinpath("lua")
NAMES = scripts.names()
LIBRARY = FOLDER.joinpath("lib.lua").read_text("utf-8")
GROUP_LIBRARY = FOLDER.joinpath("lib_group.lua").read_text("utf-8")


def source(name: str) -> str:
    """A script's own file, without the library."""
    return FOLDER.joinpath(f"{name}.lua").read_text("utf-8")


def test_every_transition_is_made_by_some_script_and_no_script_names_another() -> None:
    made = {transition for name in NAMES for transition in scripts.load(name).transitions}

    assert made == set(TRANSITIONS)


def test_every_transition_follows_the_arrows() -> None:
    for name, (before, after) in TRANSITIONS.items():
        for state in before:
            assert after & ARROWS[state], f"{name} leads from {state} to nowhere"


def test_the_letters_of_outcomes_in_the_library_are_those_of_the_lifecycle() -> None:
    table = re.search(r"local OUTCOMES = \{(.*?)\}", LIBRARY, re.DOTALL)
    kept = re.search(r"local KEPT = \{(.*?)\}", LIBRARY)
    assert table is not None
    assert kept is not None

    assert dict(re.findall(r"(\w) = '(\w+)'", table[1])) == {CODES[state]: state.value for state in OUTCOMES}
    assert set(re.findall(r"(\w) = true", kept[1])) == {CODES[state] for state in KEPT_FOR_RETRY}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_uses_the_names_of_its_header_and_no_others(name: str) -> None:
    script, text = scripts.load(name), source(name)
    # What the library's own functions read for the script that calls them.
    lent_keys = set(keys.PLAIN)
    lent_args = {"now_ms", "epoch", "expected_ms", "stalled", "ttl_ms", "inbox"}
    if name.startswith("group_"):
        lent_args |= {"channel", "most"}

    used_keys, used_args = set(re.findall(r"\bK\.(\w+)", text)), set(re.findall(r"\bA\.(\w+)", text))

    assert used_keys <= set(script.keys)
    assert used_args <= set(script.args)
    assert set(script.keys) - used_keys <= lent_keys | {"lines", "bells"}
    assert set(script.args) - used_args <= lent_args | {"worker"}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_makes_no_globals_and_speaks_no_dialect(name: str) -> None:
    text = LIBRARY + GROUP_LIBRARY + source(name)

    assert "server.call" not in text
    assert not re.search(r"\b(cmsgpack|cjson|struct|bit)\.", text), "not everywhere in Lua, and no payload is decoded"
    assert not re.search(r"'(KEYS|SCAN|HSCAN|EVAL)'", text)
    assert not re.search(r"^(?!local)\w+ = ", source(name), re.MULTILINE) or name in ("claim",)


LOOKS = {"peek", "inspect", "stats", "group_show"}
READS = {
    "EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HLEN", "HMGET", "LLEN", "LPOS", "LRANGE", "TIME", "ZCARD",
    "ZRANGE", "ZSCORE",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LOOKS))
def test_a_script_that_only_looks_writes_nothing(name: str) -> None:
    """So that who may only look can be kept from writing by the server."""
    text = scripts.load(name).text.decode()

    assert set(re.findall(r"'([A-Z]{3,})'", text)) - {"WITHSCORES", "MAXLEN"} <= READS


@pytest.mark.parametrize("name", sorted(set(NAMES) - LOOKS - {"submit", "beat", "enlist", "group_open", "group_join"}))
def test_a_script_begins_with_a_write_that_a_full_server_lets_pass(name: str) -> None:
    """But for a claim, which first looks whether it has anything to put in order, and else begins by taking a task."""
    text = source(name).replace("call('EXISTS',", "", 1) if name == "claim" else source(name)
    first_call = re.search(r"\b(begin|make_way|call|many|fetch)\(", text)

    assert first_call is not None
    assert first_call[1] in ("begin", "make_way")


def test_no_script_has_the_name_of_another_or_the_same_text() -> None:
    shas = [scripts.load(name).sha for name in NAMES]

    assert len(set(shas)) == len(NAMES)


def test_arguments_are_put_into_the_order_of_the_header() -> None:
    script = scripts.load("enlist")

    assert script.arguments(member="w", forget_ms=5, now_ms="") == ["", "w", 5]


def test_a_missing_or_unknown_argument_is_refused_before_anything_is_sent() -> None:
    script = scripts.load("enlist")

    with pytest.raises(TypeError, match="script enlist: missing argument forget_ms"):
        script.arguments(member="w", now_ms="")
    with pytest.raises(TypeError, match="script enlist: unknown argument colour"):
        script.arguments(member="w", now_ms="", forget_ms=5, colour="red")
    with pytest.raises(TypeError, match="script enlist: takes no variadic arguments"):
        script.arguments(["x"], member="w", now_ms="", forget_ms=5)


def test_all_keys_of_a_queue_share_one_hash_tag() -> None:
    mail = Keyspace("ns").queue("mail")

    for name in NAMES:
        script = scripts.load(name)
        if name not in ("beat", "enlist") and not name.startswith("group_"):
            assert all(key.startswith(b"qw:{ns.mail}:") for key in (*mail.of(script.keys, Line()), mail.result("a")))


def test_the_name_that_a_header_gives_to_a_key_is_the_key() -> None:
    found = Keyspace("ns").queue("mail").of(("bodies", "lines", "bells"))

    assert found[0] == b"qw:{ns.mail}:bodies"
    assert found[1] == b"qw:{ns.mail}:ready:default:high"
    assert found[12] == b"qw:{ns.mail}:ready:async:low"
    assert found[13:] == tuple(f"qw:{{ns.mail}}:bell:{pool}".encode() for pool in POOL_NEEDS)


def test_a_script_of_one_line_gets_the_list_and_the_bell_of_that_line() -> None:
    found = Keyspace("ns").queue("mail").of(("line", "bell"), Line("thread", "high"))

    assert found == (b"qw:{ns.mail}:ready:thread:high", b"qw:{ns.mail}:bell:thread")


def test_a_script_is_sent_with_what_it_uses_of_the_library_and_no_more() -> None:
    text = scripts.load("submit").text.decode()

    for used in ("clock", "fetch", "many", "ring", "fresh", "text_of", "int"):
        assert f"local function {used}(" in text
    for unused in ("rescue", "parse", "finish", "ring_all"):
        assert f"local function {unused}(" not in text


def test_what_only_a_block_uses_of_the_library_is_made_where_that_block_runs() -> None:
    text = scripts.load("claim").text.decode()

    begins = text.index("if not quiet then")
    assert text.index("local function read_meta(") < begins < text.index("local function rescue(")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_keys_and_arguments_are_places_in_the_text_that_is_sent(name: str) -> None:
    text = re.sub(r"--.*", "", scripts.load(name).text.decode())

    assert not re.search(r"\b([KA]\.\w+|LINES|BELLS|RESULTS|REST)\b", text)


@pytest.mark.valkey
def test_no_script_uses_a_command_that_redis_6_2_lacks(valkey_server: Server) -> None:
    """As the server itself tells since when it has them."""
    text = "".join([LIBRARY, GROUP_LIBRARY, *map(source, NAMES)])
    used = set(re.findall(r"(?:call|many)\('([A-Z]+)'", text))
    assert {"ZPOPMIN", "PUBSUB"} <= used
    with redis.Redis.from_url(valkey_server.url, protocol=2, decode_responses=True) as client:
        docs = client.execute_command("COMMAND DOCS", *sorted(used))

    since = {name: _pairs(about)["since"] for name, about in _pairs(docs).items()}

    assert len(since) == len(used)
    assert {name: at for name, at in since.items() if tuple(map(int, at.split("."))) >= (6, 3)} == {}


def _pairs(reply: Any) -> dict[str, Any]:
    return reply if isinstance(reply, dict) else dict(zip(reply[0::2], reply[1::2], strict=True))
