import math

import numpy as np
import pytest

from spark_jobs.schedule import rate_factor
from spark_jobs.scores import confusion, in_classes, score

PROBABILITIES = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.0, 0.3, 0.7]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 2])


def test_scores():
    scores = score(PROBABILITIES, LABELS, ["a", "b", "c"])
    assert scores.accuracy == 0.75
    assert scores.per_class == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert scores.loss == pytest.approx(-sum(map(math.log, (0.9, 0.8, 0.4, 0.7))) / 4, rel=1e-5)


def test_confusion_counts_true_by_predicted():
    assert confusion(PROBABILITIES, LABELS, 3).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_other_classes_are_mapped_by_name():
    mapped = in_classes(PROBABILITIES, ["b", "a", "z"], ["a", "b", "c"])
    assert mapped[0].tolist() == pytest.approx([0.1, 0.9, 0.0])
    assert score(mapped, LABELS, ["a", "b", "c"]).loss > 1


def test_certain_mistakes_stay_finite():
    assert math.isfinite(score(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]), ["a", "b"]).loss)


def test_the_rate_warms_up_and_falls():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert max(factors) == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[0] <= 0.1
    assert factors[-1] < 0.001
    assert all(rate_factor(0, steps) > 0 for steps in (1, 2, 3))
