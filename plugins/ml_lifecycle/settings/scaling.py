"""Settings of the scaler's own task; they count for all services and are read from the defaults."""

from __future__ import annotations

from pydantic import Field

from ml_lifecycle.settings.section import Section


class Scaling(Section):
    """How `scale_replicas` runs; what one service needs stands in its MLScaler."""

    history_cache: str = Field(
        default="",
        pattern=r"^(/.+)?$",
        description="folder on the workers' disks for load histories, so that a pass reads only what is new; for some "
        "hundred scalers and more. Counts in `defaults` only",
    )
