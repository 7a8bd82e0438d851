"""What one rollout is asked to do: the version, and the settings it runs under. Travels as JSON between tasks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ml_lifecycle.canary.own_metrics import CountsLimits, GaugeLimits, OwnLimits
from ml_lifecycle.canary.plan import Gate, Plan
from ml_lifecycle.canary.verdict import Limits
from ml_lifecycle.data_lake.layout import Layout
from ml_lifecycle.kserve.names import check_names
from ml_lifecycle.settings import Connections, ModelName, OwnCounts, OwnGauge, Rollout, Serving, Settings, Step

# Blue-green: nobody's traffic until the checks have passed, then everybody's.
_AFTER_THE_CHECKS = Step(percent=0, dwell_seconds=0.001)


Digest = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


class RolloutRequest(BaseModel):
    """One version of one model onto its InferenceService, which bears the model's name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    model: ModelName
    version: str
    run_id: str = ""
    data_lake: str
    storage_uri: str
    digest: Digest = ""
    serving: Serving
    rollout: Rollout
    connections: Connections

    @classmethod
    def of(cls, settings: Settings, *, version: str, run_id: str = "") -> RolloutRequest:
        """The request that a model's settings make: the files lie where the data lake has them, and nowhere else.

        Whom to tell is no business of the Lease's readers: who tells them reads the settings. `digest` is known once
        the rollout opens and has read the files (`data_lake.published`). RolloutRefusedError: a name would be too long.
        """
        standard = settings.serving.deployment_mode == "Standard"
        check_names(settings.model, settings.serving.namespace, version, standard=standard)
        return cls(
            model=settings.model,
            version=version,
            run_id=run_id,
            data_lake=settings.data_lake,
            storage_uri=Layout(settings.data_lake).serving_files(settings.model, version),
            serving=settings.serving,
            rollout=settings.rollout.model_copy(update={"notifiers": ()}),
            connections=settings.connections,
        )

    @property
    def namespace(self) -> str:
        """The service's namespace."""
        return self.serving.namespace

    @property
    def golden_name(self) -> str:
        """Name of the ConfigMap that holds the version's golden cases."""
        return f"{self.model}-golden-{self.version}"

    @property
    def plan(self) -> Plan:
        """The steps of the strategy; rolling has none."""
        rollout = self.rollout
        steps = {"canary": rollout.steps, "blue_green": (_AFTER_THE_CHECKS, 100), "rolling": (100,)}[rollout.strategy]
        own = [step for step in steps if isinstance(step, Step)]
        return Plan(
            steps=tuple(step.percent if isinstance(step, Step) else step for step in steps),
            dwell_seconds=rollout.dwell_seconds,
            look_seconds=rollout.look_seconds,
            min_requests=rollout.min_requests,
            deadline_seconds=60 * rollout.deadline_minutes,
            on_deadline=rollout.on_deadline,
            gates={
                step.percent: Gate(step.dwell_seconds, step.min_requests, step.approval, step.until) for step in own
            },
            approval_seconds=3600 * rollout.approval_timeout_hours,
            warmup_looks=rollout.warmup_looks,
        )

    @property
    def limits(self) -> Limits:
        """What counts as harm."""
        rollout = self.rollout
        return Limits(
            margin=rollout.margin,
            floor=rollout.floor,
            alpha=rollout.alpha,
            beta=rollout.beta,
            latency_quantile=rollout.latency_quantile,
            latency_ratio=rollout.latency_ratio,
            latency_floor_seconds=rollout.latency_floor_seconds,
            own={metric.name: _own_limits(metric) for metric in rollout.own_metrics},
        )

    @property
    def lease_seconds(self) -> int:
        """How long the Lease lives without renewal: ten minutes, or three looks, or a smoke test where that is longer.

        Nothing renews it while the smoke test runs.
        """
        smoke_test = 60 * (self.serving.smoke_test_start_minutes + self.serving.smoke_test_minutes + 2)
        return max(600, int(3 * self.rollout.look_seconds), int(smoke_test))

    def unclosed(self, reason: str) -> dict[str, Any]:
        """What stands for the report where the rollout could not be closed."""
        return {"model": self.model, "version": self.version, "outcome": "not_closed", "reason": reason}

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return self.model_dump(mode="json")


def _own_limits(metric: OwnCounts | OwnGauge) -> OwnLimits:
    if isinstance(metric, OwnGauge):
        return GaugeLimits(metric.tolerance, metric.harm)
    return CountsLimits(metric.harm, metric.margin, metric.floor)
