from __future__ import annotations

import dataclasses
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.scaling.forecast import Forecast
from ml_lifecycle.scaling.policy import Cause, Limit, Observation, Period, plan, plans
from ml_lifecycle.scaling.resource import ScalerSpec
from tests.unit.scaling.scaler_objects import spec

NOW = 1_800_000_000.0
loads = st.floats(min_value=0, max_value=5000)


def predicted(peak: float, *, trusted: bool = True, recent: float | None = None) -> Forecast:
    return Forecast(peak, peak, peak, peak, peak if recent is None else recent, "trend", 0.3, trusted, "")


def observed(replicas: int = 2, load: float | None = 60.0, **changes: object) -> Observation:
    base = Observation(replicas=replicas, load=load, recent_load=load, coverage=1.0)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@st.composite
def specs(draw: st.DrawFn) -> ScalerSpec:
    low = draw(st.integers(1, 20))
    return spec(
        minReplicas=low,
        maxReplicas=low + draw(st.integers(0, 50)),
        tolerance=draw(st.sampled_from([0.0, 0.1, 0.3])),
        mode=draw(st.sampled_from(["auto", "dryRun", "reactiveOnly"])),
    )


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    load = draw(st.one_of(st.none(), st.just(math.nan), loads))
    peak = draw(st.one_of(st.none(), st.just(math.nan), loads))
    return Observation(
        replicas=draw(st.integers(1, 100)),
        load=load,
        recent_load=None if load is None else draw(loads),
        coverage=draw(st.floats(0, 1)),
        forecast=None if peak is None else predicted(peak, trusted=draw(st.booleans())),
        period=draw(st.one_of(st.none(), st.builds(Period, st.booleans(), st.just(NOW - 5), st.integers(1, 100)))),
    )


@given(specs(), observations())
def test_always_within_bounds(rules: ScalerSpec, seen: Observation) -> None:
    assert rules.min_replicas <= plan(rules, seen, NOW).desired <= rules.max_replicas


@given(specs(), observations())
def test_never_down_on_missing_data(rules: ScalerSpec, seen: Observation) -> None:
    missing = seen.load is None or math.isnan(seen.load) or seen.coverage < 0.8 or seen.recent_load is None
    if missing:
        assert plan(rules, seen, NOW).desired >= min(seen.replicas, rules.max_replicas)


@given(specs(), observations(), loads, loads)
@settings(max_examples=100)
def test_more_load_never_means_fewer_replicas(rules: ScalerSpec, seen: Observation, one: float, other: float) -> None:
    low, high = sorted((one, other))
    fewer, more = (plan(rules, dataclasses.replace(seen, load=load), NOW).desired for load in (low, high))
    assert fewer <= more


@given(st.lists(st.tuples(specs(), observations()), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=50)
def test_a_plan_depends_on_its_own_target_alone(batch: list[tuple[ScalerSpec, Observation]], random: st.DrawFn) -> None:
    random.shuffle(batch)  # type: ignore[attr-defined]
    together = plans([rules for rules, _ in batch], [seen for _, seen in batch], NOW)
    assert together == [plan(rules, seen, NOW) for rules, seen in batch]


@given(specs(), observations())
def test_a_plan_says_why(rules: ScalerSpec, seen: Observation) -> None:
    decided = plan(rules, seen, NOW)
    assert decided.reason
    if decided.changes:
        assert decided.cause in {Cause.FORECAST, Cause.LOAD, Cause.LESS, Cause.BOUNDS, Cause.BLIND}


def test_the_forecast_adds_replicas_before_the_load_needs_them() -> None:
    decided = plan(spec(), observed(replicas=1, load=30, forecast=predicted(90)), NOW)
    assert (decided.desired, decided.predicted, decided.cause) == (3, 3, Cause.FORECAST)
    assert decided.reason == "load 30, forecast 90; a replica is given 40"


def test_a_rise_is_answered_with_the_reserve() -> None:
    """So that the next small rise asks for nothing."""
    forecast = dataclasses.replace(predicted(90), alarm=85, reserve=130)
    assert plan(spec(), observed(replicas=1, load=30, forecast=forecast), NOW).desired == 4
    assert plan(spec(), observed(replicas=3, load=30, forecast=forecast), NOW).cause is Cause.STEADY


def test_it_acts_at_the_alarm_and_not_at_the_peak() -> None:
    """A peak that creeps over what the replicas carry moves them once, and not at every step."""
    forecast = dataclasses.replace(predicted(81), alarm=79, reserve=82)
    steady = plan(spec(), observed(replicas=2, load=30, forecast=forecast), NOW)
    assert (steady.cause, steady.predicted) == (Cause.STEADY, 3)
    assert steady.reason == "load 30, forecast 81: nearly what 2 replicas carry"
    rising = plan(spec(), observed(replicas=2, load=30, forecast=dataclasses.replace(forecast, alarm=80.5)), NOW)
    assert rising.desired == 3


def test_an_untrusted_forecast_is_the_margin_of_the_load() -> None:
    decided = plan(spec(), observed(replicas=1, load=38, forecast=predicted(45, trusted=False)), NOW)
    assert (decided.desired, decided.predicted) == (2, 2)


def test_reactive_only_ignores_the_forecast() -> None:
    assert plan(spec(mode="reactiveOnly"), observed(replicas=1, load=30, forecast=predicted(90)), NOW).desired == 1


def test_the_load_is_the_floor_of_the_need() -> None:
    assert plan(spec(), observed(replicas=1, load=90, forecast=predicted(10)), NOW).desired == 3


def test_tolerance_slows_scaling_down_and_never_up() -> None:
    assert plan(spec(), observed(replicas=2, load=79), NOW).cause is Cause.STEADY
    assert plan(spec(), observed(replicas=2, load=81), NOW).desired == 3
    assert plan(spec(maxReplicas=30), observed(replicas=20, load=685), NOW).cause is Cause.STEADY
    assert plan(spec(maxReplicas=30), observed(replicas=20, load=675), NOW).desired == 17


def test_a_high_need_a_while_ago_counts_with_the_same_tolerance() -> None:
    """Else replicas would go down one by one behind a load that falls slowly."""
    seen = observed(replicas=20, load=500, recent_load=685)
    assert plan(spec(maxReplicas=30), seen, NOW).cause is Cause.STABILIZING
    assert plan(spec(maxReplicas=30), dataclasses.replace(seen, recent_load=675), NOW).desired == 17


def test_the_surge_is_limited_for_a_whole_period() -> None:
    first = plan(spec(), observed(replicas=1, load=390), NOW)
    assert (first.desired, first.limit) == (5, Limit.PACE_UP)
    assert "wants 10, the pace allows 5" in first.reason
    again = plan(spec(), observed(replicas=5, load=390, period=first.period), NOW + 5)
    assert (again.desired, again.limit) == (5, Limit.PACE_UP)
    later = plan(spec(), observed(replicas=5, load=390, period=first.period), NOW + 15)
    assert later.desired == 10


def test_scaling_down_remembers_the_window() -> None:
    waiting = plan(spec(), observed(replicas=5, load=30, recent_load=170), NOW)
    assert (waiting.desired, waiting.cause) == (5, Cause.STABILIZING)
    part = plan(spec(), observed(replicas=5, load=30, recent_load=90), NOW)
    assert (part.desired, part.cause) == (3, Cause.LESS)
    forecast = plan(spec(), observed(replicas=5, load=30, forecast=predicted(35, recent=150)), NOW)
    assert forecast.desired == 4


def test_what_was_just_added_stays_for_the_window() -> None:
    """Even where the forecast that asked for it is no longer trusted."""
    seen = observed(replicas=5, load=30)
    waiting = plan(spec(), dataclasses.replace(seen, scaled_up_at=NOW - 59), NOW)
    assert (waiting.desired, waiting.cause) == (5, Cause.STABILIZING)
    assert plan(spec(), dataclasses.replace(seen, scaled_up_at=NOW - 61), NOW).desired == 1


def test_scaling_down_has_a_pace() -> None:
    rules = spec(behavior={"scaleDown": {"maxPercent": 10, "maxPods": 1, "stabilizationWindowSeconds": 0}})
    decided = plan(rules, observed(replicas=10, load=30), NOW)
    assert (decided.desired, decided.limit) == (9, Limit.PACE_DOWN)


def test_holes_in_the_data_hold() -> None:
    assert plan(spec(), observed(replicas=5, load=30, coverage=0.7), NOW).cause is Cause.FEW_METRICS
    held = plan(spec(), observed(replicas=5, load=None), NOW)
    assert (held.desired, held.cause) == (5, Cause.NO_METRICS)


def test_holes_in_the_data_do_not_stop_scaling_up() -> None:
    assert plan(spec(), observed(replicas=1, load=90, coverage=0.3), NOW).desired == 3


def test_without_metrics_a_forecast_may_add_replicas_and_takes_none_away() -> None:
    rising = plan(spec(), observed(replicas=1, load=None, recent_load=None, forecast=predicted(90)), NOW)
    assert (rising.desired, rising.cause) == (3, Cause.BLIND)
    assert rising.reason == "no fresh sample, forecast 90; a replica is given 40"
    falling = plan(spec(), observed(replicas=5, load=None, recent_load=None, forecast=predicted(90)), NOW)
    assert (falling.desired, falling.cause) == (5, Cause.NO_METRICS)


def test_the_targets_own_limit_counts() -> None:
    decided = plan(spec(), observed(replicas=2, load=300, ceiling=4), NOW)
    assert (decided.desired, decided.limit) == (4, Limit.MAXIMUM)


def test_off_and_zero_are_left_alone() -> None:
    assert plan(spec(mode="off", minReplicas=3), observed(replicas=1, load=300), NOW).cause is Cause.OFF
    assert plan(spec(), observed(replicas=0, load=300), NOW).cause is Cause.ZERO
