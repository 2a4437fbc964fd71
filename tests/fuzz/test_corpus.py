"""Every input that was kept is read again: in no time, in little memory, and without surprise."""

from __future__ import annotations

import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz import corpus, grammar
from tests.fuzz.__main__ import NAMES
from tests.fuzz.targets import TARGETS

LONGEST_S = 1.0  # of processor time; most take less than a millisecond
MOST_KB = 100 * 1024


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_was_kept_is_read_or_refused(target: str) -> None:
    inputs = corpus.of(target)
    assert inputs
    for data in inputs:
        began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        TARGETS[target](data)

        assert time.process_time() - began < LONGEST_S, data[:100]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KB, data[:100]


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_nearly_that_is_read_or_refused(target: str) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(grammar.inputs(corpus.of(target), target))
    def check(data: bytes) -> None:
        TARGETS[target](data)

    check()


def test_the_corpus_is_small_and_has_nothing_twice() -> None:
    files = [file for file in corpus.CORPUS.rglob("*") if file.is_file()]

    assert {file.parent.name for file in files} == set(TARGETS)
    assert tuple(TARGETS) == NAMES, "the runner knows them before it imports what it instruments"
    assert sum(file.stat().st_size for file in files) < 1024 * 1024
    for target in TARGETS:
        inputs = corpus.of(target)
        assert len(inputs) == len(set(inputs)), target
