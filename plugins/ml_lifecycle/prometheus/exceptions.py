"""What can go wrong with a query."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError


class PrometheusError(LifecycleError):
    """The root of this domain's errors."""


class PrometheusUnavailableError(PrometheusError):
    """Prometheus did not answer, or answered that it cannot now, or only in part; a later try may succeed."""


class PrometheusTooHeavyError(PrometheusUnavailableError):
    """The query is more than Prometheus does now: too many samples or series, too long, too large an answer.

    A part of it may succeed: fewer names, a shorter time. A Prometheus that hangs looks the same.
    """


class PrometheusQueryError(PrometheusError):
    """Prometheus refuses the query, for what it says (400) or for the data that it meets (422); no retry helps."""
