"""What became of the requests: counts by status and latency quantiles."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

RECENT = 20_000
"""Latencies kept for the quantiles."""


class Statistics:
    """Counts since the start or the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        self._statuses: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=RECENT)
        self._dropped = 0

    def answered(self, status: int, seconds: float) -> None:
        """Count a response."""
        self._statuses[str(status)] += 1
        self._latencies.append(seconds)

    def failed(self, reason: str) -> None:
        """Count a request that brought no response."""
        self._statuses[reason] += 1

    def dropped(self) -> None:
        """Count a request that was due while too many were under way."""
        self._dropped += 1

    def describe(self) -> dict[str, Any]:
        """Everything as JSON; latencies in seconds, of the most recent responses."""
        succeeded = sum(count for status, count in self._statuses.items() if status.startswith("2"))
        requests = self._statuses.total()
        ordered = sorted(self._latencies)
        quantiles = {f"p{percent}": _quantile(ordered, percent / 100) for percent in (50, 95, 99)}
        mean = sum(ordered) / len(ordered) if ordered else None
        return {
            "requests": requests,
            "succeeded": succeeded,
            "failed": requests - succeeded,
            "dropped": self._dropped,
            "statuses": dict(sorted(self._statuses.items())),
            "latency_seconds": {"mean": mean, **quantiles},
        }


def _quantile(ordered: list[float], quantile: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else None
