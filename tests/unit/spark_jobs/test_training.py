import dataclasses
import json
import os
import signal

import pytest
import torch

from spark_jobs import storage
from spark_jobs.checkpoints import names, read_state
from spark_jobs.exceptions import PreemptedError, TrainingError
from spark_jobs.loading import Part
from spark_jobs.preemption import Preemption
from spark_jobs.prepared import read_rows, write_shard
from spark_jobs.process_group import ProcessGroup
from spark_jobs.specification import TrainSpecification, parse
from spark_jobs.training import Training
from spark_jobs.training_data import TrainingData
from spark_jobs.training_report import TrainingReport


@pytest.fixture(autouse=True)
def one_thread():
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


@pytest.fixture
def elsewhere(specification, tmp_path):
    """The same training with other options and a folder of its own."""

    def make(name, **options):
        return dataclasses.replace(specification, checkpoint_uri=f"file://{tmp_path}/checkpoints/{name}", **options)

    return make


def training(specification):
    return Training(specification, ProcessGroup(), torch.device("cpu"), Preemption(), TrainingReport(None))


def state_of(result):
    return read_state(result["state_uri"])["state"]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def stop_after(run, batches):
    """As SIGTERM would, but at a step that the test chooses."""
    add, done = run.learner.add, []

    def counted(*arguments, **options):
        done.append(None)
        run.preemption._signalled = len(done) >= batches
        return add(*arguments, **options)

    run.learner.add = counted
    return run


@pytest.mark.slow
def test_it_learns(specification):
    result = training(dataclasses.replace(specification, epochs=6)).run()
    assert result["holdout_accuracy"] > 0.9
    assert result["train_loss"] < 0.5
    assert result["train_images"] == 60
    assert (result["stopped_early"], result["best_epoch"], result["resumed_from"]) == (False, 6, None)


# 60 images in batches of 2 are 30 batches; with accumulation 4 they are 7 steps and a half, so the processes meet once.
RICH = {
    "flip": True, "shift": 0.2, "accumulation": 2, "validation": 0.2, "patience": 2, "label_smoothing": 0.1,
    "class_weights": "balanced", "batch_size": 2, "depth": 2, "epochs": 4,
}  # fmt: skip


@pytest.mark.parametrize("options", [{"batch_size": 2}, RICH], ids=["plain", "rich"])
def test_a_training_stopped_in_the_middle_of_an_epoch_ends_with_the_same_weights(elsewhere, options, capsys):
    whole = training(elsewhere("whole", **options)).run()
    stopped = elsewhere("stopped", **options)
    with pytest.raises(PreemptedError, match=r"epoch 2 after batch (10|20) of"):
        stop_after(training(stopped), 39).run()
    torch.manual_seed(99)
    resumed = training(stopped).run()
    place = resumed["resumed_from"]
    assert place in ({"epoch": 2, "batch": 11}, {"epoch": 2, "batch": 21})
    assert f"resumed at epoch 2, batch {place['batch']}\n" in capsys.readouterr().out
    assert equal(state_of(resumed), state_of(whole))
    changed = ("state_uri", "resumed_from")
    assert {key: resumed[key] for key in resumed if key not in changed} == {
        key: whole[key] for key in whole if key not in changed
    }


def test_a_finished_run_is_not_trained_again(specification, capsys):
    first = training(specification).run()
    assert training(specification).run() == first | {"resumed_from": {"epoch": 4, "batch": 1}}
    assert "resumed at epoch 4, batch 1, where all is done" in capsys.readouterr().out


def test_checkpoints_are_written_by_time_too_and_only_the_newest_stay(elsewhere):
    stopped = elsewhere("often", batch_size=2, checkpoint_minutes=1e-9)
    run = training(stopped)
    written = []
    write = run._write_checkpoint
    run._write_checkpoint = lambda: (written.append((run.progress.epoch, run.progress.batch)), write())
    run.run()
    assert written[:5] == [(0, 10), (0, 20), (0, 30), (1, 0), (1, 10)]
    files = [file.path for file in storage.list_files(stopped.checkpoint_uri)]
    assert files == ["epoch-00002-batch-0000030.pt", "epoch-00003-batch-0000000.pt", "state.pt"]
    assert names(f"{stopped.checkpoint_uri}-other") == []


def test_another_plan_is_refused_with_what_differs(specification):
    training(specification).run()
    changed = dataclasses.replace(specification, learning_rate=0.1, seed=2)
    with pytest.raises(TrainingError, match=r"other values of learning_rate \(0.01 there, 0.1 here\), seed \(1 there"):
        training(changed)
    # Where and how often to write, and how to load, may change.
    training(dataclasses.replace(specification, checkpoint_minutes=1.0, loader_workers=1))


def test_accumulated_batches_learn_what_one_large_batch_does(elsewhere):
    # Batch normalisation sees its batch, so its statistics are left out of the comparison.
    one = training(elsewhere("one", batch_size=20, epochs=1))
    four = training(elsewhere("four", batch_size=5, accumulation=4, epochs=1))
    for run in (one, four):
        run.learner.network.eval()
        run.learner.network.train = lambda: None
        run._train_batches(0)
    assert one.steps == four.steps == 3
    assert one.progress.loss_sum == pytest.approx(four.progress.loss_sum, rel=1e-4)
    assert one.learner.scheduler.last_epoch == four.learner.scheduler.last_epoch == 3


def test_the_last_step_of_an_epoch_may_be_made_of_fewer_batches(elsewhere):
    run = training(elsewhere("odd", batch_size=10, accumulation=4, epochs=1))
    shares = []
    add = run.learner.add
    run.learner.add = lambda *arguments, **options: (
        shares.append((options["share"], options["last"])),
        add(*arguments, **options),
    )[1]
    run.run()
    assert shares == [(0.25, False)] * 3 + [(0.25, True), (0.5, False), (0.5, True)]


def test_early_stopping_takes_the_best_epochs_weights(elsewhere):
    run = training(elsewhere("early", epochs=9, validation=0.25, patience=2, batch_size=15))
    assert run.data.images == 45
    losses = iter([1.0, 0.5, 0.7, 0.6])
    measured, weights = [], []
    measure = run._measure

    def scripted(batches):
        score = measure(batches)
        measured.append(batches)
        if batches is run.data.validation:
            weights.append(run._weights())
            return dataclasses.replace(score, loss=next(losses))
        return score

    run._measure = scripted
    result = run.run()
    assert (result["stopped_early"], result["best_epoch"], result["epochs"]) == (True, 2, 4)
    assert equal(state_of(result), weights[1])
    # The hold-out has no part in the decision: it is measured once, with the best weights.
    assert [batches is run.data.holdout for batches in measured] == [False] * 4 + [True]


def test_sigterm_only_notes_and_is_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.told
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.told
    assert signal.getsignal(signal.SIGTERM) == before


def test_too_few_images_are_refused(specification):
    with pytest.raises(TrainingError, match="1 training images are too few for 1 processes"):
        training(dataclasses.replace(specification, fraction=0.001))


def test_divergence_is_refused(specification):
    with pytest.raises(TrainingError, match=r"lower training.learning_rate \(1e\+30\)"):
        training(dataclasses.replace(specification, learning_rate=1e30)).run()


def test_a_class_of_which_a_part_of_the_data_holds_nothing_is_said(specification, capsys, tmp_path):
    rare = f"file://{tmp_path}/rare"
    document = storage.read_json(f"{specification.prepared_uri}/dataset.json")
    for split in ("train", "holdout"):
        for shard in document[split]:
            rows = read_rows(f"{specification.prepared_uri}/{shard['file']}")
            labels = [0] * (len(rows.labels) - 1) + [1]
            write_shard(f"{rare}/{shard['file']}", labels, [image.to_pybytes() for image in rows.images])
    storage.write_json(f"{rare}/dataset.json", document)
    changes = {"prepared_uri": rare, "fraction": 0.3}
    TrainingData(dataclasses.replace(specification, **changes), Part())
    said = capsys.readouterr().out
    assert "warning: no image to learn from is left of class 'dark': training.fraction = 0.3" in said
    TrainingData(dataclasses.replace(specification, prepared_uri=rare), Part())
    TrainingData(dataclasses.replace(specification, **changes, processes=2), Part(1, 2))
    assert capsys.readouterr().out == ""
