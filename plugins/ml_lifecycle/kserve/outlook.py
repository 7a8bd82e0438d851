"""How long a verdict may take, and how many requests, by what the stable side served of late. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.plan import expected_seconds
from ml_lifecycle.canary.verdict import expected_requests
from ml_lifecycle.kserve.request import RolloutRequest


def outlook(request: RolloutRequest, history: Sequence[Window]) -> str:
    """One sentence; `history`: the stable side's looks before the rollout."""
    plan, limits = request.plan, request.limits
    if not any(plan.canary_steps):
        return "this plan asks for no evidence of users: it goes on once its checks have passed"
    requests = sum(window.stable.requests for window in history)
    errors = sum(window.stable.errors for window in history)
    if not requests:
        return "the stable side has served nothing of late: how long the verdict takes cannot be told"
    per_second, rate = requests / (len(history) * plan.look_seconds), errors / requests
    seconds = expected_seconds(plan, limits, requests_per_second=per_second, error_rate=rate)
    traffic = f"at {60 * per_second:.0f} requests a minute and {rate:.2%} errors"
    harm = f"a {limits.margin:g}× margin or a floor of {limits.floor:.2%}"
    if math.isinf(seconds):
        return (
            f"{traffic} this plan is not expected to clear {harm} before its deadline of "
            f"{plan.deadline_seconds / 60:g} minutes: raise margin, floor or deadline_minutes"
        )
    needed = expected_requests(limits, error_rate=rate, share=plan.canary_steps[-1] / 100)
    return (
        f"{traffic} this plan needs about {_duration(seconds)} to clear {harm}, which takes some {needed:.0f} canary "
        "requests; half of all good versions need longer"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
