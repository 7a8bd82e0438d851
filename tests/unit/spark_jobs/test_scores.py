import itertools
import math

import numpy as np
import pytest

from spark_jobs.calibration import calibration
from spark_jobs.latency import LEAST, MOST, measure
from spark_jobs.samples import MISTAKES, Samples
from spark_jobs.schedule import rate_factor
from spark_jobs.scores import UNKNOWN, Answers, answers, class_images, confusion, pairs, score

PROBABILITIES = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.6, 0.4, 0], [0.0, 0.3, 0.7]], dtype=np.float32)
LABELS = np.array([0, 1, 1, 2])


CLASSES = ["a", "b", "c"]


def scored(probabilities, labels, known=CLASSES, classes=CLASSES):
    return score(answers(probabilities, labels, known, classes), classes)


def test_scores():
    scores = scored(PROBABILITIES, LABELS)
    assert scores.accuracy == 0.75
    assert scores.per_class == {"a": 1.0, "b": 0.5, "c": 1.0}
    assert scores.loss == pytest.approx(-sum(map(math.log, (0.9, 0.8, 0.4, 0.7))) / 4, rel=1e-5)


def test_classes_are_counted_those_without_images_as_well():
    given = answers(PROBABILITIES, LABELS, CLASSES, CLASSES)
    assert confusion(given, 3).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert class_images(given, [*CLASSES, "d"]) == {"a": 1, "b": 2, "c": 1, "d": 0}


def test_a_model_of_other_classes_is_scored_by_their_names():
    # Its columns mean b, a and z: z is none of the data set's, and c it does not know.
    given = answers(PROBABILITIES, LABELS, ["b", "a", "z"], CLASSES)
    assert given.predicted.tolist() == [1, 0, 1, UNKNOWN]
    assert given.of_label.tolist() == pytest.approx([0.1, 0.2, 0.6, 0.0])
    assert given.right.tolist() == [False, False, True, False]
    assert math.isfinite(score(given, CLASSES).loss)


def test_batches_join_to_the_whole():
    whole = answers(PROBABILITIES, LABELS, CLASSES, CLASSES)
    parts = [answers(PROBABILITIES[part], LABELS[part], CLASSES, CLASSES) for part in (slice(0, 1), slice(1, 4))]
    assert score(Answers.joined(parts), CLASSES) == score(whole, CLASSES)


def test_pairs_count_who_was_right():
    challenger = answers(PROBABILITIES, np.array([0, 1, 1, 0]), CLASSES, CLASSES)
    champion = answers(PROBABILITIES[[0, 0, 1, 1]], np.array([0, 1, 1, 0]), CLASSES, CLASSES)
    assert pairs(challenger, champion) == {
        "both_right": 1, "only_challenger_right": 1, "only_champion_right": 1, "both_wrong": 1
    }  # fmt: skip


def test_certain_mistakes_stay_finite():
    assert math.isfinite(scored(np.array([[1.0, 0.0]], dtype=np.float32), np.array([1]), ["a", "b"], ["a", "b"]).loss)


def test_calibration_is_the_distance_of_confidence_and_accuracy():
    sure = np.tile(np.array([[0.95, 0.05]], dtype=np.float32), (100, 1))
    honest = answers(sure, np.array([0] * 95 + [1] * 5), ["a", "b"], ["a", "b"])
    boastful = answers(sure, np.array([0] * 50 + [1] * 50), ["a", "b"], ["a", "b"])
    assert calibration(honest).error == pytest.approx(0, abs=1e-6)
    assert calibration(boastful).error == pytest.approx(0.45, abs=1e-6)
    certain = calibration(answers(np.array([[1.0, 0.0]], np.float32), np.array([1]), ["a", "b"], ["a", "b"]))
    assert (certain.images.tolist()[-1], certain.error) == (1, 1.0)


def test_the_surest_mistakes_and_varied_images_are_kept():
    samples = Samples()
    for start in range(0, 40, 10):
        sure = np.linspace(0.6, 0.99, 40)[start : start + 10]
        given = answers(
            np.stack([sure, 1 - sure], axis=1).astype(np.float32),
            np.array([1] * 9 + [0]), ["a", "b"], ["a", "b"],
        )  # fmt: skip
        samples.add(np.full((10, 4, 4, 1), start, np.uint8), given)
    assert len(samples.mistakes) == MISTAKES
    confidences = [mistake.confidence for mistake in samples.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert (samples.mistakes[0].label, samples.mistakes[0].predicted) == (1, 0)
    assert samples.mistakes[0].confidence == pytest.approx(0.98, abs=1e-3)
    assert samples.mistakes[0].pixels[0, 0, 0] == 30
    assert samples.mistakes[0].pixels.base is None  # not the batch that it was cut from
    assert [label for _, label in samples.varied] == [1, 0] * 4


def test_latency_is_measured_within_its_time():
    now = itertools.count()
    found = measure(lambda: None, seconds=10, clock=lambda: next(now) * 0.01)
    assert found.p50 == pytest.approx(10.0)
    assert LEAST <= found.repetitions < MOST
    assert measure(lambda: None, seconds=0, clock=lambda: next(now) * 0.01).repetitions == LEAST


def test_the_rate_warms_up_and_falls():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert max(factors) == 1.0
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[0] <= 0.1
    assert factors[-1] < 0.001
    assert all(rate_factor(0, steps) > 0 for steps in (1, 2, 3))
