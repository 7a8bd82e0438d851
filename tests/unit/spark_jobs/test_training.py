import dataclasses
import json
from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from spark_jobs import storage
from spark_jobs.checkpoints import read_checkpoint, read_state
from spark_jobs.exceptions import GpuMissingError, TrainingError
from spark_jobs.loading import Part
from spark_jobs.specification import TrainSpecification, parse
from spark_jobs.training import Training, choose_device


@pytest.fixture(scope="module", autouse=True)
def process_group(tmp_path_factory) -> Iterator[None]:
    torch.set_num_threads(1)
    meeting = tmp_path_factory.mktemp("group") / "meeting"
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def specification(prepared_uri, tmp_path):
    document = {
        "prepared_uri": prepared_uri, "checkpoint_uri": f"file://{tmp_path}/checkpoints/run",
        "tracking_uri": "http://unused", "run_id": "run", "epochs": 3, "fraction": 1.0, "batch_size": 10,
        "learning_rate": 0.01, "processes": 1, "width": 4, "seed": 1, "gpu": False, "image_size": 8, "channels": 1,
        "result_uri": "file:///unused", "secret_id": None,
        "accumulation": 1, "weight_decay": 0.05, "label_smoothing": 0.0, "class_weights": "none",
        "flip": False, "shift": 0.0, "validation": 0.0, "patience": None, "loader_workers": None, "depth": 1,
        "initial_state": None, "precision": "auto", "checkpoint_minutes": 10.0,
    }  # fmt: skip
    return parse(TrainSpecification, json.dumps(document))


def train(specification):
    return Training(specification, Part(), torch.device("cpu"), None)


@pytest.mark.slow
def test_it_learns(specification):
    result = train(dataclasses.replace(specification, epochs=6)).run()
    assert result["holdout_accuracy"] > 0.9
    assert result["train_loss"] < 0.5
    assert result["train_images"] == 60


def test_an_interrupted_run_ends_with_the_same_weights(specification, tmp_path, monkeypatch):
    whole = read_state(train(specification).run()["state_uri"])["state"]
    second = dataclasses.replace(specification, checkpoint_uri=f"file://{tmp_path}/checkpoints/second")
    interrupted = train(second)
    train_epoch = interrupted._train_epoch
    monkeypatch.setattr(interrupted, "_train_epoch", lambda epoch: train_epoch(epoch) if epoch < 2 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        interrupted.run()
    torch.manual_seed(99)
    resumed = train(second)
    epochs = []
    train_epoch_again = resumed._train_epoch
    monkeypatch.setattr(resumed, "_train_epoch", lambda epoch: (epochs.append(epoch), train_epoch_again(epoch))[1])
    state = read_state(resumed.run()["state_uri"])["state"]
    assert epochs == [2]
    assert all(torch.equal(whole[name], state[name]) for name in whole)


def test_a_finished_run_is_not_trained_again(specification):
    first = train(specification).run()
    assert train(specification).run() == first


def test_only_the_newest_checkpoints_stay_and_another_plan_is_refused(specification):
    training = train(specification)
    training.run()
    files = [file.path for file in storage.list_files(specification.checkpoint_uri)]
    assert files == ["epoch-00002.pt", "epoch-00003.pt", "state.pt"]
    with pytest.raises(TrainingError, match=r"epoch-00003.pt was written with other values of learning_rate, seed"):
        train(dataclasses.replace(specification, learning_rate=0.1, seed=2)).run()
    assert read_checkpoint(f"{specification.checkpoint_uri}-other", {}) is None


def test_too_few_images_are_refused(specification):
    with pytest.raises(TrainingError, match="1 training images are too few for 1 processes"):
        train(dataclasses.replace(specification, fraction=0.001))


def test_divergence_is_refused(specification):
    with pytest.raises(TrainingError, match=r"lower training.learning_rate \(1e\+30\)"):
        train(dataclasses.replace(specification, learning_rate=1e30)).run()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_with_its_remedy():
    assert choose_device(gpu=False) == torch.device("cpu")
    with pytest.raises(GpuMissingError, match=r"finds no GPU.*GPU preset.*set training.gpu to false"):
        choose_device(gpu=True)
