"""The learning rate: linear warm-up, then half a cosine down to nothing. Pure.

Source: Loshchilov & Hutter, "SGDR" (2017), without restarts; warm-up as in Goyal et al. (2017).
"""

from __future__ import annotations

import math

WARM_UP = 0.1


def rate_factor(step: int, steps: int) -> float:
    """Share of the peak learning rate in the step-th of `steps` steps, both from 0: above 0 and at most 1."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
