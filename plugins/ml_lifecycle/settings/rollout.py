"""How a new version takes over the traffic, and what it is judged by."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from ml_lifecycle.secrets import find_secrets
from ml_lifecycle.settings.section import Seconds, Section

# What a query of one's own may name: the revision (Knative mode) or Service (Standard mode) of a side, a regular
# expression for its pods, the InferenceService, its namespace, and the time since the last look.
PLACEHOLDERS = ("side", "pods", "service", "namespace", "window")
BUILT_IN_METRICS = ("errors", "latency", "guardrail")


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


PromQL = Annotated[str, AfterValidator(_promql)]


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
        for secret in find_secrets(self.arguments):
            raise ValueError(
                f"argument {secret.where!r} would put a secret into settings ({secret.what}): put it into a "
                "connection, and name that"
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
    warmup_looks: int = Field(
        default=0,
        ge=0,
        le=100,
        description="the canary's first looks with requests that are seen and logged but judged by the guardrail alone",
    )
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
        "in Knative mode Knative's, by whatever labels Prometheus has of it, in Standard mode istio",
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
