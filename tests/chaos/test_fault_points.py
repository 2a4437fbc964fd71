"""Every fault point, killed and cut: a small run each, judged clean by what the tasks wrote. `make points` runs all."""

from __future__ import annotations

import pytest

from support.history import points

pytestmark = pytest.mark.timeout(150)  # some seconds each, and much more on a machine that does other things


@pytest.mark.parametrize("case", points.QUICK, ids=lambda case: "-".join(point for point in case.points))
def test_a_fault_at_a_point_ends_in_a_clean_history(case, tmp_path):
    verdict = points.run(case, tmp_path / "run")

    assert not verdict.text, verdict.text
