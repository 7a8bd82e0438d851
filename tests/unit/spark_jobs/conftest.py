import numpy as np
import pytest

from spark_jobs import storage
from spark_jobs.prepared import DOCUMENT, FORMAT, write_shard

SIZE = 8


@pytest.fixture
def prepared_uri(tmp_path):
    """A prepared dataset of two classes, dark and bright, as ingest would leave it: 60 + 21 images in 3 + 1 shards."""
    uri = f"file://{tmp_path}/prepared/shades/abc"
    random = np.random.default_rng(0)
    document = {
        "format": FORMAT,
        "digest": "abc",
        "encoding": "pixels",
        "classes": ["bright", "dark"],
        "preprocessing": {"image_size": SIZE, "channels": 1, "mean": [0.5], "std": [0.25]},
    }
    for split, shards, rows in (("train", 3, 20), ("holdout", 1, 21)):
        document[split] = []
        for shard in range(shards):
            labels = [(shard + row) % 2 for row in range(rows)]
            pixels = [
                random.integers(0 if label else 128, 128 if label else 256, (SIZE, SIZE, 1), np.uint8)
                for label in labels
            ]
            # The first pixel names the row, so that tests can tell rows apart.
            for row, image in enumerate(pixels):
                image[0, 0, 0] = shard * rows + row
            file = f"{split}/shard-{shard:05d}.parquet"
            write_shard(storage.join(uri, file), labels, [image.tobytes() for image in pixels])
            document[split].append({"file": file, "rows": rows})
    storage.write_json(storage.join(uri, DOCUMENT), document)
    return uri
