"""Settings of the scaler's own task; they count for all services and are read from the defaults."""

from __future__ import annotations

from typing import Annotated

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
    own_queries: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")], ...] | None = Field(
        default=None,
        description="namespaces whose MLScalers may use metric.query, which reads any metric with the task's rights; "
        "none given: all; an empty list: nobody. Presets read their own namespace alone. Counts in `defaults` only",
    )
