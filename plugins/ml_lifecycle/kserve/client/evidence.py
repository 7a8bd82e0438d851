"""What Prometheus says of both sides of a rollout."""

from __future__ import annotations

from functools import partial

from ml_lifecycle.canary.evidence import Window
from ml_lifecycle.canary.snapshot import Gap, Snapshot
from ml_lifecycle.kserve import queries
from ml_lifecycle.kserve.data_planes import filled, source
from ml_lifecycle.kserve.exceptions import RolloutRefusedError
from ml_lifecycle.kserve.own_queries import refusals
from ml_lifecycle.kserve.request import RolloutRequest
from ml_lifecycle.kserve.rollout import RolloutState
from ml_lifecycle.prometheus.client import PrometheusClient
from ml_lifecycle.prometheus.exceptions import PrometheusError, PrometheusUnavailableError

_FIRST_WINDOW_SECONDS = 60.0


async def counters(state: RolloutState, prometheus: PrometheusClient, now: float) -> Snapshot | Gap:
    """Both sides' counters at `now` (Unix seconds); a Gap with the reason where Prometheus does not answer."""
    window = now - state.snapshot.at if state.snapshot else _FIRST_WINDOW_SECONDS
    try:
        return await queries.snapshot(
            prometheus,
            source(state.request.rollout, standard=state.standard),
            service=state.service,
            namespace=state.request.namespace,
            canary=state.revision,
            stable=state.stable_revision,
            at=now,
            window_seconds=window,
        )
    except PrometheusUnavailableError as error:
        return Gap(str(error))


async def history(state: RolloutState, prometheus: PrometheusClient, now: float) -> tuple[Window, ...]:
    """The stable side's looks before `now`; PrometheusUnavailableError where they cannot be read."""
    return await queries.history(
        prometheus,
        source(state.request.rollout, standard=state.standard),
        service=state.service,
        namespace=state.request.namespace,
        stable=state.stable_revision,
        end=now,
        step=state.request.rollout.look_seconds,
    )


async def check_prometheus(prometheus: PrometheusClient, request: RolloutRequest, at: float) -> None:
    """RolloutRefusedError where Prometheus does not answer, or refuses a query: a canary could not be judged."""
    try:
        await prometheus.instant("vector(1)", at)
        side = f"{request.model}-predictor"
        fill = partial(filled, side=side, service=request.model, namespace=request.namespace, window_seconds=60)
        refused = await refusals(prometheus, source(request.rollout), fill, at=at)
    except PrometheusError as error:
        raise RolloutRefusedError(f"the canary could not be judged: {error}") from error
    if refused:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise RolloutRefusedError(f"the canary could not be judged, mend the queries in rollout: {reasons}")
