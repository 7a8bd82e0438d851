"""When a rollout looks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_lifecycle.kserve.triggers import next_look

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?", fullmatch=True)


@given(NAMES, st.floats(1.7e9, 1.9e9), st.sampled_from([0.1, 5.0, 60.0, 3600.0]))
def test_the_next_look_is_soon_and_the_later_ones_evenly_spaced(service, begun, seconds):
    due = next_look(service, begun, seconds)
    assert begun + 0.49 * seconds <= due <= begun + 1.51 * seconds
    assert next_look(service, due, seconds) == pytest.approx(due + seconds, abs=1e-3)
    # Waking a little early or late changes no later look.
    assert next_look(service, due + 0.4 * seconds, seconds) == pytest.approx(due + seconds, abs=1e-3)
    assert next_look(service, due - 0.4 * seconds, seconds) == pytest.approx(due + seconds, abs=1e-3)


def test_many_rollouts_that_begin_together_do_not_look_together():
    due = sorted(next_look(f"model-{index:03d}", 1.8e9, 60.0) for index in range(200))
    at_once = max(sum(start <= each < start + 1 for each in due) for start in due)
    assert at_once <= 15


def test_without_a_look_before_it_looks_at_once():
    assert next_look("digits", 0.0, 60.0) < 120
