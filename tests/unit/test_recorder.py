"""What faulthandler writes, cut down to the task's own part; and how little is kept."""

from __future__ import annotations

import pytest

from qworker.pool.recorder import Recorder
from qworker.pool.stack_text import read_dump

HEAD = b"Stack (most recent call first):\n"
TASK = b'  File "/app/tasks.py", line 7 in work\n'
OURS = (
    b'  File "/lib/qworker/pool/slots.py", line 88 in _call\n'
    b'  File "/lib/qworker/pool/slots.py", line 60 in _attempt\n'
    b'  File "/lib/qworker/pool/threads.py", line 70 in slot_12\n'
    b'  File "/lib/python3.12/threading.py", line 1002 in _bootstrap\n'
)


def test_the_frames_below_the_task_are_dropped():
    assert read_dump(HEAD + TASK + OURS) == ('  File "/app/tasks.py", line 7 in work', True, 12)
    interruptible = b'  File "/lib/qworker/pool/interrupts.py", line 48 in interruptible\n'
    assert read_dump(HEAD + TASK + interruptible + OURS) == ('  File "/app/tasks.py", line 7 in work', True, 12)


def test_a_look_that_came_in_the_middle_of_another_does_not_show_it():
    answer = (
        b'  File "/q/qworker/pool/page.py", line 9 in take_looks\n  File "/q/qworker/pool/looks.py", line 9 in answer\n'
    )

    assert read_dump(HEAD + answer + TASK + OURS) == ('  File "/app/tasks.py", line 7 in work', True, 12)


def test_what_the_task_itself_calls_of_qworker_stays():
    inner = b'  File "/lib/qworker/context.py", line 9 in sleep\n  File "/lib/qworker/pool/page.py", line 3 in wait\n'

    stack, whole, _ = read_dump(HEAD + inner + TASK + OURS)

    assert stack.encode() + b"\n" == inner + TASK
    assert whole


@pytest.mark.parametrize("text", [b"", HEAD[:9], HEAD, HEAD + TASK[:12], OURS])
def test_a_stack_of_which_no_frame_has_come_is_empty(text):
    assert read_dump(text) == ("", False, None)


def test_a_stack_is_whole_with_its_outermost_frame_and_not_before():
    """What is written after that would be taken for the next one."""
    dump = HEAD + TASK + OURS
    for end in range(len(HEAD + TASK), len(dump)):
        assert read_dump(dump[:end])[:2] == ('  File "/app/tasks.py", line 7 in work', False)


def test_a_stack_that_faulthandler_cut_short_ends_there():
    stack, whole, _ = read_dump(HEAD + TASK * 100 + b"  ...\n")

    assert whole
    assert stack.split("\n")[-1] == "  ..."


def test_a_long_stack_keeps_its_innermost_8_kib():
    long = b'  File "/app/%s.py", line 7 in work\n' % (b"x" * 400)

    stack, whole, _ = read_dump(HEAD + TASK + long * 60 + OURS)

    assert whole
    assert len(stack) <= 8192
    assert stack.startswith('  File "/app/tasks.py"')
    assert stack.endswith("\n  ...")


def test_the_last_of_two_stacks_counts():
    """One that came too late for its attempt may stand before it."""
    other = TASK.replace(b"work", b"other")

    assert read_dump(HEAD + other + OURS + HEAD + TASK + OURS) == ('  File "/app/tasks.py", line 7 in work', True, 12)


def test_any_bytes_can_be_read():
    stack, whole, _ = read_dump(HEAD + b"  File \xff\xfe\x00\n" + OURS)

    assert (stack, whole) == ("  File \\xff\\xfe\x00", True)


def test_of_the_lines_of_an_attempt_the_last_ten_are_kept_until_it_ends():
    recorder = Recorder()
    for index in range(30):
        recorder.line(7, f"{index} " + "x" * 1000)

    [lines] = recorder._lines.values()
    assert [line.split()[0] for line in lines] == [str(index) for index in range(20, 30)]
    assert max(map(len, lines)) == 300
    assert recorder.gone(7) == ()
    assert len(recorder) == 0
