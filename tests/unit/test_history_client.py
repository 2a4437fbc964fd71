from __future__ import annotations

from qworker.lifecycle import How, State
from qworker.model import Outcome
from support.history.client import ended_of


def test_a_value_that_no_code_can_have_made_is_kept_for_the_judge() -> None:
    end = ended_of(Outcome("q:a", State.SUCCEEDED, How.RETURNED, value=b"\xa5a\x97.b"), 1.0)

    assert end.value is not None
    assert end.value.startswith("cannot decode 5 bytes")
    assert end.fence is None
