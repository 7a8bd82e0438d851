"""The highest load of the coming lead time, for a batch of services at once. Pure; torch.

Works in log-load relative to what one replica carries, so that one setting fits every service. Three models
predict by how much the highest load of the next `horizon` steps exceeds the load now:

- persistence: not at all;
- trend: the slope of the last steps goes on, as far as it stands out from the series' own noise;
- ridge: the trend, corrected by a regression on lags and on the same window one day and one week ago.

Each model's residuals, in units of the series' volatility at their time, give the quantile that is added to it; the
pinball loss of the result over the recent past chooses the model. Where nothing beats persistence the forecast is not
trusted, and the caller acts on the load alone.

Formulas: Koenker and Bassett 1978 (pinball loss); Papadopoulos et al. 2002 (normalised conformal quantile);
closed-form leave-one-out residuals as in Hastie et al., The Elements of Statistical Learning, 7.10.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d, pad

MODELS = ("persistence", "trend", "ridge")

DAY_SECONDS, WEEK_SECONDS = 86_400, 604_800
CARRIED_GAP = 2  # steps over which a missing sample takes the value before it
LAGS = (1, 2, 4, 8)
OFFSET = 0.1  # replicas; keeps the logarithm of an idle service finite
LONGEST_GROWTH = float(np.log(3.0))  # no forecast says more than threefold
CALIBRATION_POINTS = 720  # residuals that the quantile is taken from
ENOUGH_FOR_QUANTILE = 100  # below it: the normal quantile of the median absolute residual
FEWEST_ORIGINS = 6  # finished forecasts without which nothing is trusted
# Forecasts that overlap tell little more than one: these count in horizons.
HORIZONS_FOR_ANY = 2
HORIZONS_FOR_RIDGE = 10
SIGNIFICANT_SLOPE = 2.0  # standard errors
VOLATILITY_STEPS = 6
PENALTY = 1.0  # of the ridge, times the horizon, in samples
SKILL = 0.02  # share of persistence's loss that a model must save
BENEFIT_OF_DOUBT = 0.05  # of its loss, to the trend while the load rises beyond its noise
CELLS_PER_CHUNK = 2_000_000  # bounds the memory: cells of (series x time)


@dataclass(frozen=True)
class Question:
    """What is asked about one series."""

    loads: NDArray[np.float64]  # [time], oldest first, the last is now; NaN is a gap
    scale: float  # load that one replica carries
    horizon: int  # steps ahead
    quantile: float
    lookback: int = 1  # steps over which `recent_peak` looks back
    step_seconds: float = 60.0


@dataclass(frozen=True)
class Forecast:
    """The highest load of the coming horizon, in units of load."""

    expected: float  # median
    peak: float  # the quantile that was asked for
    recent_peak: float  # highest `peak` that the last `lookback` steps would have said
    model: str
    skill: float  # share of persistence's loss that the model saved, over the recent past
    trusted: bool
    reason: str


def forecast(questions: Sequence[Question], *, device: str = "cpu") -> list[Forecast]:
    """One answer for each question, in order; a question's answer does not depend on its company."""
    groups: dict[tuple[int, float], list[int]] = defaultdict(list)
    for index, question in enumerate(questions):
        groups[question.horizon, question.step_seconds].append(index)
    answers: dict[int, Forecast] = {}
    for (horizon, step), members in groups.items():
        longest = max(len(questions[index].loads) for index in members)
        size = max(1, CELLS_PER_CHUNK // max(1, longest))
        for start in range(0, len(members), size):
            chunk = members[start : start + size]
            batch = _forecast_batch([questions[index] for index in chunk], horizon, step, torch.device(device))
            answers.update(zip(chunk, batch, strict=True))
    return [answers[index] for index in range(len(questions))]


def _forecast_batch(
    questions: Sequence[Question], horizon: int, step_seconds: float, device: torch.device
) -> list[Forecast]:
    longest = max(max(len(question.loads) for question in questions), max(LAGS) + 1)
    loads = np.full((len(questions), longest), np.nan, dtype=np.float32)
    for index, question in enumerate(questions):
        if len(question.loads):
            loads[index, -len(question.loads) :] = question.loads
    scale = _column([question.scale for question in questions], device)
    quantile = _column([question.quantile for question in questions], device)

    level = _carry(torch.log(torch.from_numpy(loads).to(device) / scale + OFFSET))  # [series, time]
    peak, finished = _highest_ahead(level, horizon)
    growth = peak - level
    known = finished & growth.isfinite()
    origins = known.sum(dim=1, keepdim=True)

    decay = _decay(level.isfinite().sum(dim=1, keepdim=True), horizon, longest)
    weight = torch.where(known, decay, 0.0)
    trend = _trend(level, horizon)
    correction, left_out = _ridge(
        _features(level, peak, trend, horizon, step_seconds), growth - trend, weight, PENALTY * horizon
    )
    predicted = torch.stack([torch.zeros_like(level), trend, trend + correction])  # [model, series, time]
    residual = growth - predicted
    residual[2] = torch.where(known, left_out, residual[2])

    volatility = _volatility(level)
    margin = torch.stack([volatility * _margin(error / volatility, weight, quantile) for error in residual])
    loss = torch.stack(
        [_loss(error, above, known, decay, quantile) for error, above in zip(residual, margin, strict=True)]
    ).squeeze(-1)  # [model, series]
    loss[2] = torch.where(origins.squeeze(-1) >= HORIZONS_FOR_RIDGE * horizon, loss[2], torch.inf)
    # A rise that has just begun has no past to be proven on, and waiting for the proof would be too late.
    rising = trend[:, -1] > margin[0, :, -1]
    loss[1] = torch.where(rising, (1 - BENEFIT_OF_DOUBT) * loss[1], loss[1])
    best = loss.argmin(dim=0)  # [series]; the simpler model wins a tie

    row = torch.arange(len(questions), device=device)
    chosen, above = predicted[best, row], margin[best, row]  # [series, time]
    said = level + (chosen + above).clamp(max=LONGEST_GROWTH)  # [series, time]
    expected = (level + chosen.clamp(max=LONGEST_GROWTH))[:, -1]
    skill = torch.where(loss[0] > 1e-6, 1 - loss[best, row] / loss[0], 0.0)
    recent = _highest_recent(said, [question.lookback for question in questions])

    results = zip(
        _loads(expected, scale),
        _loads(said[:, -1], scale),
        _loads(recent, scale),
        best.tolist(),
        skill.tolist(),
        origins.squeeze(-1).tolist(),
        rising.tolist(),
        strict=True,
    )
    needed = max(FEWEST_ORIGINS, HORIZONS_FOR_ANY * horizon)
    return [_answer(*result, rising=up, needed=needed) for *result, up in results]


def _answer(
    expected: float, peak: float, recent: float, best: int, skill: float, origins: int, *, rising: bool, needed: int
) -> Forecast:
    peak = max(peak, expected)
    trusted = False
    if not np.isfinite(peak):
        reason = "no sample now: nothing to forecast from"
    elif origins < needed:
        reason = f"history too short: {origins} finished forecasts, {needed} are needed"
    elif best == 0 or skill < SKILL:
        reason = "no model beats the load's last value: acting on the load alone"
    elif best == 1 and rising:
        trusted = True
        reason = "the load rises beyond its noise: its trend is followed"
    else:
        trusted = True
        reason = f"{MODELS[best]} misses {skill:.0%} less than the load's last value"
    return Forecast(expected, peak, max(recent, peak), MODELS[best] if trusted else MODELS[0], skill, trusted, reason)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device).unsqueeze(1)


def _loads(level: Tensor, scale: Tensor) -> list[float]:
    """[series] of log-levels as loads."""
    return ((level.exp() - OFFSET).clamp(min=0) * scale.squeeze(1)).tolist()


def _shift(values: Tensor, steps: int) -> Tensor:
    """Each value `steps` later; NaN where nothing was."""
    return pad(values, (steps, 0), value=torch.nan)[..., : values.shape[-1]]


def _carry(level: Tensor) -> Tensor:
    for _ in range(CARRIED_GAP):
        level = torch.where(level.isnan(), _shift(level, 1), level)
    return level


def _highest_ahead(level: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """The highest of the next `horizon` values at each point, and whether all of them are there.

    Where some are missing the highest of the others is a lower bound; NaN where none is there.
    """
    ahead = pad(level[:, 1:], (0, horizon), value=torch.nan)
    there = ahead.isfinite()
    highest = max_pool1d(torch.where(there, ahead, -torch.inf).unsqueeze(1), horizon, stride=1).squeeze(1)
    missing = max_pool1d((~there).float().unsqueeze(1), horizon, stride=1).squeeze(1)
    return torch.where(highest.isfinite(), highest, torch.nan), missing == 0


def _highest_recent(said: Tensor, lookbacks: Sequence[int]) -> Tensor:
    """[series]: the highest of the last values, each series over its own lookback."""
    time = said.shape[1]
    steps = torch.tensor(lookbacks, device=said.device).unsqueeze(1)
    recent = torch.arange(time, device=said.device) >= time - steps
    return torch.where(recent & said.isfinite(), said, -torch.inf).amax(dim=1)


def _decay(samples: Tensor, horizon: int, time: int) -> Tensor:
    """[series, time]: 1 for now, half of it one half-life ago; longer histories forget more slowly."""
    half_life = torch.clamp(samples / 8.0, min=5.0 * horizon)
    age = torch.arange(time - 1, -1, -1, device=samples.device, dtype=torch.float32)
    return torch.exp2(-age / half_life)


def _trend(level: Tensor, horizon: int) -> Tensor:
    """Growth if the load goes on as a straight line; the median of three slopes, so that one spike is no trend."""
    slope = level - _shift(level, 1)
    slopes = torch.stack([slope, _shift(slope, 1), _shift(slope, 2)])
    middle = slopes.nan_to_num(0.0).median(dim=0).values
    turn = (slope - _shift(slope, 1)).abs()
    noise = 0.7 * turn.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0) + 1e-3
    real = (1 - (SIGNIFICANT_SLOPE * noise / middle.abs().clamp(min=1e-6)) ** 2).clamp(min=0)
    steps = torch.where(middle > 0, float(horizon), 1.0)  # a falling load is highest at the next step
    share = (1 - torch.exp(-middle)) * real  # of the load now that one step adds
    return torch.log1p((share * steps).clamp(min=-0.9)).clamp(max=LONGEST_GROWTH)


def _volatility(level: Tensor) -> Tensor:
    """How much the slope changes in a step around each point; never 0."""
    slope = level - _shift(level, 1)
    turn = (slope - _shift(slope, 1)).abs()
    usual = turn.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0)
    recent = avg_pool1d(pad(turn.nan_to_num(0.0), (VOLATILITY_STEPS - 1, 0)).unsqueeze(1), VOLATILITY_STEPS, stride=1)
    return recent.squeeze(1) + usual + 1e-3


def _ridge(features: Tensor, target: Tensor, weight: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Predicted target at every point, and the leave-one-out residuals; both [series, time].

    `features` [series, time, feature]; the penalty, in samples, pulls the prediction towards 0.
    """
    total = weight.sum(dim=1).clamp(min=1e-6)
    size = ((features.square() * weight.unsqueeze(-1)).sum(dim=1) / total.unsqueeze(-1)).sqrt()
    features = features / size.clamp(min=1e-4).unsqueeze(1)
    weighted = features * weight.unsqueeze(-1)
    gram = (weighted.transpose(1, 2) @ features).double()
    inverse = torch.linalg.inv(gram + penalty * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    moment = (weighted.transpose(1, 2) @ target.nan_to_num(0.0).unsqueeze(-1)).double()
    predicted = (features @ (inverse @ moment).float()).squeeze(-1)
    leverage = ((features @ inverse.float()) * weighted).sum(dim=-1).clamp(max=0.9)
    return predicted, (target - predicted) / (1 - leverage)


def _features(level: Tensor, peak: Tensor, trend: Tensor, horizon: int, step_seconds: float) -> Tensor:
    """[series, time, feature]; all relative to the level now, 0 where history does not reach."""
    columns = [torch.ones_like(level), trend]
    columns += [level - _shift(level, lag) for lag in LAGS]
    for period in (DAY_SECONDS, WEEK_SECONDS):
        lag = round(period / step_seconds)
        if horizon < lag < level.shape[1] - 1:
            columns += [_shift(peak, lag) - level, _shift(peak - level, lag)]
    return torch.stack(columns, dim=-1).nan_to_num(0.0)


def _margin(residual: Tensor, weight: Tensor, quantile: Tensor) -> Tensor:
    """[series, 1]: what to add to a model so that `quantile` of the peaks stay below.

    From few residuals no high quantile can be read, and one past jump would count for ever: there it is the normal
    quantile of the median absolute residual.
    """
    residual, weight = residual[:, -CALIBRATION_POINTS:], weight[:, -CALIBRATION_POINTS:]
    spread = 1.4826 * _weighted_quantile(residual.abs(), weight, torch.full_like(quantile, 0.5))
    normal = spread * torch.special.ndtri(quantile)
    conformal = _weighted_quantile(residual, weight, quantile, unseen=1.0)
    return torch.where((weight > 0).sum(dim=1, keepdim=True) >= ENOUGH_FOR_QUANTILE, conformal, normal)


def _weighted_quantile(values: Tensor, weight: Tensor, quantile: Tensor, unseen: float = 0.0) -> Tensor:
    """[series, 1]; `unseen` is the weight of the next, unknown value, taken as infinite. 0 where there is no weight."""
    ordered, order = torch.where(weight > 0, values, torch.inf).sort(dim=1)
    weight = weight.gather(1, order)
    mass = weight.cumsum(dim=1)
    share = mass / (mass[:, -1:] + unseen).clamp(min=1e-9)
    last = ((weight > 0).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    position = torch.minimum((share < quantile).sum(dim=1, keepdim=True), last)
    return ordered.gather(1, position).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _loss(residual: Tensor, margin: Tensor, known: Tensor, decay: Tensor, quantile: Tensor) -> Tensor:
    """[series, 1]: mean pinball loss, recent points counting more.

    A forecast whose horizon has not passed can already be proven too low, so that a beginning rise counts at once.
    """
    error = residual - margin
    too_low = quantile * error.clamp(min=0)
    loss = torch.where(known, too_low + (1 - quantile) * (-error).clamp(min=0), too_low)
    weight = torch.where(residual.isfinite(), decay, 0.0)
    return (weight * loss.nan_to_num(0.0)).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
