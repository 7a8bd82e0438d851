"""What every group of settings is, and the kinds of values that several of them hold."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MODEL_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def _model_name(name: str) -> str:
    if not MODEL_NAME.fullmatch(name):
        raise ValueError(
            "must start with a letter and hold at most 40 lower-case letters, digits and hyphens, not ending in a "
            "hyphen: Kubernetes and Yandex refuse other names"
        )
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A group of settings: frozen, unknown keys are refused, and a refusal shows nothing of what was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
