"""What Prometheus says of both sides of a rollout."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from functools import partial

from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import NO_REQUESTS, Gap, Growths
from ml_lifecycle.kserve import queries
from ml_lifecycle.kserve.data_planes import Preset, filled, source
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.missing_metrics import why_nothing
from ml_lifecycle.kserve.naming import answered, is_open, question
from ml_lifecycle.kserve.outlook import outlook
from ml_lifecycle.kserve.own_queries import refusals
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import Kind, RolloutState
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError

log = logging.getLogger(__name__)

_FIRST_WINDOW_SECONDS = 60.0
_LONGEST_SECONDS = 3600.0


async def growths(state: RolloutState, prometheus: PrometheusClient, now: float) -> Growths | Gap:
    """What both sides' counters grew by since the last look, at `now` (Unix seconds).

    A Gap with the reason where Prometheus does not answer, or refuses now what it answered at `open`.
    """
    preset = _preset(state)
    sides = state.revision, state.stable_revision
    # After longer than that the look begins anew: a query over half a day may never be answered.
    since = now - min(now - state.snapshot.at, _LONGEST_SECONDS) if state.snapshot else now - _FIRST_WINDOW_SECONDS
    try:
        found = await queries.growths(
            prometheus,
            preset,
            service=state.service,
            namespace=state.request.namespace,
            canary=sides[0],
            stable=sides[1],
            at=now,
            window_seconds=now - since,
        )
        if state.snapshot and found.is_empty:
            why = await why_nothing(prometheus, preset, state.request.namespace, sides, found.at)
            # Under names that are only guessed, nothing found is not nothing served: the next look reaches back.
            return Gap(f"{NO_REQUESTS}: {why}") if _unnamed(state) else replace(found, why=why)
    except PrometheusError as error:
        return Gap(_brief(error))
    return found


async def history(state: RolloutState, prometheus: PrometheusClient, now: float) -> tuple[Window, ...]:
    """The stable side's looks before `now`; PrometheusError where they cannot be read."""
    return await queries.history(
        prometheus,
        _preset(state),
        service=state.service,
        namespace=state.request.namespace,
        stable=state.stable_revision,
        end=now,
        step=state.request.rollout.look_seconds,
    )


async def expected(state: RolloutState, prometheus: PrometheusClient, now: float) -> str:
    """What this plan can tell at the stable side's traffic before `now`; empty where nobody knows it."""
    if state.kind is not Kind.CANARY or not state.stable_revision:
        return ""
    try:
        windows = await history(state, prometheus, now)
    except PrometheusError as error:
        return f"how long a verdict takes is not known yet: {_brief(error)}"
    return outlook(state.request, windows)


async def named(state: RolloutState, prometheus: PrometheusClient, now: float, *, aloud: bool = False) -> RolloutState:
    """With the names of both sides in Prometheus, where the settings leave them open and any series has them by `now`.

    Where there is none, and `aloud`, the log says what Prometheus has instead, and what to configure.
    """
    metrics = state.request.rollout.metrics
    sides = tuple(filter(None, (state.revision, state.stable_revision)))
    if not sides or not _unnamed(state):
        return state
    try:
        naming = answered(await prometheus.instant(question(sides), now), state.request.namespace, metrics)
        if naming is not None:
            log.info("requests are told by %s", naming)
        elif aloud:
            why = await why_nothing(prometheus, _preset(state), state.request.namespace, sides, now)
            log.warning("no requests of %s can be told yet: %s", " and ".join(sides), why)
    except PrometheusError as error:
        log.warning("how Prometheus names the requests of %s is not known yet: %s", state.service, _brief(error))
        return state
    return replace(state, naming=naming)


def _unnamed(state: RolloutState) -> bool:
    return state.naming is None and is_open(state.request.rollout.metrics, standard=state.standard)


def _preset(state: RolloutState) -> Preset:
    preset = source(state.request.rollout, standard=state.standard)
    return state.naming.applied(preset) if state.naming else preset


async def check_prometheus(prometheus: PrometheusClient, request: RolloutRequest, at: float) -> None:
    """RolloutRefusedError where Prometheus does not answer, or refuses a query: a canary could not be judged.

    The queries are those of a look, with the names that a first revision has in either mode.
    """
    side = f"{request.model}-predictor"
    fill = partial(filled, side=side, service=request.model, namespace=request.namespace, window_seconds=60)
    preset = source(request.rollout)
    try:
        await prometheus.instant("vector(1)", at)
        refused = await refusals(prometheus, preset, fill, at=at)
    except PrometheusError as error:
        raise RolloutRefusedError(f"the canary could not be judged: {error}") from error
    if refused:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise RolloutRefusedError(f"the canary could not be judged, mend the queries in rollout: {reasons}")
    try:
        sides = {"service": request.model, "namespace": request.namespace, "canary": f"{side}-00002", "stable": side}
        await queries.growths(prometheus, replace(preset, errors=None, own=()), **sides, at=at, window_seconds=60)
    except PrometheusError as error:
        raise RolloutRefusedError(
            f"the canary could not be judged: the queries for {preset.count} are not answered: {_brief(error)}"
        ) from error


def _brief(error: PrometheusError) -> str:
    """With the beginning of the query: one that is quoted in full is longer than all else on the Lease."""
    return re.sub(r"'([^']{200})[^']+'", r"'\1…'", str(error))
