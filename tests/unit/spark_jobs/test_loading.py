import gc
import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from serving.preprocessing import Preprocessing
from spark_jobs import epochs, loading, prepared
from spark_jobs.augmentation import Augmentation
from spark_jobs.exceptions import DatasetError, StorageError
from spark_jobs.loading import Part, ShardBatches, loader
from spark_jobs.prepared import Shard, read_dataset, read_rows, read_shard, write_shard


@pytest.fixture
def dataset(prepared_uri):
    return read_dataset(prepared_uri, image_size=8, channels=1)


def names(batches):
    """The row numbers that the fixture wrote into the first pixels."""
    return [round((value * 0.25 + 0.5) * 255) for images, _ in batches for value in images[:, 0, 0, 0].tolist()]


def batches_of(dataset, **options):
    return ShardBatches(dataset.train, dataset.preprocessing, batch_size=8, **options)


def test_batches_have_the_networks_form(dataset):
    images, labels = next(iter(loader(batches_of(dataset, seed=0))))
    assert images.shape[1:] == (1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    brightness = images.mean(dim=(1, 2, 3))
    assert ((brightness < 0) == (labels == 1)).all()


def test_an_epoch_sees_every_row_once_in_its_own_order(dataset):
    batches = batches_of(dataset, seed=0)
    first = names(batches)
    assert sorted(first) == list(range(60))
    assert names(batches) == first
    batches.set_epoch(1)
    assert names(batches) != first
    assert sorted(names(batches)) == list(range(60))


def test_processes_and_loader_workers_split_the_rows(dataset):
    whole = []
    for rank in range(2):
        batches = batches_of(dataset, seed=3, part=Part(rank, 2))
        alone = names(batches)
        assert names(DataLoader(batches, batch_size=None, num_workers=0)) == alone
        assert len(alone) == batches.rows == 30
        assert len(list(batches)) == batches.steps == 4
        whole += alone
    assert sorted(whole) == list(range(60))


def same(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset, workers):
    batches = batches_of(dataset, seed=3, augmentation=Augmentation(True, 0.3))
    assert same(batches, loader(batches, workers=workers))
    processes = DataLoader(batches, batch_size=None, num_workers=workers, multiprocessing_context="fork")
    assert same(batches, processes)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 3), st.sampled_from([0, 2]), st.booleans(), st.data())
def test_an_epoch_goes_on_where_it_was_left(dataset, processes, batch_size, epoch, workers, augmented, data):
    options = {"seed": 3, "augmentation": Augmentation(True, 0.2) if augmented else None}
    seen = []
    for rank in range(processes):
        batches = ShardBatches(
            dataset.train, dataset.preprocessing, batch_size=batch_size, part=Part(rank, processes), **options
        )
        batches.set_epoch(epoch)
        whole = list(batches)
        first = data.draw(st.integers(0, batches.steps))
        batches.set_epoch(epoch, first_batch=first)
        assert same(whole[first:], loader(batches, workers=workers))
        assert len(whole) == batches.steps
        seen += names(whole)
    if not augmented:
        assert len(seen) == len(set(seen)) == 60 // processes * processes


def test_what_is_skipped_is_not_read(dataset, monkeypatch):
    batches = batches_of(dataset, seed=3)
    read = []
    monkeypatch.setattr(loading, "read_rows", lambda *where: read.append(where) or read_rows(*where))
    batches.set_epoch(0, first_batch=batches.steps - 2)
    assert len(list(loader(batches, workers=2))) == 2
    assert len(read) == 1


def test_a_loader_that_is_left_early_ends_its_threads(dataset):
    for _ in loader(batches_of(dataset, seed=3), workers=2):
        break
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_an_error_in_a_worker_arrives(dataset):
    missing = Shard("file:///nowhere.parquet", 60)
    with pytest.raises(StorageError, match="nowhere"):
        list(loader(ShardBatches([missing], dataset.preprocessing, batch_size=8, seed=0), workers=2))


def test_training_and_validation_share_no_row(dataset):
    rows = [shard.rows for shard in dataset.train]
    division = epochs.divide(rows, fraction=1.0, validation=0.2)
    training = batches_of(dataset, seed=0, pieces=division.training)
    validation = batches_of(dataset, pieces=division.validation)
    assert sorted(names(training)) == list(range(48))
    assert names(validation) == list(range(48, 60))


def photograph(number, kind):
    random = np.random.default_rng(number)
    pixels = np.repeat(random.integers(0, 256, (10 + number, 30, 1), np.uint8), 3, axis=2)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def test_files_become_what_serving_sees(tmp_path):
    """Training on encoded files sees bit for bit what a server computes from them."""
    files = [photograph(number, kind) for number in range(10) for kind in ("JPEG", "PNG")]
    uri = f"file://{tmp_path}/shard.parquet"
    write_shard(uri, list(range(20)), files, "files")
    preprocessing = Preprocessing(12, 3, (0.5,) * 3, (0.25,) * 3)
    (images, labels), *rest = ShardBatches([Shard(uri, 20)], preprocessing, batch_size=20)
    assert not rest
    assert labels.tolist() == list(range(20))
    np.testing.assert_array_equal(images.numpy(), preprocessing(files))
    pixels, some = read_shard(uri, preprocessing, 5, 9)
    assert some.tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(preprocessing.normalise(pixels), preprocessing(files[5:9]))


def test_a_part_of_a_shard_costs_its_row_groups_only(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "ROW_GROUP_BYTES", 5_000)
    uri = f"file://{tmp_path}/shard.parquet"
    random = np.random.default_rng(0)
    images = [random.bytes(1000) for _ in range(40)]
    write_shard(uri, list(range(40)), images, "files")
    content = bytearray(Path(f"{tmp_path}/shard.parquet").read_bytes())
    # What must not be read is destroyed.
    place = content.index(images[30])
    content[place - 200 : place + 9_000] = bytes(9_200)
    Path(f"{tmp_path}/shard.parquet").write_bytes(content)
    rows = read_rows(uri, 7, 13)
    assert rows.labels.tolist() == list(range(7, 13))
    assert [image.to_pybytes() for image in rows.images] == images[7:13]


def test_a_file_that_stopped_being_readable_is_named(tmp_path, dataset):
    uri = f"file://{tmp_path}/shard.parquet"
    write_shard(uri, [0], [b"no image"], "files")
    with pytest.raises(DatasetError, match=r"shard.parquet, row 0: .* ingest"):
        read_shard(uri, dataset.preprocessing)


def test_a_fraction_is_a_prefix(dataset):
    assert sorted(names(batches_of(dataset, seed=0, pieces=epochs.head([20, 20, 20], 25)))) == list(range(25))


def test_other_images_than_asked_for_are_refused(prepared_uri):
    with pytest.raises(DatasetError, match="8 pixels and 1 channels, not 32 and 3: run ingest again"):
        read_dataset(prepared_uri, image_size=32, channels=3)
