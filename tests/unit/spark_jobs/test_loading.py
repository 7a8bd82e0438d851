import pytest
import torch
from torch.utils.data import DataLoader

from spark_jobs.exceptions import DatasetError
from spark_jobs.loading import Part, ShardBatches, loader
from spark_jobs.prepared import read_dataset


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


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_change_nothing_but_the_order(dataset, workers):
    batches = batches_of(dataset, seed=3)
    with_workers = DataLoader(batches, batch_size=None, num_workers=workers, multiprocessing_context="fork")
    sizes = sorted(len(labels) for _, labels in with_workers)
    assert sorted(names(with_workers)) == list(range(60))
    assert sizes == sorted(len(labels) for _, labels in batches)


def test_a_fraction_is_a_prefix(dataset):
    assert sorted(names(batches_of(dataset, seed=0, limit=25))) == list(range(25))


def test_other_images_than_asked_for_are_refused(prepared_uri):
    with pytest.raises(DatasetError, match="8 pixels and 1 channels, not 32 and 3: run ingest again"):
        read_dataset(prepared_uri, image_size=32, channels=3)
