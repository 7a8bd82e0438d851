"""How many replicas a side of a rollout needs, from what the stable side runs. Pure.

Ready replicas of the stable side carry all the load, so `percent` of it needs that share of them. In Knative mode, and
in Standard mode with the autoscaler class `external`, a side is sized by its own object: the Revision's min-scale, the
Deployment's scale. With another class KServe sizes by minReplicas in the spec, and takes the replicas of a ready canary
off the stable side's minimum at once, whatever the percent: so that minimum is raised by them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml_lifecycle.kserve.predictor import Predictor

MIN_SCALE = "autoscaling.knative.dev/min-scale"
MAX_SCALE = "autoscaling.knative.dev/max-scale"
# What a Deployment's rolling update may go without: its maxUnavailable, a quarter.
_MISSING = 4


@dataclass(frozen=True)
class Running:
    """Of one revision: replicas that are asked for, those that are ready, its own ceiling, and why others are not."""

    asked: int = 0
    ready: int = 0
    ceiling: int | None = None
    why: str = ""

    @classmethod
    def of(cls, owner: Mapping[str, Any] | None) -> Running:
        """Of a Revision or a Deployment (None: there is none)."""
        if owner is None:
            return cls()
        spec, status = owner.get("spec") or {}, owner.get("status") or {}
        if owner.get("kind") == "Deployment":
            return cls(int(spec.get("replicas", 1)), int(status.get("readyReplicas") or 0))
        annotations = owner["metadata"].get("annotations") or {}
        ceiling = int(annotations.get(MAX_SCALE) or 0) or None
        return cls(int(annotations.get(MIN_SCALE) or 1), int(status.get("actualReplicas") or 0), ceiling)

    def needs(self, replicas: int) -> int:
        """What of `replicas` it may have."""
        return replicas if self.ceiling is None else min(replicas, self.ceiling)

    def short(self, revision: str, replicas: int, *, late: bool = False) -> str:
        """What is missing of `replicas`; empty where all are ready, or where it is `late` all but a quarter."""
        wanted = self.needs(replicas)
        if self.ready >= (wanted - wanted // _MISSING if late else wanted):
            return ""
        return f"{self.ready} of {wanted} replicas of {revision} are ready" + (f": {self.why}" if self.why else "")


def share(replicas: int, percent: int) -> int:
    """Of the stable side's replicas, those that `percent` of the load needs; at least 1."""
    return max(1, math.ceil(replicas * percent / 100))


def raised(predictor: Predictor, replicas: int) -> Predictor:
    """With at least so many replicas."""
    least = max(predictor.min_replicas or 1, replicas)
    most = predictor.max_replicas
    return replace(predictor, min_replicas=least, max_replicas=None if most is None else max(most, least))


def beside(
    stable: Predictor, canary: Predictor, replicas: int, percent: int, *, external: bool
) -> tuple[Predictor, Predictor]:
    """Both sides in the spec of Standard mode, the stable one running `replicas`, the canary taking `percent` of them.

    The canary has neither a maximum nor a target, which KServe does not allow it. It is given its replicas even at 0 %,
    and with `external` one: there others write the Deployment's scale.
    """
    canary = replace(canary, max_replicas=None, scale_metric=None, scale_target=None)
    if external:
        return stable, replace(canary, min_replicas=1)
    needed = max(replicas, stable.min_replicas or 1)
    own = share(needed, percent)
    return raised(stable, needed + own), replace(canary, min_replicas=own)
