"""Streams of a rollout's counts, many rollouts at once: what the gates of the benchmark are shown.

One look a minute, ten looks each at 5, 10 and 25 % of the traffic, then 50 %, a hundred looks in all.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

LOOKS = 100
STEP_LOOKS = 10
SHARES = np.repeat([0.05, 0.1, 0.25, 0.5], [STEP_LOOKS, STEP_LOOKS, STEP_LOOKS, LOOKS - 3 * STEP_LOOKS])
INCIDENT_TIMES, INCIDENT_LOOKS = 4.0, 8
# Knative's bounds of kn_serving_invocation_duration_seconds; the last bucket is open.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
MEDIAN_SECONDS, LATENCY_SPREAD = 0.02, 0.6


@dataclass(frozen=True)
class Setting:
    """The world of a rollout: requests a minute, base error rate, and how that rate varies.

    `spread` is the coefficient of variation of each side's own rate from minute to minute; `incident`: both sides
    err four times as often for eight minutes; `history`: minutes of the stable side alone, before the canary.
    """

    rate: int = 1200
    base: float = 0.005
    spread: float = 0.0
    incident: bool = False
    history: int = 60


@dataclass(frozen=True)
class Cell:
    """A setting and the canary: its errors, as a multiple of the base rate or as they are, its latency's shift."""

    setting: Setting = Setting()
    ratio: float = 1.0
    canary_rate: float | None = None
    shift: float | None = None

    @property
    def canary_base(self) -> float:
        """The canary's error rate without dispersion and incident."""
        return min(1.0, self.setting.base * self.ratio) if self.canary_rate is None else self.canary_rate

    def with_ratio(self, ratio: float) -> "Cell":
        return replace(self, ratio=ratio)


@dataclass(frozen=True)
class Streams:
    """Counts by rollout and look, what the oracle knows of them, and histograms where latency is judged."""

    canary_n: np.ndarray
    canary_e: np.ndarray
    stable_n: np.ndarray
    stable_e: np.ndarray
    history_n: np.ndarray
    history_e: np.ndarray
    true_base: np.ndarray
    canary_latency: np.ndarray | None = None
    stable_latency: np.ndarray | None = None

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.canary_n, self.canary_e, self.stable_n, self.stable_e


def simulate(cell: Cell, rollouts: int, seed: int) -> Streams:
    """The same streams for the same cell and seed, whatever else is simulated."""
    rng = np.random.default_rng((seed, zlib.crc32(repr(cell).encode())))
    setting, shape = cell.setting, (rollouts, LOOKS)
    canary_n = rng.poisson(setting.rate * SHARES, shape)
    stable_n = rng.poisson(setting.rate * (1 - SHARES), shape)
    level = np.ones(shape)
    if setting.incident:
        since = np.arange(LOOKS) - rng.integers(0, LOOKS // 2, (rollouts, 1))
        level[(since >= 0) & (since < INCIDENT_LOOKS)] = INCIDENT_TIMES
    bad = {}
    for side, n, rate in (("canary", canary_n, cell.canary_base), ("stable", stable_n, setting.base)):
        own = rng.gamma(1 / setting.spread**2, setting.spread**2, shape) if setting.spread else 1.0
        bad[side] = rng.binomial(n, np.minimum(1.0, rate * level * own))
    before = (rollouts, setting.history)
    history_n = rng.poisson(setting.rate, before)
    own = rng.gamma(1 / setting.spread**2, setting.spread**2, before) if setting.spread else 1.0
    history_e = rng.binomial(history_n, np.minimum(1.0, setting.base * np.broadcast_to(own, before)))
    latency = {}
    if cell.shift is not None:
        latency = {
            "canary_latency": _histograms(rng, canary_n, 1 + cell.shift),
            "stable_latency": _histograms(rng, stable_n, 1.0),
        }
    counts = (canary_n, bad["canary"], stable_n, bad["stable"], history_n, history_e)
    numbers = [each.astype(np.float64) for each in counts]
    return Streams(*numbers, true_base=setting.base * level, **latency)


def _histograms(rng: np.random.Generator, requests: np.ndarray, slower: float) -> np.ndarray:
    """Counts by bucket of lognormal latencies, `slower` times the usual."""
    sample = MEDIAN_SECONDS * slower * np.exp(LATENCY_SPREAD * rng.standard_normal(400_000))
    shares = np.bincount(np.searchsorted(BOUNDS, sample), minlength=len(BOUNDS) + 1) / len(sample)
    return rng.multinomial(requests, shares)
