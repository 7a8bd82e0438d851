"""How long a verdict may take, and how many requests, by what the stable side served of late. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ml_lifecycle.canary.bounds import untold, vague
from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.plan import Plan, expected_seconds, looks_to_see
from ml_lifecycle.canary.verdict import Limits, expected_requests
from ml_lifecycle.kserve.request import RolloutRequest

# Times as many errors: a clear regression, and a grave one.
_REGRESSIONS = (3, 10)


def outlook(request: RolloutRequest, history: Sequence[Window]) -> str:
    """A few sentences; `history`: the stable side's looks before the rollout."""
    plan, limits = request.plan, request.limits
    if not any(plan.canary_steps):
        return "this plan asks for no evidence of users: it goes on once its checks have passed"
    requests = sum(window.stable.requests for window in history)
    errors = sum(window.stable.errors for window in history)
    if not requests:
        return "the stable side has served nothing of late: how long the verdict takes cannot be told"
    per_second, rate = requests / (len(history) * plan.look_seconds), errors / requests
    traffic = f"at {60 * per_second:.0f} requests a minute and {rate:.2%} errors"
    said = [
        f"{traffic} {_clearing(plan, limits, per_second, rate)}",
        _regressions(plan, limits, per_second, rate),
        _hidden(plan, limits, per_second, errors, requests),
        _latency(limits, history),
    ]
    return "; ".join(filter(None, said))


def _clearing(plan: Plan, limits: Limits, per_second: float, rate: float) -> str:
    """How long a good version takes."""
    seconds = expected_seconds(plan, limits, requests_per_second=per_second, error_rate=rate)
    harm = f"a {limits.margin:g}× margin or a floor of {limits.floor:.2%}"
    if math.isinf(seconds):
        return (
            f"this plan is not expected to clear {harm} before its deadline of "
            f"{plan.deadline_seconds / 60:g} minutes: raise margin, floor or deadline_minutes"
        )
    needed = expected_requests(limits, error_rate=rate, share=plan.canary_steps[-1] / 100)
    return (
        f"this plan needs about {_duration(seconds)} to clear {harm}, which takes some {needed:.0f} canary requests; "
        "half of all good versions need longer"
    )


def _regressions(plan: Plan, limits: Limits, per_second: float, rate: float) -> str:
    """Which bad versions are seen by the deadline, and when; what would help where none is.

    They fail 3 and 10 times as often as the stable side, or as the floor where 3 times is no harm by definition.
    """
    base, whose = (rate, "the stable side") if _REGRESSIONS[0] * rate > limits.floor else (limits.floor, "the floor")
    found = {times: _seen(plan, limits, per_second, rate, times * base) for times in _REGRESSIONS if times * base <= 1}
    if not found:
        return ""
    if all(map(math.isinf, found.values())):
        worst = max(found)
        return (
            f"no version that fails up to {worst} times as often as {whose} can be seen by the deadline: "
            f"{_remedy(plan, limits, per_second, rate, worst * base)}"
        )
    words = [
        f"{times} times as often ({times * base:.3%}) is "
        + ("not seen by the deadline" if math.isinf(looks) else f"seen after about {_counted(looks)}")
        for times, looks in found.items()
    ]
    return f"a version that fails more often than {whose}: {', '.join(words)}"


def _seen(plan: Plan, limits: Limits, per_second: float, rate: float, canary_rate: float) -> float:
    return looks_to_see(plan, limits, requests_per_second=per_second, error_rate=rate, canary_rate=canary_rate)


def _remedy(plan: Plan, limits: Limits, per_second: float, rate: float, canary_rate: float) -> str:
    """What would let a canary of that error rate be seen."""
    longer = [replace(plan, deadline_seconds=times * plan.deadline_seconds) for times in (2, 4, 8)]
    larger = replace(plan, steps=(max(50, *plan.canary_steps), 100))
    ways = [(f"deadline_minutes of {each.deadline_seconds / 60:g}", each) for each in longer]
    enough = [words for words, each in ways if math.isfinite(_seen(each, limits, per_second, rate, canary_rate))][:1]
    if larger.steps != plan.steps and math.isfinite(_seen(larger, limits, per_second, rate, canary_rate)):
        enough.append(f"a first step of {larger.steps[0]} %")
    return (
        f"it takes {' or '.join(enough)}" if enough else "it takes more traffic, or longer looks with a later deadline"
    )


def _hidden(plan: Plan, limits: Limits, per_second: float, errors: int, requests: int) -> str:
    """That the floor hides a threefold harm, and the floor to set; empty where it does not.

    Of a side that has hardly failed, its requests tell how often it fails at most: three in all (95 %).
    """
    rate, times = max(errors, 3) / requests, _REGRESSIONS[0]
    if times * rate >= limits.floor:
        return ""
    words = (
        f"the floor of {limits.floor:.2%} hides harm: a canary that fails {times} times as often as the stable side "
        f"({errors} of {requests}) counts as no worse; "
    )
    for floor in (rate, 2 * rate):
        lower = replace(limits, floor=floor)
        seconds = expected_seconds(plan, lower, requests_per_second=per_second, error_rate=errors / requests)
        if math.isfinite(seconds):
            return f"{words}set rollout.floor to {floor:.1g}, which a good version clears in {_duration(seconds)}"
    if errors < 3:
        return ""  # so little is known of a side that hardly fails that there is no floor to advise
    return f"{words}this traffic clears no lower floor by the deadline: a later deadline_minutes lets you lower it"


def _counted(looks: float) -> str:
    return "1 look" if looks == 1 else f"{looks:.0f} looks"


def _latency(limits: Limits, history: Sequence[Window]) -> str:
    """What the bounds of latency cannot tell; empty where they tell all, or no durations are known."""
    stable = sum((window.stable.latency for window in history), Histogram())
    if not stable.total:
        return ""
    if reason := untold(stable, limits.slow):
        return f"latency cannot be judged, so that no version is promoted: {reason}"
    return vague(stable, limits.slow)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
