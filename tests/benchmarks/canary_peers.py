"""What the peers' rules decide on the same streams. A rule that has not rolled back at its schedule's end promotes.

The schedule is theirs: ten checks at each of 5, 10, 25 and 50 %, one a minute, then 100 %. Rules and defaults are as
documented for Flagger 1.44 (request-success-rate ≥ 99 % over 1 m, threshold 5), Argo Rollouts 1.9 (the documented
success-rate template ≥ 99 % over 5 m, failureLimit 3), the same with 1.5 times the stable side's rate as the limit,
and Kayenta's Netflix judge (Mann-Whitney at 98 % confidence, tolerance 0.25, on the series of each minute's error
rate since the start, judged at the end of each step). All are emulations, not the programs.
"""

from collections.abc import Callable

import numpy as np

from tests.benchmarks.canary_streams import STEP_LOOKS, Streams

CHECKS = 4 * STEP_LOOKS
_Z_98 = 2.326


def _rate(errors: np.ndarray, requests: np.ndarray) -> np.ndarray:
    return errors / np.maximum(requests, 1)


def _window(values: np.ndarray, minutes: int) -> np.ndarray:
    """Sums over the last `minutes` looks."""
    total = np.cumsum(values[:, :CHECKS], axis=1)
    total[:, minutes:] -= total[:, :-minutes].copy()
    return total


def flagger(streams: Streams) -> np.ndarray:
    """Rolled back at the fifth failed check; a minute without requests fails it, too ("no values found")."""
    n, e = streams.canary_n[:, :CHECKS], streams.canary_e[:, :CHECKS]
    return ((_rate(e, n) > 0.01) | (n == 0)).sum(axis=1) >= 5


def argo(streams: Streams) -> np.ndarray:
    """Rolled back at the fourth failed measurement; one without requests is inconclusive here, which users write."""
    n, e = _window(streams.canary_n, 5), _window(streams.canary_e, 5)
    return (_rate(e, n) > 0.01).sum(axis=1) > 3


def relative(streams: Streams) -> np.ndarray:
    """Argo's rule with 1.5 times the stable side's error rate of the same five minutes."""
    canary = _rate(_window(streams.canary_e, 5), _window(streams.canary_n, 5))
    stable = _rate(_window(streams.stable_e, 5), _window(streams.stable_n, 5))
    return (canary > 1.5 * stable).sum(axis=1) > 3


def kayenta(streams: Streams) -> np.ndarray:
    """Rolled back where the lower bound of the Hodges-Lehmann shift exceeds a quarter of the shift's estimate."""
    canary = _rate(streams.canary_e, streams.canary_n).astype(np.float32)
    stable = _rate(streams.stable_e, streams.stable_n).astype(np.float32)
    failed = np.zeros(len(canary), dtype=bool)
    for looks in range(STEP_LOOKS, CHECKS + 1, STEP_LOOKS):
        differences = (canary[:, :looks, None] - stable[:, None, :looks]).reshape(len(canary), -1)
        middle = looks * looks // 2
        lowest = max(0, int(looks * looks / 2 - _Z_98 * np.sqrt(looks * looks * (2 * looks + 1) / 12)))
        ordered = np.partition(differences, [lowest, middle], axis=1)
        failed |= ordered[:, lowest] > 0.25 * np.abs(ordered[:, middle])
    return failed


PEERS: dict[str, Callable[[Streams], np.ndarray]] = {
    "Flagger": flagger,
    "Argo": argo,
    "1.5× stable": relative,
    "Kayenta": kayenta,
}
