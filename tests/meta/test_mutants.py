"""The maker of mutants, and that what is said of a mutant still is about one."""

from __future__ import annotations

from tests.mutation.__main__ import LUA, SAMPLE, explained, make, names, sample
from tests.mutation.mutants import DELETED, mutants


def test_a_line_is_deleted_and_each_of_its_words_is_changed() -> None:
    text = "if a == 1 and #b < 2 then call('SET', '1 < 2') end -- not 3"

    made = [mutant.becomes for mutant in mutants("x", text, lambda _: True)]

    assert made == [
        DELETED,
        "if a ~= 1 and #b < 2 then call('SET', '1 < 2') end -- not 3",
        "if a == 2 and #b < 2 then call('SET', '1 < 2') end -- not 3",
        "if a == 1 or #b < 2 then call('SET', '1 < 2') end -- not 3",
        "if a == 1 and #b <= 2 then call('SET', '1 < 2') end -- not 3",
        "if a == 1 and #b < 3 then call('SET', '1 < 2') end -- not 3",
        "if a == 1 and #b < 2 then  end -- not 3",
    ]


def test_a_bare_condition_is_turned_round_and_equal_lines_are_told_apart() -> None:
    made = list(mutants("x", "if ok then\nend\nif ok then\nend", lambda _: True))

    assert [(each.becomes, each.nth) for each in made if each.becomes != DELETED] == [
        ("if not (ok) then", 1),
        ("if not (ok) then", 2),
    ]


def test_what_is_no_lua_is_no_mutant() -> None:
    assert list(mutants("x", "local a = 1", lambda text: "1" in text)) == []


def test_every_script_has_mutants_and_each_has_a_name_of_its_own() -> None:
    for script in names():
        made = [each.name for each in make(script)]
        assert made
        assert len(made) == len(set(made))
        assert all(each.text != (LUA / f"{script}.lua").read_text("utf-8") for each in make(script))


def test_what_is_explained_has_a_reason() -> None:
    assert all(len(why) > 20 for why in explained().values())


def test_what_is_explained_is_a_mutant_of_the_scripts_as_they_are() -> None:
    of_today = {each.name for script in names() for each in make(script)}

    assert sorted(set(explained()) - of_today) == [], "lines have changed: try them again, explain those that survive"


def test_a_sample_is_drawn_by_a_word() -> None:
    made = [each for script in ("claim", "renew", "stop") for each in make(script)]

    one, again, other = (sample(made, word) for word in ("a1b2c3", "a1b2c3", "d4e5f6"))

    assert one == again != other
    assert len(one) == len(set(one)) == SAMPLE
    assert {each.script for each in one} == {"claim", "renew", "stop"}
