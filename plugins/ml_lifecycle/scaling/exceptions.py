"""What can go wrong with one scaler; none of it touches another scaler."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError, RefusalError


class ScalingError(LifecycleError):
    """Root of the domain's errors."""


class InvalidScalerError(ScalingError):
    """The MLScaler's spec breaks a rule; the message names the field, the value and what is allowed."""


class TargetMissingError(ScalingError):
    """What `targetRef` names does not exist, or has no replicas yet that could be changed."""


class TargetRefusedError(ScalingError):
    """The target exists but something else sets its replicas."""


class TargetOddError(ScalingError):
    """The target says of its replicas what cannot be."""


class MetricError(ScalingError):
    """The metric's query fails, or gives not exactly one series."""


class CacheFolderError(ScalingError):
    """The folder for load histories cannot be one."""


class ForecastMissingError(ScalingError, RefusalError):
    """The worker lacks what forecasts are made with."""


class PicturesRefusedError(ScalingError, RefusalError):
    """Pictures would be written outside of the data lake."""


class ScalingFailedError(ScalingError):
    """Not one scaler of a pass could be served; each carries its own error on its status."""
