"""All settings of a model, as one frozen and validated object.

They stand in the Airflow Variable `ml_lifecycle`: `{"defaults": {...}, "models": {"<name>": {...}}}`. A model's
settings are the defaults, overlaid by its own, overlaid by the params of one run. Pure: reading the Variable
is `settings_variable.py`'s.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from ml_lifecycle.exceptions import SettingsError
from ml_lifecycle.runtimes import RuntimeName

_SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential")
CPU = r"^(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?|[1-9][0-9]*m)$"
BYTES = r"^[1-9][0-9]*(\.[0-9]+)?(k|[KMGT]i|[MGT])?$"
# What a query of one's own may name: the revision (Knative mode) or Service (Standard mode) of a side, a regular
# expression for its pods, the InferenceService, its namespace, and the time since the last look.
PLACEHOLDERS = ("side", "pods", "service", "namespace", "window")
BUILT_IN_METRICS = ("errors", "latency", "guardrail")
MODEL_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _amount(quantity: str) -> float:
    """A Kubernetes quantity in cores or bytes."""
    number = quantity.rstrip("mkKMGTi")
    return float(number) * UNITS.get(quantity.removeprefix(number), 1.0)


def _model_name(name: str) -> str:
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(
            "must start with a letter and hold at most 40 lower-case letters, digits and hyphens, not ending in a "
            "hyphen: Kubernetes and Yandex refuse other names"
        )
    return name


def _dataset_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,62}", name):
        raise ValueError("must be 1 to 63 letters, digits, hyphens, underscores and dots, the first no sign")
    return name


def _base_uri(uri: str) -> str:
    if not re.fullmatch(r"(s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/.*)?|file:///.+)", uri):
        raise ValueError("must be s3://bucket/prefix or file:///folder")
    return uri.rstrip("/")


def _clock_or_moment(text: str) -> str:
    if re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("must be a time of day in UTC as in 06:30, or a moment with its zone as in 2026-12-01T06:30Z")
    return text


def _promql(template: str) -> str:
    unknown = sorted(set(re.findall(r"\$([A-Za-z_]+)", template)) - set(PLACEHOLDERS))
    if unknown:
        known = ", ".join(f"${name}" for name in PLACEHOLDERS)
        raise ValueError(f"unknown placeholder ${unknown[0]}; allowed are {known}")
    if not re.search(r"\$(side|pods)\b", template):
        raise ValueError("must name the side it asks for by $side or $pods: one answer for both tells nothing")
    return template


ModelName = Annotated[str, AfterValidator(_model_name)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]
NodeLabel = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$")
]
NodeLabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$")]
PromQL = Annotated[str, AfterValidator(_promql)]


class Section(BaseModel):
    """A group of settings: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Connections(Section):
    """The ids of the Airflow connections; every secret lives in them."""

    yandex: str = Field(default="yandexcloud_default", description="type yandexcloud: Data Processing")
    kubernetes: str = Field(default="kubernetes_default", description="type kubernetes: the serving cluster")
    storage: str = Field(default="aws_default", description="type aws: the data lake when it is s3://")
    tracking: str = Field(default="mlflow_default", description="type http: the MLflow server")
    prometheus: str = Field(default="prometheus_default", description="type http: Prometheus")


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


class Approval(Section):
    """A person's word between the gate and the alias."""

    required: bool = Field(default=False, description="ask a person in Airflow before a candidate becomes champion")
    timeout_hours: float = Field(default=24, gt=0, description="the default answer is taken after this")
    default: Literal["approve", "reject"] = Field(default="reject", description="the answer where nobody gives one")


class Gate(Section):
    """What a candidate must reach to become champion; a limit that is not given is not checked."""

    min_accuracy: Fraction = Field(default=0.5, description="absolute floor on the hold-out")
    max_loss: float = Field(default=10.0, gt=0, description="absolute limit of the hold-out loss")
    max_accuracy_drop: Fraction = Field(
        default=0.02, description="accuracy it may lose against the champion; the interval's lower end decides"
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="one-sided confidence of the paired comparison with the champion"
    )
    min_class_accuracy: Fraction = Field(default=0.0, description="floor of the accuracy within every class")
    class_floors: dict[str, Fraction] = Field(default_factory=dict, description="floors of single classes, by name")
    max_model_mb: float | None = Field(default=None, gt=0, description="size of the ONNX file, millions of bytes")
    max_latency_ms: float | None = Field(
        default=None, gt=0, description="p95 of one image on one CPU thread of the cluster, milliseconds"
    )
    max_onnx_difference: float = Field(default=1e-3, gt=0, description="largest difference of torch and ONNX outputs")
    approval: Approval = Approval()


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


class Toleration(Section):
    """A taint of nodes on which the model's pods may run all the same; fields as in Kubernetes."""

    key: NodeLabel | None = Field(default=None, description="the taint's key; none: every key")
    operator: Literal["Equal", "Exists"] = Field(default="Equal", description="Exists: any value")
    value: NodeLabelValue | None = Field(default=None, description="the taint's value")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="the taint's effect; none: every effect"
    )
    toleration_seconds: int | None = Field(default=None, ge=0, description="with NoExecute: then the pod must leave")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError(f"value {self.value!r} must not be given with operator 'Exists', which takes any")
        if self.key is None and self.operator != "Exists":
            raise ValueError("without a key the operator must be 'Exists'")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds needs effect 'NoExecute'")
        return self

    def to_kubernetes(self) -> dict[str, Any]:
        """As a pod's spec has it."""
        given = self.model_dump(exclude_none=True)
        seconds = given.pop("toleration_seconds", None)
        return given if seconds is None else {**given, "tolerationSeconds": seconds}


class Serving(Section):
    """The InferenceService; what is not given is left to KServe."""

    runtime: RuntimeName = Field(
        default="ml-lifecycle",
        description="the server: our own image, or one that KServe brings: triton-onnx, triton-pytorch, sklearn, "
        "tensorflow, mlflow. Set it before promote_model publishes a version: it arranges the files for it",
    )
    deployment_mode: Literal["Knative", "Standard"] | None = Field(
        default=None, description="KServe's mode for this service; none: the cluster's default. Fixed for its life"
    )
    namespace: str = Field(default="models", pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$", description="namespace")
    image: str = Field(
        default="ml-lifecycle/serving:1.0.0",
        min_length=1,
        description="the model server's image; the smoke test runs in it whatever the runtime is",
    )
    service_account: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$",
        description="its Secret holds the S3 keys, with KServe's annotations for endpoint and region",
    )
    cpu: Annotated[str, Field(pattern=CPU)] = Field(default="500m", description="CPU request of a replica")
    memory: Annotated[str, Field(pattern=BYTES)] = Field(default="512Mi", description="memory request of a replica")
    cpu_limit: Annotated[str, Field(pattern=CPU)] | None = Field(default=None, description="its limit; none: cpu")
    memory_limit: Annotated[str, Field(pattern=BYTES)] | None = Field(
        default=None, description="its limit; none: memory"
    )
    gpus: int = Field(default=0, ge=0, description="nvidia.com/gpu of a replica")
    min_replicas: int = Field(default=1, ge=1, description="replicas at least; a canary without pods gives no evidence")
    max_replicas: int = Field(default=5, ge=1, description="replicas at most")
    autoscaler: Literal["hpa", "keda", "external", "none"] | None = Field(
        default=None,
        description="in Standard mode who scales; none given: KServe makes an HPA. external where a MLScaler targets "
        "the service. Fixed for the service's life",
    )
    scale_metric: Literal["concurrency", "rps", "cpu", "memory"] | None = Field(
        default=None, description="what is scaled by: concurrency or rps in Knative mode, cpu or memory in Standard"
    )
    scale_target: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="its target: a replica's requests at a time, requests a second, or percent",
    )
    container_concurrency: int | None = Field(
        default=None, ge=0, le=1000, description="requests that a replica may have under way; 0: any number"
    )
    timeout_seconds: int | None = Field(default=None, ge=1, le=86_400, description="a request is ended after this")
    logger_url: str | None = Field(
        default=None, pattern=r"^https?://[!-~]+$", description="KServe sends requests and answers there as CloudEvents"
    )
    logger_mode: Literal["all", "request", "response"] = Field(default="all", description="what of them is sent")
    tolerations: tuple[Toleration, ...] = Field(
        default=(), description="key, operator, value, effect, toleration_seconds; Knative has a feature flag for them"
    )
    node_selector: dict[NodeLabel, NodeLabelValue] = Field(
        default_factory=dict, description="labels that nodes must have; Knative has a feature flag for it"
    )
    restricted: bool = Field(
        default=True,
        description="the security context of Kubernetes' restricted profile, for runtimes that KServe brings; ours "
        "always has it",
    )
    ingress: str | None = Field(
        default=None, description="address of the ingress gateway when the service's host name does not resolve"
    )
    smoke_test_latency_ms: float | None = Field(
        default=None, gt=0, description="the slowest golden answer may take so long; none: what golden.json says"
    )

    @model_validator(mode="after")
    def _replicas(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} must not exceed max_replicas {self.max_replicas}")
        return self

    @model_validator(mode="after")
    def _limits(self) -> Self:
        for name in ("cpu", "memory"):
            request, limit = getattr(self, name), getattr(self, f"{name}_limit")
            if limit is not None and _amount(limit) < _amount(request):
                raise ValueError(f"{name}_limit {limit!r} must not be below {name} {request!r}")
        return self

    @model_validator(mode="after")
    def _scales(self) -> Self:
        metrics = {"Knative": ("concurrency", "rps"), "Standard": ("cpu", "memory")}
        mode, metric = self.deployment_mode, self.scale_metric
        if mode and metric and metric not in metrics[mode]:
            raise ValueError(f"scale_metric {metric!r} must be one of {list(metrics[mode])} in {mode} mode")
        if mode == "Knative" and self.autoscaler:
            raise ValueError(f"autoscaler {self.autoscaler!r} is for Standard mode: Knative scales by itself")
        if self.autoscaler == "keda" and metric:
            raise ValueError(f"scale_metric {metric!r} is refused by KServe with autoscaler 'keda'")
        percent = metric == "cpu" or (metric is None and mode == "Standard")
        if percent and self.scale_target is not None and self.scale_target > 100:
            raise ValueError(f"scale_target {self.scale_target} must be 1 to 100: percent of the CPU request")
        return self


class Step(Section):
    """One step of a rollout that asks for more than the others before it is left."""

    percent: int = Field(ge=0, le=100, description="the canary's traffic; 0: none yet, only its own address")
    dwell_seconds: Seconds | None = Field(default=None, description="this step's own dwell time")
    min_requests: int | None = Field(default=None, ge=0, description="this step's own minimum of canary requests")
    approval: bool = Field(default=False, description="a person must let it go on: DAG steer_rollout, action approve")
    until: Annotated[str, AfterValidator(_clock_or_moment)] | None = Field(
        default=None, description="not left before: a time of day in UTC (06:30), or a moment (2026-12-01T06:30Z)"
    )


def _percent_or_step(value: object) -> str:
    return "step" if isinstance(value, Mapping | Step) else "percent"


# Told apart by their form, so that a bad value is refused once and not as both.
AnyStep = Annotated[Annotated[int, Tag("percent")] | Annotated[Step, Tag("step")], Discriminator(_percent_or_step)]


def _rising_to_100(steps: tuple[int | Step, ...]) -> tuple[int | Step, ...]:
    percents = [step if isinstance(step, int) else step.percent for step in steps]
    inside = all(0 <= percent <= 100 for percent in percents)
    rising = all(low < high for low, high in itertools.pairwise(percents))
    if not steps or not inside or not rising or percents[-1] != 100:
        raise ValueError("must be percents that rise strictly and end in 100, as in [10, 25, 50, 100]")
    return steps


class Notifier(Section):
    """Somebody to be told how a rollout ended: any of Airflow's notifiers."""

    notifier: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", description="path of its class")
    arguments: dict[str, Any] = Field(default_factory=dict, description="its arguments; secrets live in its connection")

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if secret := next((name for name in self.arguments if _SECRET.search(name.lower())), None):
            raise ValueError(
                f"argument {secret!r} would put a secret into settings: put it into a connection, and name that"
            )
        return self


class ErrorQueries(Section):
    """Two PromQL queries of your own for one side; each must give one cumulative count."""

    events: PromQL = Field(description='what is counted, as sum(answers_total{pod=~"$pods",kind="empty"})')
    total: PromQL = Field(description="among how many: requests, answers, orders")


class OwnMetric(Section):
    """A metric of your own, judged beside errors and latency; a promotion waits for it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$", description="in reasons and reports")
    harm: Literal["more", "fewer"] = Field(default="more", description="fewer: less of it on the canary is harm")

    @model_validator(mode="after")
    def _free_name(self) -> Self:
        if self.name in BUILT_IN_METRICS:
            raise ValueError(f"name {self.name!r} is taken; others than {', '.join(BUILT_IN_METRICS)} are free")
        return self


class OwnCounts(OwnMetric):
    """Events among a total, compared by their rates on both sides."""

    kind: Literal["counts"] = Field(description="`counts`")
    events: PromQL = Field(description="PromQL; one cumulative count of a side, as conversions so far")
    total: PromQL = Field(description="PromQL; the cumulative count that the events are among")
    margin: float = Field(default=1.5, gt=1, description="ratio of rates, canary to stable (fewer: inverse), of harm")
    floor: float = Field(default=0.0, ge=0, lt=1, description="canary rate below which nothing is harm")

    @model_validator(mode="after")
    def _floor_of_more(self) -> Self:
        if self.harm == "fewer" and self.floor:
            raise ValueError(f"floor {self.floor} has no meaning where fewer events are harm: leave it out")
        return self


class OwnGauge(OwnMetric):
    """A value that goes up and down, compared by the mean difference of both sides."""

    kind: Literal["gauge"] = Field(description="`gauge`")
    value: PromQL = Field(description='PromQL; one value of a side now, as avg(score{pod=~"$pods"})')
    tolerance: float = Field(gt=0, description="mean difference, canary to stable, in the value's unit that is harm")


class Rollout(Section):
    """How a new version takes over the traffic."""

    strategy: Literal["canary", "blue_green", "rolling"] = Field(
        default="canary",
        description="canary: by steps, on evidence. blue_green: all at once after the checks at the new revision's own "
        "address. rolling: KServe replaces the revision at once, checked only afterwards; asks nothing of the cluster",
    )
    steps: Annotated[tuple[AnyStep, ...], AfterValidator(_rising_to_100)] = Field(
        default=(10, 25, 50, 100),
        description="traffic percents of the canary, rising to 100; instead of a number an object with percent and "
        "dwell_seconds, min_requests, approval or until",
    )
    approval_timeout_hours: float = Field(
        default=24, gt=0, description="a step that nobody has approved by then ends the rollout as on_deadline says"
    )
    dwell_seconds: Seconds = Field(default=300, description="a step lasts at least this long")
    look_seconds: Seconds = Field(default=60, description="time between two looks at the metrics")
    min_requests: int = Field(default=50, ge=0, description="requests the canary must have served in a step")
    margin: float = Field(default=1.5, gt=1, description="ratio of error rates, canary to stable, that is harm")
    floor: float = Field(default=0.001, ge=0, lt=1, description="canary error rate below which nothing is harm")
    alpha: float = Field(default=0.01, gt=0, lt=1, description="risk of rolling back a good version")
    beta: float = Field(default=0.05, gt=0, lt=1, description="risk of promoting a version at the margin")
    latency_quantile: float = Field(default=0.95, gt=0, lt=1, description="latency quantile that is compared")
    latency_ratio: float = Field(default=1.5, gt=1, description="ratio of latency quantiles that is harm")
    latency_floor_seconds: float = Field(
        default=0.01, ge=0, description="difference of latency quantiles below which nothing is harm"
    )
    ready_timeout_minutes: float = Field(default=20, gt=0, description="a revision not ready by then is rolled back")
    deadline_minutes: float = Field(default=240, gt=0, description="the rollout is decided by then")
    on_deadline: Literal["roll_back", "freeze"] = Field(
        default="roll_back", description="what happens at the deadline, and to a rollout whose task was ended"
    )
    metrics: Literal["knative_otel", "knative_queue_proxy", "istio", "ml_serving", "kserve"] | None = Field(
        default=None,
        description="whose metrics tell requests, errors and latency of both sides: see docs/metrics.md; none given: "
        "knative_otel in Knative mode, istio in Standard mode",
    )
    errors: ErrorQueries | None = Field(
        default=None, description="failed and all requests by your own queries, in place of what `metrics` counts"
    )
    own_metrics: tuple[Annotated[OwnCounts | OwnGauge, Field(discriminator="kind")], ...] = Field(
        default=(), max_length=8, description="judged beside errors and latency"
    )
    lag_seconds: float = Field(
        default=2, ge=0, description="a look reads counters as they were so long ago: longer than a scrape takes"
    )

    notifiers: tuple[Notifier, ...] = Field(
        default=(),
        description='who is told how a rollout ended: `{"notifier": path of an Airflow notifier\'s class, '
        '"arguments": {…}}`; templates may use `message.subject`, `.body`, `.text` and `.html`',
    )

    @model_validator(mode="after")
    def _metrics_fit(self) -> Self:
        if self.metrics == "kserve" and self.errors is None:
            raise ValueError(
                "metrics 'kserve' needs errors: KServe's servers count no failed requests; give rollout.errors.events "
                "and rollout.errors.total, or take the metrics of another source"
            )
        names = [metric.name for metric in self.own_metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"own_metrics name {twice[0]!r} twice: reasons and reports could not be told apart")
        return self


class Settings(Section):
    """Everything a run of one model needs to know."""

    model: ModelName = Field(description="registered model and InferenceService")
    data_lake: Annotated[str, AfterValidator(_base_uri)] = Field(description="s3://bucket/prefix or file:///folder")
    experiment: str = Field(default="ml-lifecycle", min_length=1, description="MLflow experiment")
    connections: Connections = Connections()
    dataset: Dataset = Dataset()
    cluster: Cluster = Cluster()
    cost: Cost = Cost()
    training: Training = Training()
    gate: Gate = Gate()
    serving: Serving = Serving()
    rollout: Rollout = Rollout()

    @property
    def dataset_name(self) -> str:
        """The folder below `datasets/`."""
        return self.dataset.name or self.model


def parse_settings(
    variable: str | Mapping[str, Any], model: str, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """The settings of `model`: defaults, then the model's own, then `overrides`.

    `overrides` maps dotted paths (`training.epochs`) to values; None means "not given". Raises SettingsError
    that names the key, the value and what is allowed.
    """
    document = _document(variable)
    known = {"defaults", "models"}
    if unknown := sorted(set(document) - known):
        raise SettingsError(f"Variable ml_lifecycle: unknown key {unknown[0]!r}; allowed are {sorted(known)}")
    merged = overlay(document.get("defaults", {}), document.get("models", {}).get(model, {}))
    for path, value in (overrides or {}).items():
        if value is not None:
            merged = overlay(merged, _nested(path, value))
    try:
        return Settings.model_validate({**merged, "model": model})
    except ValidationError as error:
        raise SettingsError(_explain(error, model)) from error


def places(variable: str | Mapping[str, Any]) -> dict[str, list[Any]]:
    """Where any model's things may be: `clouds` as (Yandex connection, folder), and `kubernetes` connections.

    An empty folder is the connection's own. Reads no more than it needs: what is wrong elsewhere in the settings must
    not keep `clean_up` from its work.
    """
    document = _document(variable)
    clouds, kubernetes = set(), set()
    for own in ({}, *document.get("models", {}).values()):
        merged = overlay(document.get("defaults", {}), own)
        connections = merged.get("connections", {})
        folder = merged.get("cluster", {}).get("folder_id") or ""
        clouds.add((connections.get("yandex") or Connections().yandex, folder))
        kubernetes.add(connections.get("kubernetes") or Connections().kubernetes)
    return {"clouds": sorted(clouds), "kubernetes": sorted(kubernetes)}


def _document(variable: str | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(variable, str):
        try:
            variable = json.loads(variable)
        except json.JSONDecodeError as error:
            raise SettingsError(f"Variable ml_lifecycle is not JSON: {error}") from error
    if not isinstance(variable, Mapping):
        raise SettingsError(f"Variable ml_lifecycle must be a JSON object, not {type(variable).__name__}")
    return variable


def _nested(path: str, value: object) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: _nested(rest, value) if rest else value}


def overlay(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `top` says instead; objects are merged key by key."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return merged


def _explain(error: ValidationError, model: str) -> str:
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "settings"
        reason = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            reason = f"unknown setting; allowed here are {', '.join(_siblings(item['loc']))}"
        if item["type"] == "union_tag_not_found":
            reason = "kind is missing: say 'counts' or 'gauge'"
        given = "" if item["type"] == "missing" or isinstance(item["input"], Mapping) else f" = {item['input']!r}"
        lines.append(f"{key}{given}: {reason}")
    return f"settings of model {model!r}: " + "; ".join(lines)


def _siblings(location: tuple[int | str, ...]) -> list[str]:
    """The keys beside the one at `location`; a list's item and a union's member are not keys of their own."""
    sections: list[type[Section]] = [Settings]
    for part in location[:-1]:
        below = [section.model_fields[part].annotation for section in sections if part in section.model_fields]
        if below:
            sections = [found for annotation in below for found in sections_of(annotation)]
        elif isinstance(part, str):
            tagged = [section for section in sections if part in _kinds(section)]
            sections = tagged or sections
    return sorted({name for section in sections for name in section.model_fields})


def _kinds(section: type[Section]) -> tuple[str, ...]:
    """The values of the field that tells a union's members apart; none where it has no such field."""
    return get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()


def sections_of(annotation: Any) -> list[type[Section]]:
    """The sections that a field's annotation names, through lists, unions and None."""
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, Section) else []
    return [section for inner in get_args(annotation) for section in sections_of(inner)]
