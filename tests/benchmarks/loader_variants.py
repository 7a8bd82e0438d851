"""The ways of getting images to a network that are compared; each delivers `rows` images and drops them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from serving.preprocessing import Preprocessing, shrink
from spark_jobs import epochs
from spark_jobs.ingest import prepare_file
from spark_jobs.loading import ShardBatches, loader
from spark_jobs.prepared import Shard, write_shard
from spark_jobs.splits import rows_of_shard

SIZE = 224
BATCH = 16
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREPROCESSING = Preprocessing(SIZE, 3, MEAN, STD)
Variant = Callable[[int, int], None]


class ImageFolder(Dataset):
    """What torchvision's ImageFolder with Resize, CenterCrop, ToTensor and Normalize does, in a few lines of Pillow."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        with self.paths[index].open("rb") as file:
            image = Image.open(file).convert("RGB")
        width, height = image.size
        scale = SIZE / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return tensor.sub(self.mean).div(self.std), index % 2


class ImageFolderWay:
    """A DataLoader over an image folder, in random order."""

    def __init__(self, folder: Path) -> None:
        self._folder = ImageFolder(sorted(folder.rglob("*.jpg")))

    def __call__(self, rows: int, workers: int) -> None:
        sampler = RandomSampler(self._folder, replacement=True, num_samples=rows)
        seen = 0
        for images, _ in DataLoader(self._folder, BATCH, sampler=sampler, num_workers=workers):
            seen += len(images)
        assert seen == rows


class Shards:
    """Our loader over shards in one of the encodings."""

    def __init__(self, folder: Path, photographs: list[bytes], encoding: str) -> None:
        images = [prepare_file("class/file", encoded, SIZE, 3, encoding)[7] for encoded in photographs]
        count = rows_of_shard(512, sum(map(len, images)) / len(images))
        self._shards = []
        for start in range(0, len(images), count):
            some = images[start : start + count]
            uri = f"file://{folder}/{encoding}-{start}.parquet"
            write_shard(uri, [row % 2 for row in range(len(some))], some, encoding)
            self._shards.append(Shard(uri, len(some)))
        self._rows = len(images)

    def __call__(self, rows: int, workers: int) -> None:
        shards = self._shards * -(-rows // self._rows)
        pieces = epochs.head([shard.rows for shard in shards], rows)
        batches = ShardBatches(shards, PREPROCESSING, batch_size=BATCH, pieces=pieces, seed=0)
        seen = 0
        for images, _ in loader(batches, workers=workers):
            seen += len(images)
        assert seen == rows


class BareLoop:
    """Decode, crop and resize, from memory, by the same function: no file, no batch, no normalising, no torch."""

    def __init__(self, photographs: list[bytes]) -> None:
        self._photographs = photographs

    def __call__(self, rows: int, workers: int) -> None:
        turns = iter(range(rows))
        if not workers:
            self._loop(turns)
            return
        lock = threading.Lock()

        def in_turn() -> None:
            def locked():
                while True:
                    with lock:
                        turn = next(turns, None)
                    if turn is None:
                        return
                    yield turn

            self._loop(locked())

        with ThreadPoolExecutor(workers) as pool:
            for worker in [pool.submit(in_turn) for _ in range(workers)]:
                worker.result()

    def _loop(self, turns) -> None:
        for turn in turns:
            shrink(self._photographs[turn % len(self._photographs)], SIZE, 3)
