"""The MLScaler resource: its spec, parsed and checked. Pure.

The API server checks the same rules (`k8s_templates/mlscaler_crd.yaml`); they stand here too because an object may
be older than its schema, and because the stand-in and a plain file know no CEL.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from ml_lifecycle.kubernetes.exceptions import UnknownKindError
from ml_lifecycle.kubernetes.resource import ResourceKind, kind_of
from ml_lifecycle.scaling.exceptions import InvalidScalerError
from ml_lifecycle.scaling.manifests import section, text
from ml_lifecycle.scaling.memory import remembered

FINALIZER = "ml-lifecycle.io/return-replicas"
INFERENCE_SERVICE_KIND = "InferenceService"
USUAL_QUANTILE = 0.95
USUAL_LEAD_SECONDS = 180  # until a replica has been seen to start
RATE_WINDOW_STEPS = 4  # of the preset's rate(); so its value is half of that old

# Of these an address in the API is made: none of them can lead out of the scaler's own namespace.
API_VERSION = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?v[0-9]+((alpha|beta)[0-9]+)?$"
KIND = r"^[A-Z][A-Za-z0-9]*$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

Mode = Literal["auto", "dryRun", "reactiveOnly", "off"]
Source = Literal["knative_otel", "knative_queue_proxy", "istio", "ml_serving", "kserve"]
Model = Literal["auto", "persistence", "trend", "seasonal", "ridge", "holtWinters", "straightLine"]
DeletionPolicy = Literal["ReturnToMin", "Keep"]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True, allow_inf_nan=False
    )


class TargetReference(_Part):
    """What is scaled: an InferenceService or anything with a scale subresource."""

    api_version: str = Field(max_length=253, pattern=API_VERSION)
    kind: str = Field(max_length=63, pattern=KIND)
    name: str = Field(max_length=253, pattern=OBJECT_NAME)

    @model_validator(mode="after")
    def _of_a_namespace(self) -> Self:
        if not self.resource_kind.namespaced:
            raise ValueError(f"a {self.kind} stands in no namespace, and a MLScaler scales what stands in its own")
        return self

    @property
    def group(self) -> str:
        """API group; empty for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def resource_kind(self) -> ResourceKind:
        """Where the API serves it; the plural of a kind that the package does not know is the regular one."""
        try:
            return kind_of({"apiVersion": self.api_version, "kind": self.kind})
        except UnknownKindError:
            version = self.api_version.rpartition("/")[2]
            return ResourceKind(self.group, version, self.kind, _plural(self.kind.lower()))


class Metric(_Part):
    """The load: a PromQL query that gives one series, or a preset and who counts for it."""

    query: str | None = Field(default=None, min_length=1, max_length=4096)
    preset: Literal["requests_per_second"] | None = None
    source: Source | None = None

    @property
    def counted_by(self) -> Source:
        """Who counts for the preset."""
        return self.source or "knative_otel"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.query is None) == (self.preset is None):
            raise ValueError("give either query (PromQL) or preset (requests_per_second), and not both")
        if self.source is not None and self.preset is None:
            raise ValueError(f"source {self.source!r} says who counts for a preset: leave it out where query is given")
        return self


class ScaleUp(_Part):
    """How fast replicas may be added: by the larger of the two limits in each period."""

    max_percent: int = Field(default=100, ge=0, le=10_000)
    max_pods: int = Field(default=4, ge=0, le=100_000)
    period_seconds: int = Field(default=15, ge=1, le=1800)


class ScaleDown(_Part):
    """How fast replicas may be taken away, and for how long the highest need is remembered."""

    max_percent: int = Field(default=100, ge=0, le=100)
    max_pods: int = Field(default=0, ge=0, le=100_000)
    period_seconds: int = Field(default=15, ge=1, le=1800)
    stabilization_window_seconds: int = Field(default=300, ge=0, le=3600)


class Behavior(_Part):
    """The paces."""

    scale_up: ScaleUp = ScaleUp()
    scale_down: ScaleDown = ScaleDown()


class ScalerSpec(_Part):
    """`spec` of a MLScaler; loads are in the metric's unit."""

    target_ref: TargetReference
    min_replicas: int = Field(default=1, ge=1, le=100_000)
    max_replicas: int = Field(ge=1, le=100_000)
    metric: Metric
    history_size: int = Field(default=10_080, ge=12, le=10_900)
    step_seconds: int = Field(default=60, ge=1, le=3600)
    capacity_per_replica: float | None = Field(default=None, gt=0)  # None: measured
    target_utilization: float = Field(default=0.8, gt=0, le=1)
    quantile: float | None = Field(default=None, ge=0.5, le=0.999)
    slo_violation_percent: float | None = Field(default=None, ge=0.1, le=50)
    lead_time_seconds: int | None = Field(default=None, ge=0, le=7200)  # None: measured
    forecast_model: Model = "auto"
    behavior: Behavior = Behavior()
    tolerance: float = Field(default=0.15, ge=0, lt=1)
    mode: Mode = "auto"
    deletion_policy: DeletionPolicy = "ReturnToMin"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} must not exceed maxReplicas {self.max_replicas}")
        if self.metric.preset and self.target_ref.kind != INFERENCE_SERVICE_KIND:
            raise ValueError(
                f"metric.preset {self.metric.preset!r} reads the requests of an InferenceService, and targetRef is a "
                f"{self.target_ref.kind}: give metric.query"
            )
        if self.quantile is not None and self.slo_violation_percent is not None:
            raise ValueError(
                f"quantile {self.quantile} is a fixed one, and sloViolationPercent {self.slo_violation_percent} "
                "steers it: give one"
            )
        return self

    @property
    def load_per_replica(self) -> float:
        """The load that one replica is given to carry; NaN while its capacity is not measured."""
        return (self.capacity_per_replica or math.nan) * self.target_utilization

    @property
    def covered(self) -> float:
        """The quantile of the load's peaks that replicas shall carry: as given, or what the SLO leaves."""
        if self.slo_violation_percent is not None:
            return 1 - self.slo_violation_percent / 100
        return USUAL_QUANTILE if self.quantile is None else self.quantile

    @property
    def allowed(self) -> float | None:
        """The share of the time in which replicas may be too few; None where the quantile is not steered by it."""
        steers = self.mode == "auto" and self.slo_violation_percent is not None
        return self.slo_violation_percent / 100 if steers and self.slo_violation_percent else None

    @property
    def lead_time(self) -> int:
        """Seconds from the decision to a ready replica."""
        return USUAL_LEAD_SECONDS if self.lead_time_seconds is None else self.lead_time_seconds

    @property
    def measures(self) -> bool:
        """Whether anything is to be measured."""
        return self.capacity_per_replica is None or self.lead_time_seconds is None

    @property
    def stabilization_steps(self) -> int:
        """Steps over which the highest need is remembered before replicas are taken away; at least 1."""
        return max(1, math.ceil(self.behavior.scale_down.stabilization_window_seconds / self.step_seconds))

    @property
    def history_points(self) -> int:
        """Samples to read: the history, and at least the stabilisation window."""
        return max(self.history_size, self.stabilization_steps)

    def horizon_steps(self, tick_seconds: float) -> int:
        """Steps to look ahead: the lead time, the time to the next pass, and the age of what the metric says."""
        lag = RATE_WINDOW_STEPS / 2 * self.step_seconds if self.metric.preset else 0.0
        return max(1, math.ceil((self.lead_time + max(tick_seconds, self.step_seconds) + lag) / self.step_seconds))

    @property
    def writes(self) -> bool:
        """Whether the mode lets it write to its target."""
        return self.mode in {"auto", "reactiveOnly"}


@dataclass(frozen=True)
class Scaler:
    """One MLScaler object; `spec` is None where it breaks a rule, and `invalid` then says which."""

    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    finalizers: tuple[str, ...]
    deleting: bool
    spec: ScalerSpec | None
    invalid: str
    status: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.namespace, self.name

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def parse_spec(spec: Any) -> ScalerSpec:
    """The spec with its defaults; InvalidScalerError names each field, its value and what is allowed."""
    try:
        return ScalerSpec.model_validate({} if spec is None else spec)
    except ValidationError as error:
        raise InvalidScalerError("; ".join(_explain(item) for item in error.errors())) from error


def parse_scaler(manifest: Mapping[str, Any]) -> Scaler:
    """The scaler that an API object describes; it never fails, so that one bad object stops no other."""
    metadata = section(manifest, "metadata")
    spec, invalid = None, ""
    try:
        spec = parse_spec(manifest.get("spec"))
    except InvalidScalerError as error:
        invalid = str(error)
    generation, finalizers = metadata.get("generation"), metadata.get("finalizers")
    return Scaler(
        namespace=text(manifest, "metadata", "namespace"),
        name=text(manifest, "metadata", "name"),
        uid=text(manifest, "metadata", "uid"),
        generation=generation if isinstance(generation, int) else 0,
        resource_version=text(manifest, "metadata", "resourceVersion"),
        finalizers=tuple(map(str, finalizers)) if isinstance(finalizers, list) else (),
        deleting=bool(metadata.get("deletionTimestamp")),
        spec=spec,
        invalid=invalid,
        status=remembered(manifest.get("status")),
    )


def within_rights(scaler: Scaler, own_queries: Sequence[str] | None) -> Scaler:
    """The scaler, invalid where it asks by a query of its own outside of the namespaces `own_queries`; None: all may.

    A query reads with the task's rights, whatever namespace its metrics are of, and what it finds stands on the status.
    """
    if scaler.spec is None or scaler.spec.metric.query is None:
        return scaler
    if own_queries is None or scaler.namespace in own_queries:
        return scaler
    reason = (
        f"spec.metric.query: scalers of namespace {scaler.namespace!r} may not ask by queries of their own: use "
        "metric.preset, or have the namespace named in the setting scaling.own_queries"
    )
    return dataclasses.replace(scaler, spec=None, invalid=reason)


def _explain(item: Mapping[str, Any]) -> str:
    path = ".".join(["spec", *(to_camel(str(part)) for part in item["loc"])])
    reason = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{path}: required"
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown field"
    given = "" if isinstance(item["input"], Mapping | BaseModel) else f" = {item['input']!r}"
    return f"{path}{given}: {reason}"


def _plural(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"
