"""What is measured in each cell: the product's verdict, the peers' and the oracle's, on the same streams."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np

from ml_lifecycle.canary.comparison import compare
from ml_lifecycle.canary.dispersion import Looks
from ml_lifecycle.canary.evidence import Evidence, Side, Window
from ml_lifecycle.canary.histogram import Histogram
from ml_lifecycle.canary.verdict import Limits, catastrophes
from tests.benchmarks.canary_oracle import first, looks_to_roll_back, looks_to_verdict
from tests.benchmarks.canary_peers import PEERS
from tests.benchmarks.canary_streams import LOOKS, SHARES, SOURCE_BOUNDS, STEP_LOOKS, Cell, Setting, Streams, simulate

CHUNK = 500
MARGIN = 1.5
RATIOS = (1.0, MARGIN, 2.0, 3.0, 5.0)
BURST_RATIOS = (1.0, MARGIN, 3.0)
RATES, BASES, SPREADS = (60, 300, 1200, 6000), (0.001, 0.005, 0.02), (0.0, 0.5, 1.0)
# The plan promotes on its last step only, after its dwell time.
MAY_PROMOTE = np.arange(LOOKS) >= 4 * STEP_LOOKS - 1


@dataclass
class Measured:
    """One cell: shares of rollouts, median looks to a verdict (infinite where half have none), mean errors suffered."""

    cell: Cell
    rollouts: int
    rolled_back: float
    promoted: float
    at_first_look: float
    looks: float
    oracle_looks: float
    suffered: float
    oracle_suffered: float
    canary_requests: float
    peers: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "cell": asdict(self.cell)}


def settings(*, full: bool) -> list[Setting]:
    """The grid of rates and base errors, then one factor varied at a time; with `full` all combinations."""
    if full:
        every = itertools.product(RATES, BASES, SPREADS, (False, True))
        return [Setting(rate, base, spread, incident) for rate, base, spread, incident in every]
    base = Setting()
    grid = [Setting(rate, error) for rate in RATES for error in BASES]
    varied = ({"incident": True}, {"spread": 0.5}, {"spread": 1.0}, {"history": 0})
    return [*grid, *(replace(base, **factor) for factor in varied)]


def bursts() -> list[Setting]:
    """Bursts of errors on either side alone that last for several looks: of a minute in looks of 5 s, and longer."""
    lengths = ({"look_seconds": 5, "burst": 12}, {"burst": 5}, {"burst": 15})
    places = ((1200, 0.005), (6000, 0.02))
    every = itertools.product(places, (0.5, 1.0), lengths)
    return [Setting(*place, spread=spread, **length) for place, spread, length in every]


def relative_limits() -> Limits:
    """The limits of the relative aims: the product's defaults without a floor."""
    return Limits(margin=MARGIN, floor=0.0)


def measure(cell: Cell, rollouts: int, seed: int, limits: Limits, *, peers: bool = True) -> Measured:
    """One cell, in chunks that bound the memory."""
    sizes = [min(CHUNK, rollouts - start) for start in range(0, rollouts, CHUNK)]
    parts = [_chunk(cell, size, seed + 1000 * index, limits, peers=peers) for index, size in enumerate(sizes)]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return Measured(
        cell=cell,
        rollouts=rollouts,
        rolled_back=float(columns["rolled_back"].mean()),
        promoted=float(columns["promoted"].mean()),
        at_first_look=float((columns["looks"] == 1).mean()),
        looks=float(np.median(columns["looks"])),
        oracle_looks=float(np.median(columns["oracle_looks"])),
        suffered=float(columns["suffered"].mean()),
        oracle_suffered=float(columns["oracle_suffered"].mean()),
        canary_requests=float(np.median(columns["canary_requests"])),
        peers={name: float(columns[name].mean()) for name in PEERS if peers},
    )


def _chunk(cell: Cell, rollouts: int, seed: int, limits: Limits, *, peers: bool) -> dict[str, np.ndarray]:
    streams = simulate(cell, rollouts, seed)
    roll_back, promote = (
        verdicts if cell.shift is None else partial(latency_verdicts, bounds=SOURCE_BOUNDS[cell.source])
    )(streams, limits)
    looks = first(roll_back | promote)
    rolled_back_at, promoted_at = first(roll_back), first(promote & MAY_PROMOTE)
    risks = {"alpha": limits.alpha, "beta": limits.beta}
    oracle_stops = looks_to_roll_back(cell, streams, **risks) if cell.ratio > 1 else np.full(rollouts, np.inf)
    return {
        "rolled_back": rolled_back_at < promoted_at,
        "promoted": promoted_at < rolled_back_at,
        "looks": looks,
        "oracle_looks": looks_to_verdict(cell, streams, margin=limits.margin, **risks),
        "suffered": _until(streams.canary_e, rolled_back_at),
        "oracle_suffered": _until(streams.canary_e, oracle_stops),
        "canary_requests": np.where(np.isfinite(looks), _until(streams.canary_n, looks), np.inf),
        **({name: rule(streams) for name, rule in PEERS.items()} if peers else {}),
    }


def verdicts(streams: Streams, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Whether the product's verdict is to roll back, or to promote, after each look."""
    nothing = np.zeros_like(streams.history_n)
    before = (nothing, nothing, streams.history_n, streams.history_e)
    looks = Looks(*(np.concatenate(pair, axis=1) for pair in zip(before, streams.counts, strict=True)))
    errors = compare(looks, limits.errors)
    roll_back = errors.roll_back | catastrophes(looks, limits.guardrail_alpha)
    return roll_back[:, -LOOKS:], (errors.promote & ~roll_back)[:, -LOOKS:]


def latency_verdicts(streams: Streams, limits: Limits, bounds: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same of latency alone: each rollout's slow requests as the product's evidence counts them."""
    rows = []
    for canary, stable in zip(streams.canary_latency, streams.stable_latency, strict=True):
        evidence = Evidence()
        for pair in zip(canary, stable, strict=True):
            sides = (
                Side(sum(counts), 0, Histogram(bounds, tuple(counts))) for counts in (each.tolist() for each in pair)
            )
            evidence = evidence.add(Window(*sides), limits.slow)
        forgotten = [(0, 0, 0, 0)] * (len(canary) - len(evidence.slow))
        rows.append([*forgotten, *(look.numbers for look in evidence.slow)])
    found = compare(Looks(*np.array(rows, dtype=np.float64).transpose(2, 0, 1)), limits.slow_requests)
    return found.roll_back, found.promote


def _until(values: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """Sums over the looks up to and with the last one of each rollout."""
    total = np.cumsum(values, axis=1)
    last = np.minimum(looks, LOOKS).astype(int) - 1
    return np.take_along_axis(total, last[:, None], axis=1)[:, 0]


def floor_cells() -> Iterator[tuple[str, Cell, Limits]]:
    """Rows with a floor: what is below it is no harm, whatever the ratio."""
    for floor, base, canary in (
        (0.01, 0.0, 0.0),
        (0.01, 0.0, 0.002),
        (0.01, 0.0, 0.01),
        (0.01, 0.0, 0.03),
        (0.01, 0.005, 0.005),
        (0.001, 0.0, 0.0),
        (0.001, 0.005, 0.005),
        (0.001, 0.005, 0.0075),
    ):
        text = f"floor {floor:.1%}, stable {base:.1%}, canary {canary:.2%}"
        yield text, Cell(Setting(base=base), canary_rate=canary), Limits(margin=MARGIN, floor=floor)


def catastrophe_cells() -> Iterator[tuple[str, Cell, Limits]]:
    """Rows for the guardrail: a canary that fails a third of its requests, half of them or all."""
    for rate, share in itertools.product((300, 1200), (0.3, 0.5, 1.0)):
        text = f"{rate}/min, canary fails {share:.0%} ({rate * SHARES[0]:.0f} requests a look)"
        yield text, Cell(Setting(rate=rate), canary_rate=share), relative_limits()


def latency_cells() -> Iterator[tuple[str, Cell, Limits]]:
    """Rows for latency: every request slower by 0, 20, 50 (the limit) and 100 %."""
    for rate, shift in itertools.product((300, 1200), (0.0, 0.2, 0.5, 1.0)):
        text = f"{rate:,}/min, {shift:.0%} slower, harm is 50%"
        yield text, Cell(Setting(rate=rate), shift=shift), Limits(latency_ratio=1.5, floor=0.0)


def source_cells() -> Iterator[tuple[str, Cell, Limits]]:
    """Rows for what the bounds of each source can tell, where requests take 20 and 150 ms at the median."""
    for median, source, shift in itertools.product((0.02, 0.15), SOURCE_BOUNDS, (0.0, 0.5, 1.0, 2.0)):
        text = f"{source}, {1000 * median:.0f} ms, {1 + shift:g} times, harm is 1.5 times"
        yield text, Cell(Setting(), shift=shift, source=source, median=median), Limits(latency_ratio=1.5, floor=0.0)
