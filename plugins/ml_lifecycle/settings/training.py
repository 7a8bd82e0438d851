"""The data set, the cluster, what it may cost, and the training itself."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ml_lifecycle.settings.section import Fraction, Seconds, Section


def _dataset_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,62}", name):
        raise ValueError("must be 1 to 63 letters, digits, hyphens, underscores and dots, the first no sign")
    return name


class Dataset(Section):
    """The image folder `datasets/<name>/<class>/<file>` in the data lake, and how ingest prepares it."""

    name: Annotated[str, AfterValidator(_dataset_name)] | None = Field(
        default=None, description="folder below datasets/; the model's name if not given"
    )
    image_size: int = Field(default=32, ge=8, le=1024, description="side of the square that the model sees, pixels")
    channels: Literal[1, 3] = Field(default=3, description="1 for grey, 3 for colour")
    holdout: float = Field(default=0.2, gt=0, lt=1, description="share of files held out, by content hash")
    max_corrupt: Fraction = Field(default=0.01, description="share of unreadable files above which ingest fails")
    shard_rows: int = Field(default=512, ge=1, description="images in one Parquet shard")
    encoding: Literal["pixels", "files"] = Field(
        default="pixels",
        description="what shards hold: pixels shrunk to image_size (fast), or the files as they are (several times "
        "smaller, decoded in every epoch)",
    )


class Hosts(Section):
    """One kind of host of a cluster."""

    preset: str = Field(default="s3-c4-m16", description="resource preset; checked with ResourcePresetService")
    disk_type: str = Field(default="network-ssd", description="network-ssd, network-hdd, …")
    disk_gib: int = Field(default=64, ge=16, description="disk size, GiB")


class Autoscaling(Section):
    """How the compute hosts of a cluster are scaled, where a most number of hosts is given."""

    measurement_seconds: int = Field(default=60, ge=60, le=600, description="window over which the load is averaged")
    warmup_seconds: int = Field(default=60, ge=0, le=600, description="a new host counts for nothing this long")
    stabilization_seconds: int = Field(default=120, ge=60, le=1800, description="hosts are not removed sooner")
    cpu_utilization_target: float = Field(default=0, ge=0, le=100, description="percent; 0: pending YARN containers")
    decommission_seconds: int = Field(default=120, ge=0, le=86_400, description="time for work to leave a host")


class ComputeGroup(Section):
    """Another group of compute hosts beside `compute`."""

    name: str | None = Field(default=None, pattern=r"^[a-z][-a-z0-9]{1,61}[a-z0-9]$", description="subcluster's name")
    hosts: Hosts = Hosts()
    count: int = Field(default=1, ge=1, le=32, description="hosts, at least")
    max_count: int | None = Field(default=None, ge=1, le=32, description="above count: autoscaling up to this")
    preemptible: bool = Field(default=False, description="cheaper hosts that may be taken away")


class InitializationAction(Section):
    """A script that every host runs once, as root, while the cluster is created."""

    uri: str = Field(min_length=1, description="s3a://, http(s):// or hdfs://")
    args: tuple[str, ...] = Field(default=(), description="its arguments")
    timeout: int = Field(default=600, ge=1, description="seconds")


class Cluster(Section):
    """The Data Processing cluster that a training creates and deletes."""

    folder_id: str | None = Field(default=None, description="the connection's folder if not given")
    zone: str = Field(default="ru-central1-a", description="availability zone")
    subnet_id: str | None = Field(default=None, description="subnet with a NAT")
    service_account_id: str | None = Field(default=None, description="with dataproc.agent and dataproc.provisioner")
    autoscaling_service_account_id: str | None = Field(default=None, description="for autoscaled compute hosts")
    security_group_ids: tuple[str, ...] = Field(default=(), description="security groups of all hosts")
    bucket: str | None = Field(default=None, description="bucket of the cluster's own logs")
    log_group_id: str | None = Field(default=None, description="Cloud Logging group")
    ssh_public_keys: tuple[str, ...] = Field(default=(), description="none: OS Login is used")
    image_version: str = Field(default="2.2", description="2.2 only: older images carry no Python that torch supports")
    master: Hosts = Hosts()
    compute: Hosts = Hosts()
    compute_hosts: int = Field(default=1, ge=1, le=32, description="compute hosts, at least")
    compute_max_hosts: int | None = Field(default=None, ge=1, le=32, description="above it: autoscaling up to this")
    preemptible: bool = Field(default=False, description="cheaper compute hosts that may be taken away")
    autoscaling: Autoscaling = Autoscaling()
    extra_compute: tuple[ComputeGroup, ...] = Field(default=(), max_length=10, description="more compute subclusters")
    services: tuple[str, ...] = Field(default=("YARN", "SPARK"), description="Hadoop services; no HDFS: lightweight")
    properties: dict[str, str] = Field(default_factory=dict, description="cluster properties, as yarn:key or spark:key")
    initialization_actions: tuple[InitializationAction, ...] = Field(default=(), description="GPU drivers, for one")
    deletion_protection: bool = Field(default=False, description="others cannot delete it; the teardown lifts it")
    create_timeout_minutes: float = Field(default=30, gt=0, description="a cluster not running by then is deleted")
    job_timeout_minutes: float = Field(default=240, gt=0, description="a job not ended by then is cancelled")
    poll_seconds: Seconds = Field(default=10, description="time between two looks at a cluster or job")
    time_to_live_hours: float = Field(default=8, gt=0, description="clean_up deletes the cluster after this")
    environment: str | None = Field(
        default=None, description="packed Python environment (.tar.gz); a local path or a URI. None: the image's own"
    )
    secret_id: str | None = Field(
        default=None, description="Lockbox secret whose entries the jobs export (AWS keys, MLflow password)"
    )
    spark_properties: dict[str, str] = Field(default_factory=dict, description="added to every job's properties")

    @model_validator(mode="after")
    def _image(self) -> Self:
        if not re.fullmatch(r"2\.2(\..*)?", self.image_version):
            raise ValueError(
                f"image_version {self.image_version!r} is refused: 2.0 and 2.1 carry Python 3.8, which current torch "
                "and MLflow do not support; use 2.2"
            )
        if self.compute_max_hosts is not None and self.compute_max_hosts < self.compute_hosts:
            raise ValueError(
                f"compute_max_hosts {self.compute_max_hosts} must not be below compute_hosts {self.compute_hosts}"
            )
        return self


class Training(Section):
    """One training run."""

    epochs: int = Field(default=5, ge=1, le=10_000, description="passes over the training split, at most")
    fraction: float = Field(default=1.0, gt=0, le=1, description="share of the training split that is used")
    batch_size: int = Field(default=64, ge=1, description="images a process sees at once")
    accumulation: int = Field(default=1, ge=1, description="batches whose gradients make one step")
    learning_rate: float = Field(default=0.01, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of a label given to all classes")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: every class weighs the same in the loss, however few its images"
    )
    flip: bool = Field(default=False, description="mirror half of the images left to right")
    shift: float = Field(default=0.0, ge=0, le=0.5, description="move images by up to this share of their side")
    validation: float = Field(
        default=0.0, ge=0, le=0.5, description="share of the training split kept back to decide early stopping"
    )
    patience: int | None = Field(
        default=None, ge=1, description="stop after so many epochs without a better validation loss; needs validation"
    )
    processes: int = Field(default=2, ge=1, le=256, description="training processes, over all hosts")
    loader_workers: int | None = Field(
        default=None, ge=0, le=64, description="loader workers of a process; none given: 0 on CPU, 2 beside a GPU"
    )
    width: int = Field(default=16, ge=4, le=1024, description="channels of the network's first stage")
    depth: int = Field(default=1, ge=1, le=50, description="residual blocks in each of the three stages")
    initial_state: str | None = Field(
        default=None, description="URI of a trained state to start from; its head is dropped where classes differ"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: bfloat16 on GPUs that have it, float16 on others, float32 on CPU"
    )
    checkpoint_minutes: float = Field(default=10.0, gt=0, description="a checkpoint at least this often, mid-epoch too")
    seed: int = Field(default=0, ge=0, description="seed of initialisation and shuffling")
    gpu: bool = Field(default=False, description="train on GPUs; the job fails fast where there is none")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.precision == "float16" and not self.gpu:
            raise ValueError("precision 'float16' needs gpu true: processors are no good at it; take 'auto'")
        if self.patience is not None and not self.validation:
            raise ValueError(
                f"patience {self.patience} needs validation above 0: what decides when to stop must not be the hold-out"
            )
        return self


class Cost(Section):
    """What clusters cost and may cost; prices are yours to fill in, per hour and before discounts."""

    currency: str = Field(default="RUB", pattern=r"^[A-Z]{3}$", description="of all prices")
    host_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="price of one host for an hour, by resource preset"
    )
    preemptible_host_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="the same for preemptible hosts; the full price where it is not given"
    )
    disk_gib_hour: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="price of one GiB of disk for an hour, by disk type; nothing where not given"
    )
    expected_hours: float = Field(default=1.0, gt=0, description="how long a training's cluster is expected to live")
    limit: float | None = Field(
        default=None,
        gt=0,
        description="a run expected to cost more is refused, and a cluster is ended before it does; needs a price for "
        "every preset",
    )
