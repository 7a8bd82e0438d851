"""What the demo collects for its summary: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Training:
    """One training and what became of its version."""

    version: str
    ingest: dict[str, Any]
    evaluation: dict[str, Any]
    training: dict[str, Any]
    cluster: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, str] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)


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
    scaling: Scaling | None = None
    clusters: list[dict[str, Any]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    mlflow: str = ""
    service_url: str = ""
