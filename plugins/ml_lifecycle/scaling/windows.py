"""Log-load of a batch of series, looked at from a few origins: every so many steps back, and from the last steps.

Pure; torch. An origin is a time from which a forecast is, or would have been, made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from ml_lifecycle.scaling.gaps import fill

OFFSET = 0.5  # replicas; keeps the logarithm of an idle service finite and its noise small
USUAL_ORIGINS = 550


def stride_of(time: int) -> int:
    """Steps between origins; coprime to 60, so that they see every minute of the hour and not always the same."""
    stride = max(1, time // USUAL_ORIGINS)
    while math.gcd(stride, 60) > 1:
        stride -= 1
    return stride


def running_sum(values: Tensor) -> Tensor:
    """[series, time + 1], from 0."""
    running = values.new_zeros(values.shape[0], values.shape[1] + 1)
    torch.cumsum(values, dim=1, out=running[:, 1:])
    return running


@dataclass(frozen=True)
class Windows:
    """Log-loads relative to each series' mean."""

    level: Tensor  # [series, time], gaps filled
    seen: Tensor  # [series, time], -inf in gaps
    center: Tensor  # [series, 1]
    first: Tensor  # [series, 1]: step of the first sample
    fresh: Tensor  # [series]: whether there is a sample now
    known: Tensor  # [series]: whether anything is known of now
    stride: int
    phase: int  # steps since the newest origin of the grid
    last: int  # the last steps from which we also look

    @classmethod
    def of(cls, loads: Tensor, scale: Tensor, stride: int, phase: int, last: int, day: int) -> Windows:
        """`loads` [series, time] with NaN in gaps, `scale` [series, 1] the load of one replica, `day` in steps."""
        # In place where it can be: these are the largest tensors of a pass.
        filled = fill(loads.div(scale).add_(OFFSET).log_(), day)
        center = filled.level.mean(dim=1, keepdim=True)
        level = filled.level.sub_(center)
        whole = bool(filled.present.all())
        time = loads.shape[1]
        return cls(
            level=level,
            seen=level if whole else torch.where(filled.present, level, -torch.inf),
            center=center,
            first=filled.first,
            fresh=filled.fresh,
            known=filled.known,
            stride=stride,
            phase=min(phase, time - 1),
            last=min(last, time),
        )

    @property
    def time(self) -> int:
        """Steps."""
        return self.level.shape[1]

    @cached_property
    def origins(self) -> int:
        """Origins on the grid."""
        return max(1, (self.time - self.phase) // self.stride)

    @cached_property
    def at(self) -> Tensor:
        """[point] steps of the origins and then of the last steps."""
        now = self.time - 1
        newest = now - self.phase
        grid = torch.arange(newest - self.stride * (self.origins - 1), newest + 1, self.stride)
        return torch.cat([grid, torch.arange(now - self.last + 1, now + 1)]).to(self.level.device)

    def look(self, values: Tensor, offset: int) -> Tensor:
        """[series, point]: `values`, whose last is now, so many steps after each point (`offset` <= 0).

        Where that is before all values, the first of them.
        """
        end = values.shape[1] + offset
        newest = end - self.phase
        begin = newest - 1 - self.stride * (self.origins - 1)
        lacking = min(self.origins, max(0, math.ceil(-begin / self.stride)))
        first = values[:, :1]
        grid = values[:, begin + lacking * self.stride : max(0, newest) : self.stride]
        near = values[:, max(0, end - self.last) : max(0, end)]
        return torch.cat([first.expand(-1, lacking), grid, first.expand(-1, self.last - near.shape[1]), near], dim=1)

    def mean(self, steps: int, offset: int = 0) -> Tensor:
        """[series, point]: the mean level of the `steps` that end `offset` after each point, as far as there are."""
        return self._means.over(steps, offset)

    @cached_property
    def _means(self) -> Means:
        return Means(self, self.level)

    def highest_ahead(self, horizon: int) -> tuple[Tensor, Tensor]:
        """[series, origin]: the highest level of the next `horizon` steps, and whether they have all passed.

        Of what is missing nothing is known: then it is the highest of the others, and -inf where there are none.
        """
        ahead = pad(self.seen[:, 1:], (0, horizon), value=-torch.inf).flip(1)[:, self.phase :]
        highest = max_pool1d(ahead.unsqueeze(1), horizon, stride=self.stride).squeeze(1)[:, : self.origins].flip(1)
        origins = self.at[: self.origins]
        passed = (origins + horizon < self.time) & (origins >= self.first) & highest.isfinite()
        return highest, passed

    def coming(self, horizon: int) -> Tensor:
        """[series, time]: the highest level of the `horizon` steps after each, as far as they are known."""
        ahead = pad(self.level[:, 1:], (0, horizon), value=-torch.inf)
        highest = max_pool1d(ahead.unsqueeze(1), horizon, stride=1).squeeze(1)
        return torch.maximum(highest, self.level, out=highest)

    def overlap(self, horizon: int) -> float:
        """How many origins share a part of their horizons, at least 1: together they tell little more than one."""
        return max(1.0, horizon / self.stride)

    def weight(self, half_life: Tensor) -> Tensor:
        """[series, origin]: 1 for now, half of it one half-life [series, 1] ago."""
        age = (self.time - 1 - self.at[: self.origins]).float()
        return torch.exp2(-age / half_life)


class Means:
    """Means of `values` [series, time] before points; those that begin or end alike share what is looked up."""

    def __init__(self, windows: Windows, values: Tensor) -> None:
        self._windows = windows
        self._running = running_sum(values)
        self._found: dict[int, Tensor] = {}

    def over(self, steps: int, offset: int = 0) -> Tensor:
        """[series, point]: the mean of the `steps` that end `offset` after each point, as far as there are."""
        end = self._windows.at + 1 + offset
        count = end.clamp(min=0) - (end - steps).clamp(min=0)
        return (self._up_to(offset) - self._up_to(offset - steps)) / count.clamp(min=1)

    def mean(self) -> Tensor:
        """[series, 1]: of all values."""
        return self._running[:, -1:] / max(1, self._running.shape[1] - 1)

    def _up_to(self, offset: int) -> Tensor:
        if offset not in self._found:
            self._found[offset] = self._windows.look(self._running, offset)
        return self._found[offset]
