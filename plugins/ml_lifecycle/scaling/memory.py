"""What the last pass wrote on a scaler's status, as far as it can be read. Pure.

Status is written by this package, but it may be older than its schema, or have come through other hands: a field that
is not what it should be is forgotten, as if it had never been written.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time needs its zone")
    return text


_Time = Annotated[str, AfterValidator(_moment)]
_Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
_Figure = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Text = Annotated[str, Field(strict=True)]
_READ = ConfigDict(extra="ignore")


class _Forecast(TypedDict):
    __pydantic_config__ = _READ  # type: ignore[misc]
    expected: NotRequired[_Figure]
    peak: NotRequired[_Figure]
    model: NotRequired[_Text]
    skill: NotRequired[_Figure]
    horizonSeconds: NotRequired[_Count]


class _Period(TypedDict):
    __pydantic_config__ = _READ  # type: ignore[misc]
    direction: Literal["Up", "Down"]
    startTime: _Time
    replicas: _Count


class _Steering(TypedDict):
    __pydantic_config__ = _READ  # type: ignore[misc]
    missedPercent: Annotated[float, Field(strict=True, gt=0, le=100)]
    time: _Time


class _Target(TypedDict):
    __pydantic_config__ = _READ  # type: ignore[misc]
    kind: _Text
    name: _Text
    service: NotRequired[_Text]


class _Condition(TypedDict):
    __pydantic_config__ = _READ  # type: ignore[misc]
    type: _Text
    status: _Text
    reason: _Text
    message: _Text
    observedGeneration: NotRequired[_Count]
    lastTransitionTime: _Time


_FIELDS: Mapping[str, TypeAdapter[Any]] = {
    "observedGeneration": TypeAdapter(Annotated[int, Field(strict=True, ge=0, lt=2**63)]),
    "currentReplicas": TypeAdapter(_Count),
    "desiredReplicas": TypeAdapter(_Count),
    "predictedReplicas": TypeAdapter(_Count),
    "load": TypeAdapter(_Figure),
    "forecast": TypeAdapter(_Forecast),
    "capacityPerReplica": TypeAdapter(_Positive),
    "capacityOf": TypeAdapter(_Text),
    "leadTimeSeconds": TypeAdapter(_Count),
    "measuredTime": TypeAdapter(_Time),
    "lastScaleTime": TypeAdapter(_Time),
    "scalingPeriod": TypeAdapter(_Period),
    "steering": TypeAdapter(_Steering),
    "target": TypeAdapter(_Target),
}
_CONDITION: TypeAdapter[Any] = TypeAdapter(_Condition)
FIELDS = frozenset({*_FIELDS, "conditions"})


def remembered(status: Any) -> dict[str, Any]:
    """The fields of a status that are what they should be; of its conditions those that are."""
    if not isinstance(status, Mapping):
        return {}
    known = {key: status[key] for key in _FIELDS if key in status}
    found = {key: value for key, given in known.items() if (value := _read(_FIELDS[key], given)) is not None}
    given = status.get("conditions")
    conditions = [_read(_CONDITION, item) for item in given] if isinstance(given, list) else []
    if kept := [item for item in conditions if item is not None]:
        found["conditions"] = kept
    return found


def _read(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
