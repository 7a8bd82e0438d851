import json

import pytest

from spark_jobs.exceptions import SpecificationError
from spark_jobs.specification import Champion, EvaluateSpecification, TrainSpecification, dump, parse

TRAIN = {
    "prepared_uri": "file:///p", "checkpoint_uri": "file:///c", "tracking_uri": "http://m", "run_id": "r", "epochs": 5,
    "fraction": 1, "batch_size": 64, "learning_rate": 0.01, "processes": 2, "width": 16, "seed": 0, "gpu": False,
    "image_size": 32, "channels": 3, "result_uri": "file:///r", "secret_id": None,
    "accumulation": 1, "weight_decay": 0.05, "label_smoothing": 0.0, "class_weights": "none",
    "flip": False, "shift": 0.0, "validation": 0.0, "patience": None, "loader_workers": None, "depth": 1,
    "initial_state": None, "precision": "auto", "checkpoint_minutes": 10.0,
}  # fmt: skip
EVALUATE = {
    "model": "digits", "prepared_uri": "file:///p", "state_uri": "file:///s", "tracking_uri": "http://m", "run_id": "r",
    "champion": {"version": "1", "storage_uri": "file:///m"}, "batch_size": 64, "image_size": 32,
    "channels": 3, "result_uri": "file:///r", "secret_id": "secret",
}  # fmt: skip


def test_it_survives_a_round_trip():
    specification = parse(TrainSpecification, json.dumps(TRAIN))
    assert specification.fraction == 1.0
    assert parse(TrainSpecification, dump(specification)) == specification


def test_nested_and_absent_values():
    assert parse(EvaluateSpecification, json.dumps(EVALUATE)).champion == Champion("1", "file:///m")
    assert parse(EvaluateSpecification, json.dumps(EVALUATE | {"champion": None})).champion is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epocs": 1}, "unknown key 'epocs'; allowed are accumulation"),
        ({"epochs": 0}, "epochs = 0 is refused: it must be 1 or more"),
        ({"epochs": "5"}, "epochs = '5' must be of type int"),
        ({"epochs": True}, "epochs = True must be of type int"),
        ({"fraction": 1.5}, "fraction = 1.5"),
        ({"channels": 2}, "channels = 2"),
        ({"gpu": 1}, "gpu = 1 must be of type bool"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(SpecificationError, match=message):
        parse(TrainSpecification, json.dumps(TRAIN | change))


def test_missing_keys_and_other_documents():
    with pytest.raises(SpecificationError, match="epochs, width missing"):
        parse(TrainSpecification, json.dumps({k: v for k, v in TRAIN.items() if k not in ("epochs", "width")}))
    with pytest.raises(SpecificationError, match="champion must be a JSON object, not str"):
        parse(EvaluateSpecification, json.dumps(EVALUATE | {"champion": "1"}))
    with pytest.raises(SpecificationError, match="not JSON"):
        parse(TrainSpecification, "{")
