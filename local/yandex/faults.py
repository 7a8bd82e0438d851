"""Faults on demand: the stand-in can be told to fail, to be slow, to lose an answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import grpc


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next `times` calls of `method` (`ClusterService.Create`, `JobService.*`, `*`).

    `after_id`: the call itself succeeds and its operation fails later. `clean_operation`: the job ends in ERROR
    but its operation ends without an error. `lost_response`: the call takes effect, then answers `code`.
    """

    method: str
    code: str = "UNAVAILABLE"
    message: str = "fault injected into the stand-in"
    times: int = 1
    delay_seconds: float = 0
    after_id: bool = False
    clean_operation: bool = False
    lost_response: bool = False

    def __post_init__(self) -> None:
        """Refuse a code that gRPC does not have."""
        if self.code != "OK" and not hasattr(grpc.StatusCode, self.code):
            raise ValueError(
                f"code {self.code!r} is no gRPC status; allowed are OK and {list(grpc.StatusCode.__members__)}"
            )

    @property
    def before(self) -> bool:
        """Whether it acts before the call has any effect."""
        return not (self.after_id or self.clean_operation or self.lost_response)


class Faults:
    """The faults in force, consumed call by call."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault | Mapping[str, Any] | None = None, /, **fields_of_fault: Any) -> Fault:
        """Put a fault in force; ValueError on unknown keys."""
        if not isinstance(fault, Fault):
            given = {**(fault or {}), **fields_of_fault}
            known = {field.name for field in fields(Fault)}
            if unknown := sorted(set(given) - known):
                raise ValueError(f"unknown key {unknown[0]!r} of a fault; allowed are {sorted(known)}")
            fault = Fault(**given)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault is in force any more."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, *, before: bool) -> Fault | None:
        """The fault that hits this call of `method`, one of its times used up."""
        service = method.partition(".")[0]
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.before is before and fault.method in (method, f"{service}.*", "*"):
                    if fault.times <= 1:
                        del self._faults[index]
                    else:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    return fault
        return None
