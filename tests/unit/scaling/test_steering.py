from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_lifecycle.kubernetes.resource import DEPLOYMENT
from ml_lifecycle.scaling.steering import (
    AIM,
    DAY_SECONDS,
    GROWTH,
    HIGHEST,
    UNWRITTEN,
    Allowance,
    begun,
    bounds,
    steered,
)
from tests.unit.scaling.scaler_objects import scaler
from tests.unit.scaling.scaling_world import START, World, stand_in, world

__all__ = ["stand_in", "world"]

ALLOWED, TICK = 0.005, 60.0


def after(minutes: int, short: Callable[[int, float], bool], allowed: float = ALLOWED) -> tuple[Allowance, float]:
    """The allowance after so many passes, and the share of them that were short; `short` of minute and allowance."""
    allowance, count = begun(allowed, 0.0), 0
    for minute in range(1, minutes + 1):
        now = minute * TICK
        is_short = short(minute, allowance.grown(allowed, now))
        allowance = steered(allowance, allowed, now, short=is_short, seconds=TICK)
        count += is_short
    return allowance, count / minutes


def test_while_the_load_is_carried_the_allowance_grows_to_its_bound_and_no_further() -> None:
    day, _ = after(1440, lambda *_: False)
    assert day.grown(ALLOWED, DAY_SECONDS) == pytest.approx(ALLOWED * math.exp(GROWTH), rel=0.01)
    week, _ = after(7 * 1440, lambda *_: False)
    assert week.grown(ALLOWED, 7 * DAY_SECONDS) == HIGHEST


def test_one_short_minute_takes_back_what_grew_while_one_is_allowed() -> None:
    quiet = round(1 / (AIM * ALLOWED))
    allowance, _ = after(quiet, lambda minute, _: minute == quiet)
    assert allowance.missed == pytest.approx(ALLOWED, rel=0.01)


@given(st.floats(0.002, 0.05), st.floats(0.01, 2.0), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_the_share_of_short_minutes_stays_below_what_the_theorem_says(
    allowed: float, per_miss: float, seed: int
) -> None:
    """Whatever share of the missed peaks makes a minute short, as long as none does at the least allowance."""
    random, days = np.random.default_rng(seed), 6
    least, highest = bounds(allowed)

    def short(_: int, missed: float) -> bool:
        return bool(random.random() < per_miss * (missed - least))

    _, share = after(days * 1440, short, allowed)
    assert share <= AIM * allowed * (1 + math.log(highest / least) / (GROWTH * days)) + 1 / (days * 1440)


def test_where_peaks_are_missed_without_harm_about_what_is_allowed_is_used() -> None:
    random = np.random.default_rng(1)
    _, share = after(20 * 1440, lambda _, missed: bool(random.random() < missed / 20))
    assert 0.4 * ALLOWED < share < ALLOWED


def test_time_in_which_nobody_looked_earns_next_to_nothing() -> None:
    before = Allowance(ALLOWED, 0.0)
    assert before.grown(ALLOWED, 90 * DAY_SECONDS) == pytest.approx(UNWRITTEN * ALLOWED)
    assert before.grown(ALLOWED, -5.0) == ALLOWED


def test_it_is_written_seldom_while_the_load_is_carried() -> None:
    allowance, written = begun(ALLOWED, 0.0), 0
    for minute in range(1, 1441):
        after_pass = steered(allowance, ALLOWED, minute * TICK, short=False, seconds=TICK)
        written += after_pass is not allowance
        allowance = after_pass
    assert 1 <= written <= 9


def test_an_slo_that_was_tightened_holds_at_once() -> None:
    loose = Allowance(0.5, 0.0)
    assert steered(loose, 0.001, TICK, short=False, seconds=TICK).missed == pytest.approx(HIGHEST)


def test_only_a_scaler_with_a_slo_that_acts_is_steered() -> None:
    for changes, allowed in (
        ({"sloViolationPercent": 0.5}, 0.005),
        ({"sloViolationPercent": 0.5, "mode": "dryRun"}, None),
        ({"quantile": 0.9}, None),
        ({}, None),
    ):
        spec = scaler(**changes).spec
        assert spec is not None
        assert spec.allowed == allowed


async def missed(world: World) -> float:
    return float((await world.stored())["status"]["steering"]["missedPercent"])


async def ready(world: World, replicas: int) -> None:
    status = {"status": {"replicas": replicas, "readyReplicas": replicas}}
    await world.kubernetes.merge_patch(DEPLOYMENT, "web", "models", status, subresource="status")


async def test_too_few_ready_replicas_make_the_forecast_more_careful(world: World) -> None:
    await world.deployment(replicas=3)
    await world.scaler(sloViolationPercent=5)
    await ready(world, 3)
    world.prometheus.load = lambda _: 100.0
    await world.run(0)
    assert await missed(world) == 5
    await ready(world, 2)
    await world.run(5)
    after_one = await missed(world)
    assert after_one < 5
    await ready(world, 3)
    await world.run(10)
    assert await missed(world) == after_one
    written = datetime.fromisoformat((await world.stored())["status"]["steering"]["time"])
    assert written == START.replace(second=5, tzinfo=UTC)


async def test_what_no_forecast_could_have_mended_does_not_steer(world: World) -> None:
    """At the most replicas that are allowed, or none that is ready: an outage of the service."""
    await world.deployment(replicas=3)
    await world.scaler(sloViolationPercent=5, maxReplicas=3)
    world.prometheus.load = lambda _: 500.0
    await ready(world, 3)
    await world.run(0)
    await world.run(5)
    assert await missed(world) == 5
