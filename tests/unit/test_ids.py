"""Ids and names: what they look like, and how a wrong one is refused."""

from __future__ import annotations

import random
import time

import pytest

from qworker import ids
from qworker.errors import ConfigError


def test_new_ids_are_ulids_of_now_and_all_different():
    before = time.time_ns() // 1_000_000
    made = [ids.new_local_id() for _ in range(5000)]
    after = time.time_ns() // 1_000_000

    assert len(set(made)) == 5000
    for local in made:
        assert ids.check_local(local) == local
        assert len(local) == 26
        number = 0
        for letter in local:
            number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(letter)
        assert before <= number >> 80 <= after


def test_ids_sort_by_the_millisecond_in_which_they_were_made(monkeypatch):
    made = []
    for now in (1.0, 1.5, 1_790_000_000.0, 9_999_999_999.0):
        monkeypatch.setattr(ids.time, "time", lambda now=now: now)
        made.append(ids.new_local_id())

    assert made == sorted(made)


def test_a_users_seed_does_not_make_ids_twice():
    random.seed(0)
    first = ids.new_local_id(), ids.new_token()
    random.seed(0)

    assert (ids.new_local_id(), ids.new_token()) != first


def test_tokens_are_twelve_characters_of_base32():
    made = [ids.new_token() for _ in range(2000)]

    assert len(set(made)) == 2000
    assert all(len(token) == 12 for token in made)
    assert set("".join(made)) == set("abcdefghijklmnopqrstuvwxyz234567")


def test_a_full_id_is_its_queue_and_its_local_part():
    assert ids.join_id("mail.out", "2026-01-01@a=b+c") == "mail.out:2026-01-01@a=b+c"
    assert ids.split_id("mail.out:2026-01-01@a=b+c") == ("mail.out", "2026-01-01@a=b+c")


@pytest.mark.parametrize("full", ["", "x", ":", "q:", ":x", "Q:x", "q:a b", "q:a:b", "q:" + "x" * 65, "q\n:x", "q:x\n"])
def test_what_is_no_task_id_is_refused(full):
    with pytest.raises(ConfigError, match=r"is not a task id: expected queue:local, such as default:01JC2M6Q"):
        ids.split_id(full)


@pytest.mark.parametrize("local", ["", "a b", "a:b", "ü", "x" * 65, "a\n", None, 7])
def test_a_local_id_that_cannot_be_one_is_refused(local):
    with pytest.raises(ConfigError, match=r"an id has 1 to 64 characters out of A-Z a-z 0-9 _ . = @ \+ -"):
        ids.check_local(local)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", ".a", "a:b", "x" * 49, "a\n", "a{b}", None, "\x1b[31m"])
def test_a_name_that_cannot_be_one_is_refused_and_shown_escaped(name):
    with pytest.raises(
        ConfigError, match=r"^queue .*: a queue has 1 to 48 characters out of a-z 0-9 _ . - and begins"
    ) as e:
        ids.check_queue(name)
    with pytest.raises(ConfigError, match=r"^namespace .*: a namespace has 1 to 48 characters"):
        ids.check_namespace(name)

    assert str(e.value).isprintable()


def test_good_names_pass():
    assert ids.check_queue("a") == "a"
    assert ids.check_namespace("0-shop_eu-v2") == "0-shop_eu-v2"
    with pytest.raises(ConfigError, match=r"namespace 'shop\.eu': a namespace has no dot; try shop-eu"):
        ids.check_namespace("shop.eu")


@pytest.mark.parametrize("group", ["", "g", "g-a b", "x-1", "g-\udcff", "g-\x1b[31m", "g-1\n", "q:1", "g-" + "x" * 63])
def test_what_is_no_id_of_a_group_is_refused_and_shown_escaped(group):
    with pytest.raises(ConfigError, match=r"is not the id of a group: expected g-…, such as g-01JC2M6Q") as e:
        ids.check_group(group)

    assert str(e.value).isprintable()
    assert ids.check_group(f"g-{ids.new_local_id()}").startswith("g-")
