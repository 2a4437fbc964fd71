"""The text of a stack: what faulthandler and looks.py wrote of one thread, and the task's part of it. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

# characters
STACK_MAX: Final = 8 * 1024
_HEAD: Final = b"Stack (most recent call first):\n"
_DEEPER: Final = "  ..."  # faulthandler's word for the frames beyond a hundred
# faulthandler's word for the frames beyond a hundred
# The outermost frame of a slot's thread and of a child's main thread: with it a dump is whole.
_OUTERMOST: Final = (" in _bootstrap", " in _run_module_as_main")
# Below the task's code there are these modules of this package, and what they call to get to it.
_OURS: Final = re.compile(
    r'  File ".*[/\\]qworker[/\\]pool[/\\]'
    r'(?:(?:child|coroutines|loop|slots|threads)\.py", line |interrupts\.py", line \d+ in interruptible)'
)
_LOOKS: Final = re.compile(r'  File ".*[/\\]qworker[/\\]pool[/\\]looks\.py", line ')
_SLOT: Final = re.compile(r" in slot_(\d+)$")  # threads.py calls it so


class Dump(NamedTuple):
    """What faulthandler wrote of one thread."""

    stack: str  # the task's part, innermost frame first
    whole: bool  # all has come
    slot: int | None  # whose thread wrote it; None: it does not say


def read_dump(text: bytes | bytearray) -> Dump:
    """Read the last dump in `text`. It is cut at qworker's own frames below the task, and at 8 KiB.

    A line that has not come whole is left out.
    """
    _, head, dump = text.rpartition(_HEAD)
    lines = dump.decode("utf-8", "backslashreplace").split("\n")[:-1] if head else []
    stack, slot = task_part(lines)
    whole = bool(lines) and dump.endswith(b"\n") and (lines[-1] == _DEEPER or lines[-1].endswith(_OUTERMOST))
    return Dump(stack, whole, slot)


def task_part(lines: list[str]) -> tuple[str, int | None]:
    """Return the task's part of a stack, and the slot whose thread it is of."""
    kept: list[str] = []
    size = 0
    slot: int | None = None
    cut = False
    for line in lines:
        if _LOOKS.match(line):
            kept.clear()  # it was answering an earlier ask
            size = 0
        elif _OURS.match(line):
            cut = True
            if (found := _SLOT.search(line)) is not None:
                slot = int(found[1])
        elif not cut:
            size += len(line) + 1
            cut = line == _DEEPER or size > STACK_MAX - len(_DEEPER)
            kept.append(_DEEPER if cut else line)
    return "\n".join(kept), slot
