"""The end of a child that cannot go on."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final, NoReturn

BROKEN: Final = 70  # its exit status: a fault of ours, no memory left, or an exception where none may come


def end() -> NoReturn:
    """End this process at once, and tell the exception that is being handled, if that can be done.

    To tell it may fail: the disk of its log is full, or the reader gone. A child that went on after all would hold its
    orders for ever, or write on behind half a frame.
    """
    try:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(BROKEN)
