"""One picture for each trace: a stretch of it with replicas, and violation time over cost for every policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.scaling_replay import Counts, Course
from tests.benchmarks.scaling_table import Sweep

SHOWN_MINUTES = 720


def plot(
    on: Course, sweeps: Mapping[int, Sequence[Sweep]], asked: Mapping[int, Mapping[str, Counts]], folder: Path
) -> Path:
    """Writes `<trace>.png`; `asked` holds the replicas asked for, by lead and policy, one lane."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(sweeps), figsize=(6 * len(sweeps), 9), squeeze=False)
    stretch = _liveliest(on)
    hours = np.arange(len(on.demand))[stretch] / 60
    for column, lead in enumerate(sweeps):
        top, bottom = axes[:, column]
        top.step(hours, on.demand[stretch], "k", lw=0.8, label="needed")
        for policy, lane in asked[lead].items():
            top.step(hours, lane[stretch], lw=1, label=policy)
        top.set(title=f"{on.trace.name}, {lead} min to start", xlabel="hours", ylabel="replicas asked for")
        top.legend()
        for sweep in sweeps[lead]:
            costs = [score.cost for score in sweep.scores]
            shares = [max(100 * score.violation, 1e-3) for score in sweep.scores]
            bottom.plot(costs, shares, "o-", ms=3, lw=1, label=sweep.policy)
        bottom.set(xlabel="replica-hours over the oracle's", ylabel="violation time, %", yscale="log", xlim=(0.95, 2))
        bottom.legend()
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{on.trace.name}.png"
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    return path


def _liveliest(on: Course) -> slice:
    """The scored stretch in which the need changes most."""
    first = int(on.scored.argmax())
    size = min(SHOWN_MINUTES, len(on.demand) - first)
    change = np.abs(np.diff(on.demand[first:], prepend=on.demand[first])).astype(float)
    total = np.convolve(change, np.ones(size), mode="valid")
    begin = first + int(total.argmax())
    return slice(begin, begin + size)
