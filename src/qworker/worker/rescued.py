"""Which tasks were rescued, for a line of the log: few enough to be read, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 20


def named(names: Sequence[tuple[str, str]], count: int) -> dict[str, str]:
    """Return the fields that name tasks, of which `count` were rescued, and the claims that held them.

    Each name is a claim and a task.
    """
    shown = names[:MOST]
    more = f" and {count - len(shown)} more" if count > len(shown) else ""
    claims = dict.fromkeys(claim for claim, _ in shown)
    return {"claims": ",".join(claims), "tasks": ",".join(task for _, task in shown) + more}
