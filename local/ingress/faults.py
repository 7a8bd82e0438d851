"""Faults that the ingress injects into one backend on demand; `serving/` itself has no fault switch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


class FaultRefusedError(ValueError):
    """The fault's description is not understood; nothing changed."""


@dataclass(frozen=True)
class Fault:
    """A share of requests answered 500 without asking the pod, and a delay before the pod is asked."""

    error_rate: float = 0.0
    delay_seconds: float = 0.0


NO_FAULT = Fault()


def parse_fault(document: Any) -> Fault:
    """A Fault from `{"error_rate": 0.2, "delay_seconds": 0.3}`; FaultRefusedError names what is wrong."""
    if not isinstance(document, dict):
        raise FaultRefusedError(f"a fault is a JSON object with error_rate and delay_seconds, not {document!r}")
    limits = {"error_rate": 1.0, "delay_seconds": 60.0}
    for key, value in document.items():
        if key not in limits:
            raise FaultRefusedError(f"unknown key {key!r}; allowed are {', '.join(limits)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limits[key]:
            raise FaultRefusedError(f"{key} = {value!r}: must be a number from 0 to {limits[key]:g}")
    return Fault(**{key: float(value) for key, value in document.items()})


class Faults:
    """The faults in force, by the name of a revision or of a Service."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}

    def set(self, backend: str, fault: Fault) -> None:
        """Put `fault` in force, in place of the backend's former one."""
        self._faults[backend] = fault

    def clear(self, backend: str) -> bool:
        """End the backend's fault; False if it had none."""
        return self._faults.pop(backend, None) is not None

    def of(self, backend: str) -> Fault:
        """The backend's fault in force."""
        return self._faults.get(backend, NO_FAULT)

    def describe(self) -> dict[str, Any]:
        """All faults as JSON."""
        return {backend: asdict(fault) for backend, fault in sorted(self._faults.items())}
