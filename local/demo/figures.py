"""What the demo collects for its summary: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Training:
    """One training, and how its version passed the gate."""

    version: str
    ingest: dict[str, Any]
    evaluation: dict[str, Any]
    training: dict[str, Any]
    cluster: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadPoint:
    """A moment of the scaling chapter: seconds since its start, requests a second sent, replicas running."""

    at: float
    rate: float
    replicas: int


@dataclass
class Scaling:
    """What the scaler did while the load rose."""

    capacity: float
    points: list[LoadPoint] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)

    def full(self, replicas: int) -> float:
        """Requests a second that are all that so many replicas can take."""
        return replicas * self.capacity


@dataclass
class Figures:
    """Everything the summary tells."""

    model: str
    trainings: list[Training] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    scaling: Scaling | None = None
    clusters: list[dict[str, Any]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    mlflow: str = ""
    picture: str = ""
    service_url: str = ""

    def rollout(self, version: str) -> dict[str, Any]:
        """The report of a version's last rollout; empty if it had none."""
        return next((report for report in reversed(self.rollouts) if report["version"] == version), {})


@dataclass(frozen=True)
class Catch:
    """How a bad canary was caught: seconds from the first look to the verdict, what its users sent, what failed."""

    seconds: float
    requests: int
    failed: int

    @classmethod
    def of(cls, report: dict[str, Any]) -> Catch:
        """Of a rollout's report; seconds are 0 where it had no look."""
        looks = report.get("looks") or [{"at": 0.0, "canary": (0, 0)}]
        requests, failed = (sum(look["canary"][index] for look in looks) for index in (0, 1))
        return cls(looks[-1]["at"] - looks[0]["at"], requests, failed)
