"""The small parts that a training is made of."""

import io
import pickle
import types

import numpy as np
import pytest
import torch

from spark_jobs import checkpoints, storage, train
from spark_jobs.class_weights import balanced, count_labels
from spark_jobs.device import choose_device, choose_precision, require_gpus
from spark_jobs.early_stopping import EarlyStopping
from spark_jobs.epochs import divide
from spark_jobs.exceptions import GpuMissingError, TrainingError
from spark_jobs.initial_state import load_initial_state
from spark_jobs.network import ResNet
from spark_jobs.prepared import read_dataset
from spark_jobs.schedule import rate_factor


def test_early_stopping_waits_for_its_patience():
    state = EarlyStopping(patience=2)
    stops = []
    for epoch, loss in enumerate([1.0, 0.8, 0.9, float("nan"), 0.1], start=1):
        state = state.after(epoch, loss)
        stops.append(state.stops_after(epoch))
    assert stops == [False, False, False, True, False]
    assert (state.best_epoch, state.best_loss) == (5, 0.1)
    assert not EarlyStopping(patience=None).stops_after(1000)


def test_balanced_classes_count_the_same_and_images_one_on_average():
    counts = np.array([80, 15, 5, 0])
    weights = balanced(counts)
    assert (weights * counts)[:3] == pytest.approx([100 / 3] * 3)
    assert (weights * counts).sum() == pytest.approx(100)
    assert weights[3] == 0


def test_labels_are_counted_in_the_rows_that_are_trained_on(prepared_uri):
    shards = read_dataset(prepared_uri, image_size=8, channels=1).train
    division = divide([shard.rows for shard in shards], fraction=1.0, validation=0.45)
    assert count_labels(shards, division.training, 3).tolist() == [16, 17, 0]


def test_warm_up_then_cosine():
    factors = [rate_factor(step, 100) for step in range(100)]
    assert factors[9] == factors[10] == max(factors) == 1.0
    assert factors[0] == 0.1
    assert 0 < factors[-1] < 0.001


def test_precision_follows_the_device():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu) == torch.float32
    assert choose_precision("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(TrainingError, match=r"training.precision = 'float16' needs a GPU: set training.gpu to true"):
        choose_precision("float16", cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_named_with_its_remedy():
    assert choose_device(gpu=False) == torch.device("cpu")
    with pytest.raises(GpuMissingError, match=r"finds no GPU.*GPU preset.*set training.gpu to false"):
        choose_device(gpu=True)


def test_every_process_needs_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device(gpu=True) == torch.device("cuda", 1) == chosen[0]
    require_gpus(2)
    with pytest.raises(GpuMissingError, match=r"3 training processes on host .* sees 2 GPUs.*lower training.processes"):
        require_gpus(3)


def session(slots, **properties):
    """As much of a Spark session as is asked before training."""
    profiles = types.SimpleNamespace(defaultResourceProfile=lambda: None)
    scala = types.SimpleNamespace(resourceProfileManager=lambda: profiles, maxNumConcurrentTasks=lambda _: next(slots))
    context = types.SimpleNamespace(_jsc=types.SimpleNamespace(sc=lambda: scala))
    return types.SimpleNamespace(sparkContext=context, conf=properties)


def test_too_few_slots_are_waited_for_and_then_refused(monkeypatch):
    monkeypatch.setattr(train.time, "sleep", lambda _: None)
    train._wait_for_slots(session(iter([0, 1, 2])), 2)
    with pytest.raises(TrainingError, match=r"training.processes = 3, but Spark has room for 2 at once: lower it"):
        train._wait_for_slots(session(iter([2, 2])), 3, seconds=-1)


@pytest.mark.parametrize("amount", [None, "2"])
def test_spark_must_hand_out_one_gpu_to_each_process(amount):
    properties = {} if amount is None else {train.GPU_AMOUNT: amount}
    with pytest.raises(GpuMissingError, match=rf"gpu.amount is {amount or 'not set'}: set it to 1"):
        train._require_gpus(session(iter([]), **properties), 2, local=False)
    train._require_gpus(session(iter([]), **{train.GPU_AMOUNT: "1"}), 2, local=False)


CONTENT = {"plan": {"seed": 1}, "model": {}, "progress": {}, "learner": {}, "stopping": {}, "best": None}


@pytest.mark.parametrize("broken", [b"", b"no checkpoint", None], ids=["empty", "foreign", "half"])
def test_a_broken_checkpoint_is_passed_over_and_said(tmp_path, capsys, broken):
    uri = f"file://{tmp_path}"
    checkpoints.write_checkpoint(uri, epoch=0, batch=10, content=CONTENT)
    whole = (tmp_path / "epoch-00000-batch-0000010.pt").read_bytes()
    (tmp_path / "epoch-00001-batch-0000000.pt").write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    assert checkpoints.newest_checkpoint(uri, {"seed": 1}) == "epoch-00000-batch-0000010.pt"
    assert "epoch-00001-batch-0000000.pt" in capsys.readouterr().out
    (tmp_path / "epoch-00000-batch-0000010.pt").unlink()
    with pytest.raises(TrainingError, match=r"no checkpoint in .* can be read: delete them"):
        checkpoints.newest_checkpoint(uri, {"seed": 1})


def test_a_state_that_is_no_checkpoint_is_passed_over_too(tmp_path, capsys):
    uri = f"file://{tmp_path}"
    checkpoints.write_state(f"{uri}/epoch-00002-batch-0000000.pt", {"some": "thing"})
    checkpoints.write_checkpoint(uri, epoch=1, batch=0, content=CONTENT)
    assert checkpoints.newest_checkpoint(uri, {"seed": 1}) == "epoch-00001-batch-0000000.pt"
    assert "is no checkpoint of this job" in capsys.readouterr().out


def network(**changes):
    torch.manual_seed(sum(changes.values()))
    return ResNet(**{"classes": 3, "channels": 1, "width": 4, "image_size": 8, "depth": 1} | changes)


@pytest.fixture
def saved(tmp_path):
    """A saved state, and the network that it holds."""
    earlier = network()
    uri = f"file://{tmp_path}/state.pt"
    content = {"configuration": earlier.configuration, "classes": ["a", "b", "c"], "state": earlier.state_dict()}
    checkpoints.write_state(uri, content)
    return uri, earlier


@pytest.mark.parametrize("folder", [False, True])
def test_a_training_starts_from_the_same_classes_with_the_head(saved, folder, capsys):
    uri, earlier = saved
    started = network(image_size=32)
    load_initial_state(started, storage.join(uri, "..").replace("/state.pt/..", "") if folder else uri, ["a", "b", "c"])
    assert all(torch.equal(value, started.state_dict()[name]) for name, value in earlier.state_dict().items())
    assert f"started from {uri}\n" in capsys.readouterr().out


@pytest.mark.parametrize("classes", [["a", "b", "d"], ["a", "b"]])
def test_a_training_of_other_classes_gets_a_new_head(saved, classes, capsys):
    uri, earlier = saved
    started = network(classes=len(classes))
    head = started.head.weight.clone()
    load_initial_state(started, uri, classes)
    assert torch.equal(started.stem[0].weight, earlier.stem[0].weight)
    assert torch.equal(started.head.weight, head)
    assert "without its head, which knows 3 classes" in capsys.readouterr().out


def test_a_state_that_does_not_fit_is_refused_by_name(saved, tmp_path):
    uri, _ = saved
    with pytest.raises(TrainingError, match=r"training.initial_state = .* width 4, this training 8; set width to 4"):
        load_initial_state(network(width=8), uri, ["a", "b", "c"])
    with pytest.raises(TrainingError, match=r"training.initial_state = .*neither a file nor a folder"):
        load_initial_state(network(), f"file://{tmp_path}/nowhere", ["a"])
    checkpoints.write_state(f"file://{tmp_path}/other.pt", {"weights": torch.zeros(1)})
    with pytest.raises(TrainingError, match="holds no state of this job's training"):
        load_initial_state(network(), f"file://{tmp_path}/other.pt", ["a"])


class Malicious:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self._file = str(file)

    def __reduce__(self):
        return open, (self._file, "w")


@pytest.mark.parametrize("whole", [True, False], ids=["a pickle", "torch's archive"])
def test_a_state_that_would_run_code_is_refused_and_runs_nothing(tmp_path, whole):
    proof = tmp_path / "it-ran"
    content = {"configuration": {}, "classes": [], "state": Malicious(proof)}
    uri = f"file://{tmp_path}/state.pt"
    buffer = io.BytesIO()
    torch.save(content, buffer)
    storage.write_bytes(uri, pickle.dumps(content) if whole else buffer.getvalue())
    with pytest.raises(checkpoints.UnreadableStateError):
        checkpoints.read_state(uri)
    assert not proof.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)["state"].close()
    assert proof.exists(), "the state is harmless: this test proves nothing"
