"""The three jobs as a cluster runs them: real spark-submit of the mains, with the job code in a zip."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.model import Model
from spark_jobs.prepared import read_dataset, read_shard

REPOSITORY = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
LOCAL = "local[2]"
# Driver and executors apart, as on a cluster: training goes through a barrier stage.
APART = "local-cluster[2,1,1024]"


def write_images(folder, count):
    """`count` images of upright and lying bars, one duplicate, one corrupt file, one stray file."""
    random = np.random.default_rng(0)
    for number in range(count):
        label = ("lying", "upright")[number % 2]
        pixels = random.integers(0, 60, (12, 12), np.uint8)
        place = random.integers(2, 9)
        if label == "upright":
            pixels[:, place : place + 2] += 180
        else:
            pixels[place : place + 2, :] += 180
        path = folder / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        path.write_bytes(buffer.getvalue())
    (folder / "lying" / "zz copy.png").write_bytes((folder / "lying" / "0.png").read_bytes())
    (folder / "upright" / "broken.png").write_bytes((folder / "upright" / "1.png").read_bytes()[:50])
    (folder / ".hidden").write_text("ignored")


def write_odd_folder(folder):
    """300 files such as people have: photographs of bars in every mode, with every fault that ingest must see."""
    random = np.random.default_rng(1)
    modes = ["RGB", "L", "P", "RGBA", "CMYK", "16 bits", "turned"]
    classes = ["lying"] * 180 + ["upright"] * 100 + ["both"] * 9
    for number, label in enumerate(classes):
        pixels = random.integers(0, 60, (40, 60), np.uint8)
        place = random.integers(14, 24)
        if label in ("upright", "both"):
            pixels[:, place + 10 : place + 16] += 180
        if label in ("lying", "both"):
            pixels[place : place + 6, :] = 240
        write_odd_image(folder / label / f"{number}", pixels, modes[number % len(modes)])
    for number in range(3):
        whole = sorted((folder / "lying").iterdir())[number].read_bytes()
        (folder / "upright" / f"broken {number}.jpg").write_bytes(whole[: len(whole) // 2] if number else b"")
    for number, path in enumerate(sorted((folder / "upright").glob("*.png"))[:6]):
        (folder / "upright" / f"copy {number}.png").write_bytes(path.read_bytes())
    contradiction = sorted((folder / "upright").glob("1*.jpg"))[0]
    (folder / "lying" / "wrong.jpg").write_bytes(contradiction.read_bytes())
    (folder / "stray.png").write_bytes(b"in no class")


def write_odd_image(path, pixels, mode):
    path.parent.mkdir(parents=True, exist_ok=True)
    grey, options, suffix = Image.fromarray(pixels), {}, ".png"
    if mode == "16 bits":
        picture = Image.fromarray(pixels.astype(np.uint16) * 257)
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        picture, options, suffix = grey.transpose(Image.Transpose.ROTATE_90), {"exif": exif}, ".jpg"
    elif mode == "P":
        picture, options = grey.convert("RGB").convert("P"), {"transparency": 0}
    else:
        picture, suffix = grey.convert(mode), ".jpg" if mode in ("CMYK", "RGB") else ".png"
    picture.save(path.with_suffix(suffix), **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A data lake with a dataset, the uploaded job code, and an MLflow store."""
    root = tmp_path_factory.mktemp("jobs")
    write_images(root / "lake" / "datasets" / "bars", 100)
    write_odd_folder(root / "lake" / "datasets" / "odd")
    jobs = root / "lake" / "jobs"
    jobs.mkdir()
    for name in ("ingest", "train", "evaluate"):
        (jobs / f"{name}.py").write_bytes((REPOSITORY / "spark_jobs" / f"{name}.py").read_bytes())
    with zipfile.ZipFile(jobs / "lifecycle_jobs.zip", "w") as archive:
        for path in [*(REPOSITORY / "spark_jobs").rglob("*.py"), *map(Path, ("__init__.py", "preprocessing.py"))]:
            source = path if path.is_absolute() else REPOSITORY / "serving" / path
            archive.write(source, source.relative_to(REPOSITORY))
    return World(root)


class World:
    """Submits jobs and reads their results."""

    def __init__(self, root):
        self.root = root
        self.lake = f"file://{root}/lake"
        self.tracking_uri = f"sqlite:///{root}/mlflow.db"

    def submit(self, job, specification, *, master=LOCAL, expect=0, locale=None):
        """Submit with the environment of this process, or with that of a host whose `locale` is given."""
        result = self.root / "lake" / "runs" / f"{job}.json"
        result.unlink(missing_ok=True)
        document = specification | {"result_uri": f"file://{result}", "secret_id": None}
        jobs = self.root / "lake" / "jobs"
        properties = {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
        }
        command = [str(Path(sys.executable).with_name("spark-submit")), "--master", master]
        command += [part for key, value in properties.items() for part in ("--conf", f"{key}={value}")]
        command += ["--py-files", str(jobs / "lifecycle_jobs.zip"), str(jobs / f"{job}.py")]
        python = {"PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | python
        if locale is not None:
            environment = {key: value for key, value in environment.items() if key != "LANG" and key[:3] != "LC_"}
            environment |= locale
        ended = subprocess.run(
            [*command, "--specification", json.dumps(document)],
            cwd=self.root, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert ended.returncode == expect, ended.stdout[-3000:] + ended.stderr[-3000:]
        return json.loads(result.read_text()) if expect == 0 else ended.stdout + ended.stderr

    def ingest(self, **changes):
        specification = {
            "dataset_uri": f"{self.lake}/datasets/bars", "prepared_base_uri": f"{self.lake}/prepared/bars",
            "image_size": 16, "channels": 1, "holdout": 0.2, "max_corrupt": 0.02, "shard_rows": 32,
            "encoding": "pixels",
        }  # fmt: skip
        expect, locale = changes.pop("expect", 0), changes.pop("locale", None)
        return self.submit("ingest", specification | changes, expect=expect, locale=locale)

    def new_run(self):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(self.tracking_uri)
        experiment = client.get_experiment_by_name("bars")
        artifacts = f"file://{self.root}/artifacts"
        experiment_id = experiment.experiment_id if experiment else client.create_experiment("bars", artifacts)
        return client, client.create_run(experiment_id).info.run_id

    def train(self, prepared, run_id, **options):
        specification = {
            "prepared_uri": prepared["prepared_uri"], "checkpoint_uri": f"{self.lake}/checkpoints/{run_id}",
            "tracking_uri": self.tracking_uri, "run_id": run_id, "epochs": 8, "fraction": 1.0, "batch_size": 16,
            "learning_rate": 0.01, "processes": 2, "width": 8, "seed": 0, "gpu": False, "image_size": 16,
            "channels": 1, "accumulation": 1, "weight_decay": 0.05, "label_smoothing": 0.0, "class_weights": "none",
            "flip": False, "shift": 0.0, "validation": 0.0, "patience": None, "loader_workers": None, "depth": 1,
            "initial_state": None, "precision": "auto", "checkpoint_minutes": 10.0,
        }  # fmt: skip
        master, expect = options.pop("master", LOCAL), options.pop("expect", 0)
        return self.submit("train", specification | options, master=master, expect=expect)

    def evaluate(self, prepared, trained, run_id, champion=None):
        specification = {
            "model": "bars", "prepared_uri": prepared["prepared_uri"], "state_uri": trained["state_uri"],
            "tracking_uri": self.tracking_uri, "run_id": run_id, "champion": champion, "image_size": 16, "channels": 1,
            "batch_size": 16,
        }  # fmt: skip
        return self.submit("evaluate", specification)


@pytest.fixture(scope="module")
def prepared(world):
    return world.ingest()


def test_ingest_accounts_for_every_file_and_is_reused(world, prepared):
    assert prepared["images"] == 100
    assert prepared["train_images"] + prepared["holdout_images"] == 100
    assert prepared["classes"] == ["lying", "upright"]
    assert prepared["class_images"] == {"lying": 50, "upright": 50}
    assert (prepared["corrupt"], prepared["duplicates"], prepared["reused"]) == (1, 1, False)
    folder = Path(prepared["prepared_uri"].removeprefix("file://"))
    quarantine = json.loads((folder / "quarantine.json").read_text())
    assert [file["path"] for file in quarantine] == [".hidden", "lying/zz copy.png", "upright/broken.png"]
    assert [file["status"] for file in quarantine] == ["ignored", "duplicate", "corrupt"]
    assert quarantine[1]["reason"] == "same content as lying/0.png"
    assert sorted(path.name for path in (folder / "train").iterdir())[-1] == "shard-00002.parquet"
    again = world.ingest()
    assert again["reused"]
    assert {key: again[key] for key in again if key not in ("reused", "seconds")} == {
        key: prepared[key] for key in prepared if key not in ("reused", "seconds")
    }
    # Another listing of the same content has the same digest.
    (world.root / "lake" / "datasets" / "bars" / "lying" / "0.png").touch()
    touched = world.ingest()
    assert touched["reused"]
    assert touched["digest"] == prepared["digest"]
    assert "1 of 102 files (1.0%) are corrupt" in world.ingest(max_corrupt=0.001, expect=1)


def test_an_odd_folder_is_trained_on_and_its_oddities_are_said(world):
    options = {"dataset_uri": f"{world.lake}/datasets/odd", "channels": 3, "encoding": "files", "max_corrupt": 0.03}
    prepared = world.ingest(**options)
    assert prepared["class_images"] == {"both": 9, "lying": 180, "upright": 99}
    assert (prepared["corrupt"], prepared["duplicates"]) == (6, 6)
    rare, scarce, corrupt, duplicates = prepared["warnings"]
    assert rare.startswith("class 'both' has 9 of 288 images (3.1%, where an even share is 33.3%): training.class_wei")
    assert scarce.startswith("the hold-out has fewer than 10 images of 1 class(es) ('both': ")
    assert corrupt.startswith("6 of 300 files (2.0%) are corrupt")
    assert duplicates.startswith("6 of 300 files (2.0%) are exact duplicates")
    folder = Path(prepared["prepared_uri"].removeprefix("file://"))
    assert corrupt.endswith(f"{folder}/quarantine.json")
    reasons = [file["reason"] for file in json.loads((folder / "quarantine.json").read_text())]
    assert sum(reason.startswith("same content as upright/") for reason in reasons) == 6
    assert reasons.count("the same image lies in classes lying, upright") == 2
    assert {"the file is empty", "lies in no class folder"} < set(reasons)
    assert json.loads((folder / "dataset.json").read_text())["encoding"] == "files"
    # The other encoding is another preparation of the very same images.
    pixels = world.ingest(**options | {"encoding": "pixels"})
    assert pixels["digest"] != prepared["digest"]
    some, others = (read_dataset(one["prepared_uri"], image_size=16, channels=3) for one in (prepared, pixels))
    assert some.preprocessing == others.preprocessing
    for one, other in zip(some.train + some.holdout, others.train + others.holdout, strict=True):
        for values, other_values in zip(
            read_shard(one.uri, some.preprocessing), read_shard(other.uri, others.preprocessing), strict=True
        ):
            np.testing.assert_array_equal(values, other_values)
    _, run_id = world.new_run()
    trained = world.train(prepared, run_id, channels=3, epochs=6, processes=1)
    assert trained["holdout_accuracy"] > 0.8


def shade(number):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (12, 12), np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}])
def test_every_file_is_used_or_listed_whatever_its_name_and_the_hosts_locale(world, locale):
    """Names of cameras, archives and other alphabets, stale checksums, links, and a file too large for any memory."""
    name = f"my {len(locale)} набор [v2]"
    folder = world.root / "lake" / "datasets" / name
    paths = [f"{label}/{name}" for label in ("_background", "cat", "собака 1") for name in
             ("_DSC1.JPG", "IMG 2.jpg", "кот.png", "a#b?c%20d", "deep/er/3", *map(str, range(12)))]  # fmt: skip
    for number, path in enumerate(paths):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(shade(number))
    (folder / "cat" / ".0.crc").write_bytes(b"crc\0\0\0\2\0stale")
    (folder / "cat" / "link.png").symlink_to(world.root / "blob")
    (world.root / "blob").write_bytes(shade(99))
    (folder / "cat" / "Thumbs.db").write_bytes(b"no image")
    with (folder / "cat" / "backup.zip").open("wb") as archive:
        archive.truncate(200_000_000)
    Path(os.fsdecode(os.fsencode(folder) + b"/cat/caf\xe9.png")).write_bytes(shade(98))
    found = world.ingest(
        dataset_uri=f"{world.lake}/datasets/{name}", prepared_base_uri=f"{world.lake}/prepared/{name}",
        max_corrupt=0.05, locale=locale,
    )  # fmt: skip
    assert found["class_images"] == {"_background": 17, "cat": 18, "собака 1": 17}
    assert (found["corrupt"], found["duplicates"], found["ignored"]) == (2, 0, 2)
    left_out = json.loads((world.root / "lake" / "prepared" / name / found["digest"] / "quarantine.json").read_text())
    assert {file["path"]: file["status"] for file in left_out} == {
        "cat/.0.crc": "ignored", "cat/Thumbs.db": "ignored",
        "cat/backup.zip": "corrupt", "cat/caf\\xe9.png": "corrupt",
    }  # fmt: skip


def test_train_and_evaluate(world, prepared):
    client, run_id = world.new_run()
    trained = world.train(prepared, run_id)
    assert trained["processes"] == 2
    assert trained["train_images"] == prepared["train_images"]
    assert trained["holdout_accuracy"] > 0.8
    evaluated = world.evaluate(prepared, trained, run_id)
    assert evaluated["accuracy"] == pytest.approx(trained["holdout_accuracy"], abs=1e-6)
    assert evaluated["champion"] is None
    assert evaluated["onnx_difference"] < 1e-4
    assert set(evaluated["per_class"]) == {"lying", "upright"}
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.metrics["holdout_accuracy"] == pytest.approx(evaluated["accuracy"])
    assert len(client.get_metric_history(run_id, "epoch_train_loss")) == 8
    assert run.data.params["batch_size"] == "16"
    assert run.inputs.dataset_inputs[0].dataset.digest == prepared["digest"]
    assert re.fullmatch(r"models:/m-[0-9a-f]+", evaluated["model_uri"])
    assert evaluated["onnx_model_uri"] != evaluated["model_uri"]
    serving = world.root / "artifacts" / run_id / "artifacts" / "serving"
    golden = json.loads((serving / "golden.json").read_text())
    assert len(golden["cases"]) == 8
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in serving.iterdir()}
    assert evaluated["serving_files"] == digests
    assert Model.load(serving).description.classes == ("lying", "upright")
    champion = {"version": "1", "storage_uri": f"file://{serving}"}
    _, next_run_id = world.new_run()
    compared = world.evaluate(prepared, trained, next_run_id, champion)
    assert compared["champion"]["version"] == "1"
    assert compared["champion"]["accuracy"] == compared["accuracy"]
    paired = compared["champion"]["paired"]
    assert paired["both_right"] + paired["both_wrong"] == compared["holdout_images"]


def test_training_through_a_barrier_stage_ends_and_failures_say_why(world, prepared):
    _, run_id = world.new_run()
    trained = world.train(prepared, run_id, master=APART, epochs=1)
    assert trained["processes"] == 2
    reason = world.train(prepared, run_id, learning_rate=0.5, epochs=1, expect=1)
    assert re.search(r"^TrainingError: .*was written with other values of learning_rate", reason, re.MULTILINE)
