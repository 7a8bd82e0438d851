"""What the evidence refuses to hold."""

from __future__ import annotations

from ml_lifecycle.exceptions import LifecycleError


class OddCountsError(LifecycleError, ValueError):
    """Numbers that no look can have counted: negative, not finite, or more errors than requests."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{field} = {value!r} was never counted: it {allowed}; see what gives this number")
