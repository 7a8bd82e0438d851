"""Streams of a rollout's counts, many rollouts at once: what the gates of the benchmark are shown.

Ten looks each at 5, 10 and 25 % of the traffic, then 50 %, a hundred looks in all; a look is a minute unless said.
"""

import zlib
from dataclasses import dataclass, replace

import numpy as np

from local.ingress.metrics import BUCKETS, MESH_BUCKETS
from serving.metrics import LATENCY_BUCKETS

LOOKS = 100
STEP_LOOKS = 10
SHARES = np.repeat([0.05, 0.1, 0.25, 0.5], [STEP_LOOKS, STEP_LOOKS, STEP_LOOKS, LOOKS - 3 * STEP_LOOKS])
INCIDENT_TIMES, INCIDENT_LOOKS = 4.0, 8
# The bounds of each source's histogram of durations, in seconds; the last bucket is open.
SOURCE_BOUNDS = {
    "knative_otel": BUCKETS,
    "knative_queue_proxy": tuple(
        milliseconds / 1000
        for milliseconds in (
            *(5, 10, 20, 40, 60, 80, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 900),
            *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
        )
    ),
    "istio": tuple(milliseconds / 1000 for milliseconds in MESH_BUCKETS),
    "ml_serving": LATENCY_BUCKETS,
    "kserve": BUCKETS,  # prometheus_client's
}
BOUNDS = SOURCE_BOUNDS["knative_otel"]
MEDIAN_SECONDS, LATENCY_SPREAD = 0.02, 0.6


@dataclass(frozen=True)
class Setting:
    """The world of a rollout: requests a minute, base error rate, how that rate varies, and how long a look is.

    `spread` is the coefficient of variation of each side's own rate, which stays for `burst` looks and then changes;
    `incident`: both sides err four times as often for eight looks; `history`: looks of the stable side alone, before
    the canary.
    """

    rate: int = 1200
    base: float = 0.005
    spread: float = 0.0
    incident: bool = False
    history: int = 240
    burst: int = 1
    look_seconds: int = 60


@dataclass(frozen=True)
class Cell:
    """A setting and the canary: its errors, as a multiple of the base rate or as they are, its latency's shift.

    Latency has a median, in seconds, and is counted by the bounds of a source.
    """

    setting: Setting = Setting()
    ratio: float = 1.0
    canary_rate: float | None = None
    shift: float | None = None
    source: str = "knative_otel"
    median: float = MEDIAN_SECONDS

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
    requests = setting.rate * setting.look_seconds / 60
    canary_n = rng.poisson(requests * SHARES, shape)
    stable_n = rng.poisson(requests * (1 - SHARES), shape)
    level = np.ones(shape)
    if setting.incident:
        since = np.arange(LOOKS) - rng.integers(0, LOOKS // 2, (rollouts, 1))
        level[(since >= 0) & (since < INCIDENT_LOOKS)] = INCIDENT_TIMES
    own = {
        side: _own_rates(rng, setting, rollouts, looks)
        for side, looks in (("canary", LOOKS), ("stable", setting.history + LOOKS))
    }
    canary_e = rng.binomial(canary_n, np.minimum(1.0, cell.canary_base * level * own["canary"]))
    stable_e = rng.binomial(stable_n, np.minimum(1.0, setting.base * level * own["stable"][:, setting.history :]))
    history_n = rng.poisson(requests, (rollouts, setting.history))
    history_e = rng.binomial(history_n, np.minimum(1.0, setting.base * own["stable"][:, : setting.history]))
    latency = {}
    if cell.shift is not None:
        latency = {
            "canary_latency": _histograms(rng, canary_n, cell, 1 + cell.shift),
            "stable_latency": _histograms(rng, stable_n, cell, 1.0),
        }
    counts = (canary_n, canary_e, stable_n, stable_e, history_n, history_e)
    numbers = [each.astype(np.float64) for each in counts]
    return Streams(*numbers, true_base=setting.base * level, **latency)


def _own_rates(rng: np.random.Generator, setting: Setting, rollouts: int, looks: int) -> np.ndarray:
    """What one side's base rate is multiplied by at each look; bursts begin at any look."""
    if not setting.spread:
        return np.ones((rollouts, looks))
    values = rng.gamma(1 / setting.spread**2, setting.spread**2, (rollouts, looks // setting.burst + 2))
    burst = (np.arange(looks) + rng.integers(0, setting.burst, (rollouts, 1))) // setting.burst
    return np.take_along_axis(values, burst, axis=1)


def _histograms(rng: np.random.Generator, requests: np.ndarray, cell: Cell, slower: float) -> np.ndarray:
    """Counts by bucket of lognormal latencies, `slower` times the usual."""
    bounds = SOURCE_BOUNDS[cell.source]
    sample = cell.median * slower * np.exp(LATENCY_SPREAD * rng.standard_normal(400_000))
    shares = np.bincount(np.searchsorted(bounds, sample), minlength=len(bounds) + 1) / len(sample)
    return rng.multinomial(requests, shares)
