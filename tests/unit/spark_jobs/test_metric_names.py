import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from spark_jobs.evaluation_log import evaluation_metrics
from spark_jobs.metric_names import class_metrics

PREFIX = "holdout_accuracy_class_"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300), unique=True, max_size=8))
@example(["a&b", "a+b", "a_b", "Cat", "cat", "x" * 240, "x" * 241, "кот" * 80, ".", "..", "a/b", "e\u0301", "é"])
def test_every_class_has_a_metric_of_its_own_that_mlflow_takes(classes):
    names = class_metrics(PREFIX, classes)
    assert set(names) == set(classes)
    assert len({name.casefold() for name in names.values()}) == len(classes)
    for name in names.values():
        _validate_metric_name(name)
        assert len(name.encode()) <= 250


def test_names_are_kept_where_no_other_class_comes_close():
    names = class_metrics("p_", ["cat", "собака 1", "_background", "a/b (c)", "Dog", "dog"])
    assert names["cat"] == "p_cat"
    assert names["собака 1"] == "p_собака 1"
    assert names["_background"] == "p__background"
    assert names["a/b (c)"] == "p_a_b _c_"
    assert names["dog"].startswith("p_dog-")


def test_an_evaluation_has_the_metrics_of_all_its_classes():
    latency = {"p50": 1.0, "p95": 2.0}
    result = {
        "holdout_images": 3, "onnx_difference": 0.0, "accuracy": 1.0, "loss": 0.1, "calibration_error": 0.0,
        "latency_ms": latency, "model_bytes": 1, "champion": None, "per_class": {"a&b": 0.5, "a+b": 1.0},
        "per_class_images": {"a&b": 1, "a+b": 2, "c": 0},
    }  # fmt: skip
    metrics = evaluation_metrics(result)
    accuracies = [value for key, value in metrics.items() if key.startswith(PREFIX)]
    assert accuracies == [0.5, 1.0]
    assert metrics["holdout_images_class_c"] == pytest.approx(0)
