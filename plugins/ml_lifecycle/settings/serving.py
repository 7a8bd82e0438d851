"""What serves a model, and how it is set on an InferenceService."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ml_lifecycle.runtimes import RuntimeName
from ml_lifecycle.settings.section import Section

CPU = r"^(0\.[0-9]*[1-9][0-9]*|[1-9][0-9]*(\.[0-9]+)?|[1-9][0-9]*m)$"
BYTES = r"^[1-9][0-9]*(\.[0-9]+)?(k|[KMGT]i|[MGT])?$"
UNITS = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def _amount(quantity: str) -> float:
    """A Kubernetes quantity in cores or bytes."""
    number = quantity.rstrip("mkKMGTi")
    return float(number) * UNITS.get(quantity.removeprefix(number), 1.0)


NodeLabel = Annotated[
    str, Field(pattern=r"^([a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$")
]
NodeLabelValue = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$")]


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

    smoke_test_start_minutes: float = Field(
        default=5, gt=0, le=60, description="the smoke test's pod may take so long to start; a slow pull needs more"
    )
    smoke_test_minutes: float = Field(default=2, gt=0, le=30, description="then the test may take so long")
    smoke_test_cpu: Annotated[str, Field(pattern=CPU)] = Field(
        default="500m", description="CPU request and limit of the smoke test's pod"
    )
    smoke_test_memory: Annotated[str, Field(pattern=BYTES)] = Field(
        default="512Mi", description="memory request and limit of the smoke test's pod"
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
