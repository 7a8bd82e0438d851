"""The evaluate job without Spark and without training: states with random weights, a real MLflow store."""

import dataclasses
import json
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from serving.model import Model
from spark_jobs import comparison, storage
from spark_jobs.checkpoints import read_state, write_state
from spark_jobs.contestant import in_channels
from spark_jobs.evaluate import evaluate
from spark_jobs.evaluation_log import evaluation_metrics
from spark_jobs.exceptions import DatasetError, ExportError
from spark_jobs.network import Classifier, ResNet, network_from
from spark_jobs.onnx_model import export_onnx
from spark_jobs.prepared import read_dataset
from spark_jobs.specification import Champion, EvaluateSpecification

pytestmark = pytest.mark.slow  # a database


def write_network(uri, seed, *, channels=1, image_size=8, classes=2, poison=False):
    torch.manual_seed(seed)
    configuration = {"classes": classes, "channels": channels, "width": 4, "image_size": image_size}
    network = ResNet(**configuration)
    if poison:
        next(network.parameters()).data.fill_(float("nan"))
    write_state(uri, {"configuration": configuration, "state": network.state_dict()})
    return uri


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture
def specification(tmp_path, prepared_uri, tracking_uri, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    client = mlflow.MlflowClient(tracking_uri)
    found = client.get_experiment_by_name(tmp_path.name)
    experiment = found.experiment_id if found else client.create_experiment(tmp_path.name, f"file://{tmp_path}/runs")
    yield EvaluateSpecification(
        model="shades", prepared_uri=prepared_uri, state_uri=write_network(f"file://{tmp_path}/state.pt", 0),
        tracking_uri=tracking_uri, run_id=client.create_run(experiment).info.run_id, champion=None, batch_size=8,
        result_uri="", secret_id=None, image_size=8, channels=1,
    )  # fmt: skip
    mlflow.set_tracking_uri(None)  # the job sets it for its process


def artifacts(specification):
    client = mlflow.MlflowClient(specification.tracking_uri)
    return Path(client.get_run(specification.run_id).info.artifact_uri.removeprefix("file://"))


def test_a_candidate_is_measured_beside_its_champion(specification, tmp_path):
    result = evaluate(specification)
    folder = artifacts(specification)
    assert json.loads((folder / "evaluation.json").read_text()).items() <= result.items()
    assert result["champion"] is None
    assert sum(result["per_class_images"].values()) == result["holdout_images"] == 21
    assert result["model_bytes"] == (folder / "serving" / "model.onnx").stat().st_size
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p95"]
    assert 0 <= result["calibration_error"] <= 1
    assert {file.name for file in folder.glob("*.png")} == {"confusion_matrix.png", "calibration.png", "mistakes.png"}
    assert Model.load(folder / "serving").description.classes == ("bright", "dark")
    run = mlflow.MlflowClient(specification.tracking_uri).get_run(specification.run_id)
    assert run.data.metrics["latency_p95_ms"] == result["latency_ms"]["p95"]
    assert run.data.metrics["holdout_images_class_dark"] == result["per_class_images"]["dark"]

    # The same model as its own champion.
    same = dataclasses.replace(specification, champion=Champion("1", (folder / "serving").as_uri()))
    compared = evaluate(same)["champion"]
    right = round(result["accuracy"] * 21)
    assert (compared["version"], compared["accuracy"]) == ("1", result["accuracy"])
    assert compared["paired"] == {
        "both_right": right, "only_challenger_right": 0, "only_champion_right": 0, "both_wrong": 21 - right
    }  # fmt: skip


def test_a_champion_of_other_classes_size_and_colour_can_be_compared(specification, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    state = read_state(write_network(f"file://{tmp_path}/other.pt", 1, channels=3, image_size=16, classes=3))
    model = export_onnx(Classifier(network_from(state)).eval(), 3, 16)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    preprocessing = {"image_size": 16, "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3}
    document = {"classes": ["bright", "dusk", "dark"], "preprocessing": preprocessing}
    (folder / "model.json").write_text(json.dumps(document))

    result = evaluate(dataclasses.replace(specification, champion=Champion("3", folder.as_uri())))

    paired = result["champion"]["paired"]
    assert sum(paired.values()) == 21
    gained = paired["only_challenger_right"] - paired["only_champion_right"]
    assert gained / 21 == pytest.approx(result["accuracy"] - result["champion"]["accuracy"])
    assert result["champion"]["latency_ms"]["repetitions"] >= 30


def test_one_shard_at_a_time_is_read(prepared_uri, monkeypatch):
    dataset = read_dataset(prepared_uri, image_size=8, channels=1)
    dataset = dataclasses.replace(dataset, holdout=dataset.train)
    read, reads = comparison.read_shard, []
    monkeypatch.setattr(comparison, "read_shard", lambda uri, *rest: reads.append(uri) or read(uri, *rest))
    seen = []
    for pixels, labels in comparison._batches(dataset, 8):
        assert len(pixels) == len(labels) <= 8
        seen.append(len(reads))
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"poison": True}, ExportError, "NaN: the training has diverged"),
        ({"classes": 3}, DatasetError, "tells 3 classes apart"),
    ],
)
def test_what_cannot_serve_is_refused(specification, tmp_path, change, error, said):
    state_uri = write_network(f"file://{tmp_path}/bad.pt", 0, **change)
    with pytest.raises(error, match=said):
        evaluate(dataclasses.replace(specification, state_uri=state_uri))


def test_a_hold_out_without_images_is_refused(specification):
    document = storage.read_json(storage.join(specification.prepared_uri, "dataset.json"))
    storage.write_json(storage.join(specification.prepared_uri, "dataset.json"), {**document, "holdout": []})
    with pytest.raises(DatasetError, match="holds out no image"):
        evaluate(specification)


def test_class_names_become_names_of_metrics():
    result = {
        "accuracy": 1.0, "loss": 0.1, "calibration_error": 0.0, "model_bytes": 1, "latency_ms": {"p50": 1, "p95": 2},
        "holdout_images": 1, "onnx_difference": 0.0, "champion": None, "per_class": {"a/b (c)": 1.0},
        "per_class_images": {"a/b (c)": 1},
    }  # fmt: skip
    assert evaluation_metrics(result)["holdout_accuracy_class_a_b _c_"] == 1.0


def test_colours_become_grey_and_back():
    grey = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    coloured = in_channels(grey, 3)
    assert coloured.shape == (1, 4, 4, 3)
    assert (in_channels(coloured, 1) == grey).all()
