"""What can go wrong with a query."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError


class PrometheusError(LifecycleError):
    """The root of this domain's errors."""


class PrometheusUnavailableError(PrometheusError):
    """Prometheus did not answer, or answered that it cannot now; a later try may succeed."""


class PrometheusQueryError(PrometheusError):
    """Prometheus refuses the query; no retry helps."""
