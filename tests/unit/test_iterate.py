"""`current.iterate`: what is saved, when, and where the next attempt goes on."""

from __future__ import annotations

import pytest

from qworker import codec, context
from qworker.context import Nowhere, Run
from qworker.current_task import current
from qworker.errors import CursorLost, NotEncodable, TaskInterrupt


class SavingSlot(Nowhere):
    """A slot that remembers what was saved, and can ask."""

    def __init__(self) -> None:
        self.saved: list[object] = []
        self.is_asked = False

    def asked(self) -> bool:
        return self.is_asked

    def reason(self) -> str:
        return "drain"

    def save(self, cursor: bytes) -> None:
        self.saved.append(codec.unpack_value(cursor))


class Attempts:
    """Attempts at one task: what one saves is the cursor of the next."""

    def __init__(self) -> None:
        self.cursor: bytes | None = None
        self.slot = SavingSlot()

    def run(self, body):
        """Run one attempt; returns what `body` returns."""
        self.slot = SavingSlot()
        run = Run("default:1", "t", run=1, attempt=1, fence=1, retries=0, slot=self.slot, cursor=self.cursor)
        token = context.enter(run)
        try:
            return body()
        finally:
            context.leave(token)
            if self.slot.saved:
                self.cursor = codec.pack_value(self.slot.saved[-1])


@pytest.fixture(autouse=True)
def _plain_process(monkeypatch):
    """Each test begins as in a process that is no child."""
    monkeypatch.setattr(context, "_in_child", False)


@pytest.fixture
def attempts():
    return Attempts()


def up_to(items, last, *, key=None, done):
    """Go through items and fail in the middle of `last`."""

    def body():
        for item in current.iterate(items, key=key):
            if item == last:
                raise RuntimeError("in the middle of it")
            done.append(item)

    return body


def test_a_plain_call_goes_through_all_items():
    assert list(current.iterate(iter("abc"), key=str.upper)) == ["a", "b", "c"]


def test_the_next_attempt_goes_on_after_the_last_completed_item(attempts):
    done: list[int] = []
    with pytest.raises(RuntimeError):
        attempts.run(up_to(range(10, 20), 14, done=done))
    assert attempts.slot.saved[-1] == [0, 3], "the fifth was not completed"

    attempts.run(up_to(range(10, 20), None, done=done))

    assert done == list(range(10, 20))


def test_a_key_finds_the_place_although_items_before_it_have_gone(attempts):
    done: list[str] = []
    with pytest.raises(RuntimeError):
        attempts.run(up_to(["a", "b", "c", "d"], "c", key=lambda item: (item, 1), done=done))

    attempts.run(up_to(["b", "c", "d"], None, key=lambda item: (item, 1), done=done))

    assert done == ["a", "b", "c", "d"]


def test_a_key_that_is_not_there_any_more_is_said(attempts):
    with pytest.raises(RuntimeError):
        attempts.run(up_to(["a", "b", "c"], "c", key=str, done=[]))

    with pytest.raises(CursorLost) as caught:
        attempts.run(up_to(["a", "c"], None, key=str, done=[]))

    assert str(caught.value) == (
        "cannot go on with `current.iterate` in task default:1: an earlier attempt had completed the item 'b', and it "
        "is not among the items any more. Give items in the same order each time, with key= a function whose value "
        "stays the same, or submit the task anew"
    )


def test_items_that_became_fewer_than_were_done_are_lost_too(attempts):
    with pytest.raises(RuntimeError):
        attempts.run(up_to(range(5), 4, done=[]))

    with pytest.raises(CursorLost, match="the item 3"):
        attempts.run(up_to(range(2), None, done=[]))


def test_a_loop_that_was_gone_through_is_not_begun_again(attempts):
    def body():
        return list(current.iterate("abc"))

    assert attempts.run(body) == ["a", "b", "c"]
    assert attempts.run(body) == []


def test_saving_is_seldom_and_never_left_out_at_the_end(attempts, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("qworker.iterate.time.monotonic", lambda: now[0])

    def body():
        for _ in current.iterate(range(100)):
            now[0] += 0.011

    attempts.run(body)

    assert attempts.slot.saved == [*([0, index] for index in range(0, 100, 5)), [0, 99]]


@pytest.mark.parametrize("leave", ["break", "raise", "return"])
def test_whoever_leaves_the_loop_saves_what_was_completed(attempts, leave):
    def body():
        for item in current.iterate(range(100)):
            if item == 7:
                if leave == "raise":
                    raise RuntimeError
                if leave == "return":
                    return
                break

    try:
        attempts.run(body)
    except RuntimeError:
        pass

    assert attempts.slot.saved == [[0, 0], [0, 6]]


def test_it_is_a_checkpoint_before_each_item(attempts):
    done = []

    def body():
        for item in current.iterate(range(5)):
            done.append(item)
            attempts.slot.is_asked = item == 2

    with pytest.raises(TaskInterrupt, match="drain"):
        attempts.run(body)

    assert done == [0, 1, 2]
    assert attempts.slot.saved[-1] == [0, 2], "the item during which it was asked was completed"


def test_who_is_asked_during_the_last_item_just_ends(attempts):
    def body():
        for item in current.iterate(range(3)):
            attempts.slot.is_asked = item == 2
        return "all"

    assert attempts.run(body) == "all"


def test_loops_one_after_the_other_are_one_way(attempts):
    done: list[str] = []

    def body(fail):
        done.extend(current.iterate("abc"))
        for item in current.iterate("xyz"):
            if item == fail:
                raise RuntimeError
            done.append(item)

    with pytest.raises(RuntimeError):
        attempts.run(lambda: body("y"))
    attempts.run(lambda: body(None))

    assert "".join(done) == "abcxyz"


def test_loops_inside_of_each_other_are_refused(attempts):
    def body():
        for _ in current.iterate("ab"):
            for _ in current.iterate("xy"):
                pass

    with pytest.raises(RuntimeError) as caught:
        attempts.run(body)

    assert str(caught.value) == (
        "cannot begin `current.iterate` in task default:1: another one is not over, and a task has one cursor. Go "
        "through the inner items with a plain loop"
    )


def test_a_key_that_cannot_be_sent_is_refused_with_the_first_item(attempts):
    with pytest.raises(NotEncodable) as caught:
        attempts.run(up_to("ab", None, key=lambda _: object(), done=[]))

    text = "cannot save where `current.iterate` is in task default:1: the key of an item cannot be sent: "
    assert str(caught.value).startswith(text)


def test_a_key_that_is_too_large_is_refused(attempts):
    with pytest.raises(NotEncodable, match=r"takes 5,005 bytes, at most 4,096 are kept\. Let key= return a number"):
        attempts.run(up_to("ab", None, key=lambda _: "k" * 5_000, done=[]))


def test_a_cursor_that_cannot_be_read_is_said(attempts):
    attempts.cursor = b"\xc1"

    with pytest.raises(CursorLost, match="the cursor that was kept cannot be read"):
        attempts.run(lambda: list(current.iterate("ab")))


def test_what_was_completed_is_saved_although_somebody_keeps_the_loop(attempts):
    kept = []

    def body():
        kept.append(current.iterate(range(10)))
        for item in kept[0]:
            if item == 7:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        attempts.run(body)

    assert attempts.slot.saved[-1] == [0, 6]
