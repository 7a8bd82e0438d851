"""What stands for samples that are missing or cannot be: for a batch of series at once. Pure; torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CARRIED_GAP = 2  # steps for which the value before it stands for a missing one
BLIND_SHARE = 12  # of a day, of an outage, for which yesterday's course goes on: two hours
BEFORE_OUTAGE = 8  # steps from whose mean that course is taken
DIP = 8.0  # usual steps by which a single sample must lie below its neighbours to be no load
LEAST_DIP = 0.1  # in the logarithm of load
NOISE_EVERY = 16  # the usual step is taken from so few of them


@dataclass(frozen=True)
class Filled:
    """A batch without gaps, and without dips."""

    level: Tensor  # [series, time]
    present: Tensor  # [series, time]: whether it is a sample
    first: Tensor  # [series, 1]: step of the first sample
    fresh: Tensor  # [series]: whether there is a sample now
    known: Tensor  # [series]: whether anything is known of now


def fill(values: Tensor, day: int) -> Filled:
    """`values` [series, time], NaN in gaps; `day` in steps.

    A gap has the value before it. After an outage of more than CARRIED_GAP steps nothing is known of now; but of a
    series of two days and more the level goes on as it went yesterday, for two hours.
    """
    present = values.isfinite()
    fresh = present[:, -1 - CARRIED_GAP :].any(dim=1)
    if bool(present.all()):
        level = _without_dips(values, values, values, present)
        return Filled(level, present, torch.zeros_like(fresh, dtype=torch.long).unsqueeze(1), fresh, fresh)
    first = present.to(torch.uint8).argmax(dim=1, keepdim=True)
    before, after = _latest(present), values.shape[1] - 1 - _latest(present.flip(1)).flip(1)
    last = before[:, -1:]
    # Behind the last sample nothing is known: it may be a dip.
    steps = torch.arange(values.shape[1], device=values.device)
    coming = torch.where(steps <= last, values.gather(1, after), torch.inf)
    clean = _without_dips(values, values.gather(1, before), coming, present)
    level = clean.gather(1, torch.maximum(before, first)).nan_to_num_(0.0)
    blind_steps = day // BLIND_SHARE
    blind = ~fresh & present[:, -1 - blind_steps :].any(dim=1) & (first[:, 0] < values.shape[1] - 2 * day)
    rows = blind.nonzero()[:, 0]
    if len(rows):
        level[rows] = _as_yesterday(level[rows], last[rows], day)
    return Filled(level, present, first, fresh, fresh | blind)


def _as_yesterday(level: Tensor, last: Tensor, day: int) -> Tensor:
    """The level goes on from its last sample, at step `last` [series, 1], as it went from there a day before."""
    tail = torch.arange(level.shape[1], device=level.device)[-(day // BLIND_SHARE) :]
    before = (last - torch.arange(BEFORE_OUTAGE, device=level.device)).clamp(min=0)
    now, then = (level.gather(1, (before - lag).clamp(min=0)).mean(dim=1, keepdim=True) for lag in (0, day))
    course = now + level[:, tail - day] - then
    level[:, tail] = torch.where(tail > last, course, level[:, tail])
    return level


def _latest(present: Tensor) -> Tensor:
    """[series, time]: the step of the latest sample, at or before each; 0 before the first."""
    steps = torch.arange(present.shape[1], device=present.device)
    return torch.where(present, steps, 0).cummax(dim=1).values


def _without_dips(values: Tensor, before: Tensor, after: Tensor, present: Tensor) -> Tensor:
    """[series, time]: single samples far below both their neighbours have the value of the one before them.

    A counter that was reset gives such. A load that falls is believed at its second sample. `before` and `after` are
    the values with gaps filled from the one side and from the other.
    """
    if values.shape[1] < 3:
        return values
    step = (values[:, 1:] - before[:, :-1]).nan_to_num_(0.0)
    usual = step[:, ::NOISE_EVERY].abs().median(dim=1, keepdim=True).values
    far = (DIP * usual).clamp(min=LEAST_DIP)
    rows = (step.amin(dim=1) < -far[:, 0]).nonzero()[:, 0]
    if not len(rows):
        return values
    found, fallen = values[rows], step[rows] < -far[rows]
    risen = after[rows, 2:] - found[:, 1:-1] > far[rows]
    fallen[:, :-1] &= risen
    found[:, 1:] = torch.where(fallen & present[rows, 1:], before[rows, :-1], found[:, 1:])
    return values.index_copy(0, rows, found)
